"""Work on a shared device: how long it takes by hand, and laws against exact fractions."""

from collections.abc import Callable, Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.core.messages import FEMTOSECONDS_PER_NS as FS
from kvsim.sim.clock import Clock
from kvsim.sim.device import SharedDevice, Work


class World:
    """A device, and when each work on it ended: (ns, femtoseconds left)."""

    def __init__(self, slowdown: Sequence[float]) -> None:
        self.clock = Clock()
        self.device = SharedDevice(self.clock, slowdown)
        self.ends: dict[str, tuple[int, int]] = {}
        self.works: dict[str, Work] = {}

    def at(self, now_ns: int, action: Callable[[], None]) -> None:
        self.clock.call_after(now_ns, action)

    def begin_at(self, now_ns: int, name: str, work_fs: int) -> None:
        self.at(now_ns, lambda: self.begin(name, work_fs))

    def begin(self, name: str, work_fs: int) -> None:
        self.works[name] = self.device.begin(work_fs, lambda left_fs: self.end(name, left_fs))

    def end(self, name: str, left_fs: int) -> None:
        self.ends[name] = (self.clock.now_ns, left_fs)

    def run(self) -> dict[str, tuple[int, int]]:
        self.clock.run()
        return self.ends


def test_work_that_is_alone_takes_as_long_as_it_is() -> None:
    world = World([1.0, 2.0])
    world.begin_at(5, "a", 10 * FS + 300)
    assert world.run() == {"a": (15, 300)}
    assert world.device.busy == 0


def test_two_equal_works_take_twice_as_long_where_two_slow_each_other_down_by_two() -> None:
    world = World([1.0, 2.0])
    world.begin_at(0, "a", 10 * FS)
    world.begin_at(0, "b", 10 * FS)
    assert world.run() == {"a": (20, 0), "b": (20, 0)}


def test_one_that_joins_in_the_middle_slows_the_other_down_from_then_on() -> None:
    """a: 5 ns alone, then its other 5 ns take 10. b: 5 ns in those 10, then 5 ns alone."""
    world = World([1.0, 2.0])
    world.begin_at(0, "a", 10 * FS)
    world.begin_at(5, "b", 10 * FS)
    assert world.run() == {"a": (15, 0), "b": (20, 0)}


def test_three_on_a_table() -> None:
    """c: 30 ns at half the pace. a and b: 30 ns of 100 by then, the other 70 at a pace of 0.8 take 87.5 ns."""
    world = World([1.0, 1.25, 2.0])
    for name, work_ns in (("a", 100), ("b", 100), ("c", 30)):
        world.begin_at(0, name, work_ns * FS)
    assert world.run() == {"c": (60, 0), "a": (147, 400_000), "b": (147, 400_000)}


def test_beyond_the_table_the_device_does_no_more_in_all() -> None:
    """Two at 1.5 do 4/3 of what one does; four share the same, so each is at a third."""
    world = World([1.0, 1.5])
    for name in "abcd":
        world.begin_at(0, name, 100 * FS)
    (end_ns,) = {end_ns for end_ns, _ in world.run().values()}
    assert end_ns == 300


def test_an_occupant_without_work_slows_others_down_while_it_is_there() -> None:
    world = World([1.0, 2.0])
    world.begin_at(0, "a", 10 * FS)
    world.at(2, world.device.occupy)
    world.at(8, world.device.vacate)
    assert world.run() == {"a": (13, 0)}  # 2 + 3 of 6 + 5


def test_work_that_is_abandoned_makes_room_and_never_ends() -> None:
    world = World([1.0, 2.0])
    world.begin_at(0, "a", 10 * FS)
    world.begin_at(0, "b", 10 * FS)
    world.at(10, lambda: world.device.abandon(world.works["b"]))
    world.at(30, lambda: world.device.abandon(world.works["b"]))
    assert world.run() == {"a": (15, 0)}
    assert world.device.busy == 0


