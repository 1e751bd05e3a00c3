"""A processor or GPU on which several workers compute: how those that are busy slow each other down.

A fluid model (processor sharing; Kleinrock, Queueing Systems, volume 2, 1976, section 4.4): while k are busy, the work
of each goes on at ``1 / slowdown[k - 1]`` of the pace at which it runs alone. Beyond the measured table the device does
no more in all than with the most that were measured, so the slowdown grows in proportion to k.

Progress is exact: a pace is a whole number of femtoseconds of work per nanosecond (at most 1e-6 off the table), and
work ends at the nanosecond in which less than one at the present pace is left. It must not know what the work is.
"""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from kvsim.core.messages import FEMTOSECONDS_PER_NS
from kvsim.sim.clock import Clock
from kvsim.sim.flow import NEVER_NS


class Work:
    """A piece of work in progress, to be taken back with ``SharedDevice.abandon``."""

    __slots__ = ("finished", "live")

    def __init__(self, finished: Callable[[int], None]) -> None:
        self.finished = finished
        self.live = True


class SharedDevice:
    """Everything that is busy on one device. All of it progresses equally, so one counter serves all: work that begins
    when it stands at v is over when it has reached v + the work."""

    def __init__(self, clock: Clock, slowdown: Sequence[float]) -> None:
        assert slowdown, "a device without a slowdown"
        self._clock = clock
        self._slowdown = tuple(slowdown)
        self._paces = [FEMTOSECONDS_PER_NS]  # by number of busy ones; nobody is there to see that of none
        self._busy = 0
        self._progress_fs = 0
        self._updated_at_ns = 0
        self._ends: list[tuple[int, int, Work, Callable[[], None] | None]] = []  # a milestone has an action
        self._begun = 0
        self._timer_at_ns = NEVER_NS
        self._timer_generation = 0

    @property
    def busy(self) -> int:
        """How many are busy now."""
        return self._busy

    def begin(
        self,
        work_fs: int,
        finished: Callable[[int], None],
        milestones: Sequence[tuple[int, Callable[[], None]]] = (),
    ) -> Work:
        """Begin ``work_fs`` femtoseconds of work (the time that it takes alone). Calls ``finished`` with the
        femtoseconds that are left of it at the nanosecond in which it ends. Each of ``milestones`` is called when so
        much of the work is done."""
        self._change_busy(1)
        work = Work(finished)
        for done_fs, action in milestones:
            self._push(done_fs, work, action)
        self._push(work_fs, work, None)
        self._plan()
        return work

    def abandon(self, work: Work) -> None:
        """Nothing of this work will be called any more. Harmless if it is over."""
        if work.live:
            work.live = False
            self._change_busy(-1)
            self._plan()

    def occupy(self) -> None:
        """Someone is busy for as long as it takes, such as a transfer whose bytes the device copies."""
        self._change_busy(1)
        self._plan()

    def vacate(self) -> None:
        """The counterpart of ``occupy``."""
        self._change_busy(-1)
        self._plan()

    def _push(self, work_fs: int, work: Work, action: Callable[[], None] | None) -> None:
        heappush(self._ends, (self._progress_fs + work_fs, self._begun, work, action))
        self._begun += 1

    def _pace(self) -> int:
        """Femtoseconds of work per nanosecond that each busy one gets done now."""
        while len(self._paces) <= self._busy:
            busy, measured = len(self._paces), len(self._slowdown)
            slowdown = self._slowdown[min(busy, measured) - 1] * max(1.0, busy / measured)
            self._paces.append(max(1, round(FEMTOSECONDS_PER_NS / slowdown)))
        return self._paces[self._busy]

    def _advance(self) -> None:
        now_ns = self._clock.now_ns
        self._progress_fs += (now_ns - self._updated_at_ns) * self._pace()
        self._updated_at_ns = now_ns

    def _change_busy(self, by: int) -> None:
        self._advance()
        self._busy += by
        assert self._busy >= 0, "more have left the device than came"

    def _plan(self) -> None:
        """See to it that a timer fires no later than the next end: as in ``kvsim.sim.network``."""
        while self._ends and not self._ends[0][2].live:
            heappop(self._ends)
        if not self._ends:
            return
        wait_ns = (self._ends[0][0] - self._progress_fs) // self._pace()
        at_ns = self._updated_at_ns + wait_ns
        if at_ns >= self._timer_at_ns:
            return
        self._timer_at_ns = at_ns
        self._timer_generation += 1
        generation = self._timer_generation
        self._clock.call_after(wait_ns, lambda: self._on_timer(generation))

    def _on_timer(self, generation: int) -> None:
        if generation != self._timer_generation:
            return
        self._timer_at_ns = NEVER_NS
        self._advance()
        pace = self._pace()
        due = []
        while self._ends and self._ends[0][0] - self._progress_fs < pace:
            end_fs, _, work, action = heappop(self._ends)
            if not work.live:
                continue
            assert end_fs >= self._progress_fs, (end_fs, self._progress_fs)
            due.append((end_fs - self._progress_fs, work, action))
            if action is None:
                work.live = False
                self._busy -= 1
        for left_fs, work, action in due:
            if action is not None:
                action()
            else:
                work.finished(left_fs)
        self._plan()
