"""Heartbeats: a table of who is late when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.control.heartbeat import HeartbeatWatch
from kvsim.core.messages import WorkerId

A, B, C = WorkerId(0), WorkerId(1), WorkerId(2)


@pytest.mark.parametrize(
    ("now_ns", "late"),
    [(0, ()), (99, ()), (100, (A,)), (119, (A,)), (120, (A, C)), (150, (A, B, C)), (10**12, (A, B, C))],
)
def test_a_worker_is_late_once_it_was_silent_for_as_long_as_allowed(now_ns: int, late: tuple[WorkerId, ...]) -> None:
    watch = HeartbeatWatch(100)
    watch.beat(C, 20)
    watch.beat(A, 0)
    watch.beat(B, 50)
    assert watch.late(now_ns) == late


def test_a_beat_makes_a_late_worker_punctual_again() -> None:
    watch = HeartbeatWatch(100)
    watch.beat(A, 0)
    assert watch.late(100) == (A,)
    watch.beat(A, 130)
    assert watch.late(229) == ()
    assert watch.late(230) == (A,)


def test_nobody_is_watched_before_the_first_beat_or_after_being_forgotten() -> None:
    watch = HeartbeatWatch(100)
    assert (watch.late(10**9), watch.deadline_ns()) == ((), None)
    watch.beat(A, 0)
    watch.forget(A)
    watch.forget(B)
    assert (watch.late(10**9), watch.deadline_ns()) == ((), None)


def test_a_beat_of_the_past_changes_nothing() -> None:
    watch = HeartbeatWatch(100)
    watch.beat(A, 50)
    watch.beat(A, 10)
    assert watch.late(149) == ()
    assert watch.silence_ns(A, 149) == 99


def test_the_deadline_is_that_of_the_worker_that_was_silent_longest() -> None:
    watch = HeartbeatWatch(100)
    watch.beat(A, 7)
    watch.beat(B, 5)
    assert watch.deadline_ns() == 105
    watch.beat(B, 60)
    assert watch.deadline_ns() == 107


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1000)), max_size=20), st.integers(1, 300))
def test_the_first_instant_with_a_late_worker_is_the_deadline(beats: list[tuple[int, int]], allowed_ns: int) -> None:
    watch = HeartbeatWatch(allowed_ns)
    for worker, now_ns in beats:
        watch.beat(WorkerId(worker), now_ns)
    deadline_ns = watch.deadline_ns()
    if deadline_ns is None:
        assert not beats
    else:
        assert watch.late(deadline_ns - 1) == ()
        assert watch.late(deadline_ns) != ()


def test_silence_while_nobody_listened_does_not_count() -> None:
    watch = HeartbeatWatch(late_after_ns=100)
    watch.beat(WorkerId(0), 0)
    watch.beat(WorkerId(1), 170)
    watch.excuse(duration_ns=120, now_ns=180)
    assert watch.late(180) == ()
    assert (watch.silence_ns(WorkerId(0), 180), watch.silence_ns(WorkerId(1), 180)) == (60, 0)
    assert watch.late(220) == (WorkerId(0),)  # it was silent before and after as well