def test_milestones_come_when_so_much_of_the_work_is_done() -> None:
    world = World([1.0, 2.0])
    seen: list[tuple[int, str]] = []

    def see(name: str) -> None:
        seen.append((world.clock.now_ns, name))

    marks = [(2 * FS, lambda: see("2 ns")), (6 * FS, lambda: see("6 ns"))]

    def start() -> None:
        world.device.begin(10 * FS, lambda _: see("end"), marks)

    world.at(0, start)
    world.begin_at(4, "b", 4 * FS)
    world.run()
    assert seen == [(2, "2 ns"), (8, "6 ns"), (14, "end")]


def test_work_that_follows_at_once_does_not_let_others_go_faster_in_between() -> None:
    world = World([1.0, 2.0])
    world.begin_at(0, "a", 20 * FS)

    def again(left: int) -> None:
        if left:
            world.device.begin(2 * FS, lambda _: again(left - 1))

    world.at(0, lambda: again(5))
    assert world.run() == {"a": (30, 0)}  # 20 ns beside the five, then 10 of 20 are left


works = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 200 * FS)), min_size=1, max_size=8)
tables = st.lists(st.integers(0, 5), min_size=0, max_size=5).map(
    lambda rises: [1.0 + sum(rises[:count]) / 4 for count in range(len(rises) + 1)]
)


def exact_ends_ns(slowdown: Sequence[float], given_works: Sequence[tuple[int, int]]) -> list[Fraction]:
    """When each work ends, in exact fractions: walked from event to event."""

    def pace(busy: int) -> Fraction:
        known = min(busy, len(slowdown))
        return 1 / (Fraction(slowdown[known - 1]) * max(Fraction(1), Fraction(busy, known)))

    left = [Fraction(work_fs, FS) for _, work_fs in given_works]
    ends: list[Fraction | None] = [None] * len(given_works)
    now = Fraction(0)
    while None in ends:
        active = [i for i, (begin, _) in enumerate(given_works) if begin <= now and ends[i] is None]
        later = [Fraction(begin) for begin, _ in given_works if begin > now]
        steps = [begin - now for begin in later] + [left[i] / pace(len(active)) for i in active]
        step = min(steps)
        for i in active:
            left[i] -= step * pace(len(active))
        now += step
        for i in active:
            if left[i] == 0:
                ends[i] = now
    return [end for end in ends if end is not None]


@given(tables, works)
def test_ends_are_those_of_the_exact_fluid(slowdown: list[float], given_works: list[tuple[int, int]]) -> None:
    """Each end is rounded down to a nanosecond and each pace is 1e-6 off at most; both move the ends after them."""
    world = World(slowdown)
    for index, (begin_ns, work_fs) in enumerate(given_works):
        world.begin_at(begin_ns, str(index), work_fs)
    ends = world.run()
    for index, exact in enumerate(exact_ends_ns(slowdown, given_works)):
        end_ns, _ = ends[str(index)]
        assert end_ns == pytest.approx(float(exact), abs=1.01 * len(given_works) + 1e-5 * float(exact))


@given(st.integers(1, 8), works)
def test_where_nobody_slows_anybody_down_work_takes_as_long_as_alone(
    entries: int, given_works: list[tuple[int, int]]
) -> None:
    world = World([1.0] * max(entries, len(given_works)))
    for index, (begin_ns, work_fs) in enumerate(given_works):
        world.begin_at(begin_ns, str(index), work_fs)
    ends = world.run()
    for index, (begin_ns, work_fs) in enumerate(given_works):
        assert ends[str(index)] == (begin_ns + work_fs // FS, work_fs % FS)


@given(works)
def test_work_is_conserved(given_works: list[tuple[int, int]]) -> None:
    """A device that does as much in all however many are busy ends when it has done everything, without a pause."""
    world = World([1.0])
    for index, (_, work_fs) in enumerate(given_works):
        world.begin_at(0, str(index), work_fs)
    ends = world.run()
    total_ns = sum(work_fs for _, work_fs in given_works) / FS
    last_ns = max(end_ns for end_ns, _ in ends.values())
    assert last_ns == pytest.approx(total_ns, abs=1.01 * len(given_works) + 1e-5 * total_ns)
    assert world.device.busy == 0
