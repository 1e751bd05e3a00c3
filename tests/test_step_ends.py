"""Who ends first: by hand, and against a plain search through everybody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.core.messages import RequestId
from kvsim.core.step_ends import NEVER, StepEnds


def ends_of(steps: dict[int, int]) -> StepEnds:
    ends = StepEnds()
    for number, step in steps.items():
        ends.add(RequestId(number), step)
    return ends


def test_nobody_ends_among_none() -> None:
    ends = StepEnds()
    assert ends.first_step() == NEVER
    assert ends.ending(7) == []


def test_those_of_the_first_step_end_lowest_id_first() -> None:
    ends = ends_of({4: 9, 1: 12, 3: 9, 0: 9})
    assert ends.first_step() == 9
    assert ends.ending(8) == []
    assert ends.ending(9) == [0, 3, 4]


def test_asking_changes_nothing() -> None:
    ends = ends_of({1: 5})
    assert ends.ending(5) == ends.ending(5) == [1]
    assert ends.first_step() == 5


def test_one_that_left_does_not_end() -> None:
    ends = ends_of({1: 5, 2: 6})
    assert ends.first_step() == 5
    ends.remove(RequestId(1))
    assert ends.first_step() == 6
    ends.remove(RequestId(2))
    assert ends.first_step() == NEVER


def test_one_that_came_back_ends_once_and_at_its_new_step() -> None:
    ends = ends_of({1: 5})
    ends.remove(RequestId(1))
    ends.add(RequestId(1), 5)
    assert ends.ending(5) == [1]
    ends.remove(RequestId(1))
    ends.add(RequestId(1), 8)
    assert ends.first_step() == 8


def test_nobody_is_passed_over() -> None:
    with pytest.raises(AssertionError, match="ended at step 5, and it is step 6"):
        ends_of({1: 5}).ending(6)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=60))
def test_the_first_is_found_as_by_looking_at_all(changes: list[tuple[int, int]]) -> None:
    """Each change adds a request that is not there, or removes one that is."""
    ends, known = StepEnds(), dict[RequestId, int]()
    for number, step in changes:
        request = RequestId(number)
        if request in known:
            ends.remove(request)
            del known[request]
        else:
            ends.add(request, step)
            known[request] = step
        assert ends.first_step() == min(known.values(), default=NEVER)
        now = min(known.values(), default=0)
        assert ends.ending(now) == sorted(request for request, end in known.items() if end == now)
