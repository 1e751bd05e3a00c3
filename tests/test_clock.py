"""The clock of the simulator: callbacks in order, beside processes of SimPy in the same environment."""

from collections.abc import Generator
from typing import Any

import pytest
from simpy.core import EmptySchedule

from kvsim.sim.clock import Clock


def test_callbacks_come_by_time_and_within_an_instant_in_the_order_in_which_they_were_asked_for() -> None:
    clock = Clock()
    seen: list[tuple[int, str]] = []
    for delay_ns, name in [(5, "b"), (3, "a"), (5, "c")]:
        clock.call_after(delay_ns, lambda name=name: seen.append((clock.now_ns, name)))  # type: ignore[misc]
    clock.run()
    assert seen == [(3, "a"), (5, "b"), (5, "c")]
    assert clock.is_empty
    with pytest.raises(EmptySchedule):
        clock.step()


def test_an_instant_is_over_when_the_next_callback_is_due_later() -> None:
    clock = Clock()
    seen: list[bool] = []

    def last() -> None:
        seen.append(clock.instant_is_over)

    def first() -> None:
        clock.call_after(0, last)
        clock.call_after(1, last)
        seen.append(clock.instant_is_over)

    clock.call_after(4, first)
    clock.run()
    assert seen == [False, True, True]


def test_processes_of_simpy_take_their_turn_among_the_callbacks() -> None:
    clock = Clock()
    seen: list[tuple[int, str]] = []

    def process() -> Generator[Any, Any, None]:
        for _ in range(3):
            yield clock.env.timeout(10)
            seen.append((clock.now_ns, "process"))
            clock.call_after(5, lambda: seen.append((int(clock.env.now), "callback")))

    clock.env.process(process())
    clock.call_after(20, lambda: seen.append((clock.now_ns, "first of its instant")))
    clock.run()
    assert seen == [
        (10, "process"),
        (15, "callback"),
        (20, "first of its instant"),
        (20, "process"),
        (25, "callback"),
        (30, "process"),
        (35, "callback"),
    ]


def test_nobody_waits_until_yesterday() -> None:
    with pytest.raises(AssertionError, match="a wait of -1 ns"):
        Clock().call_after(-1, lambda: None)
