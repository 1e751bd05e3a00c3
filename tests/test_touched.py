"""Whose turn it is among the workers that something has changed on: checked against a sorted set."""

from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.core.messages import WorkerId
from kvsim.core.touched import Touched


def test_those_marked_first_come_first_and_each_kind_by_id() -> None:
    touched = Touched(4)
    for worker, first in [(2, False), (3, True), (0, False), (1, True), (3, True)]:
        touched.add(WorkerId(worker), first=first)
    assert [touched.pop() for _ in range(5)] == [1, 3, 0, 2, None]


def test_what_is_dropped_has_no_turn() -> None:
    touched = Touched(100)
    touched.add(WorkerId(99), first=True)
    touched.add(WorkerId(98), first=False)
    touched.drop(WorkerId(99))
    touched.drop(WorkerId(97))
    assert [touched.pop(), touched.pop()] == [98, None]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["add", "drop", "pop"]), st.integers(0, 69)), max_size=60))
def test_any_history_is_that_of_a_sorted_set(history: list[tuple[str, int]]) -> None:
    touched, model = Touched(70), set[tuple[bool, int]]()
    for what, number in history:
        key = number % 3 != 0, number  # a third of the workers comes first
        if what == "add":
            touched.add(WorkerId(number), first=not key[0])
            model.add(key)
        elif what == "drop":
            touched.drop(WorkerId(number))
            model.discard(key)
        else:
            expected = min(model, default=None)
            model.discard(expected or (False, -1))
            assert touched.pop() == (None if expected is None else expected[1])
