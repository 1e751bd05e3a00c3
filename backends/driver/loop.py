"""The driver's thread: sleeps until something has happened anywhere, reads the clock once, takes everything in.

Sources are the workers' messages, the exits of their processes, what clients ask, arrivals that are due, the
scheduler's deadline and workers that are silent or start for too long. All that happened meanwhile goes into one call
of the scheduler.

This module must not decide anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from backends.control.driver_channel import DriverChannel, Received
from backends.driver.arrivals import Arrivals
from backends.driver.driver import Driver
from backends.driver.fleet import Fleet
from backends.launch.port import Launcher
from backends.worker.mailbox import Mailbox
from kvsim.core.messages import RequestId, WorkerId

SLEEP_MAX_S = 1.0
"""Nothing depends on this; it bounds what a lost wake-up could cost."""
ABSENT_MIN_NS = 100_000_000
"""A driver that comes back so much later than it meant to, as a whole machine may stand still, has heard nobody
meanwhile: that is no silence of the workers."""

Ask: TypeAlias = Callable[[], None]
"""What a client wants, to be called by the driver's thread."""


@dataclass(slots=True)
class Decisions:
    """How long the scheduler's turns took, orders and observers included: what ``decision_ns`` is in a scenario."""

    calls: int = 0
    total_ns: int = 0
    longest_ns: int = 0

    def add(self, duration_ns: int) -> None:
        """One more turn."""
        self.calls += 1
        self.total_ns += duration_ns
        self.longest_ns = max(self.longest_ns, duration_ns)


class Loop:
    """``clock_ns`` is monotonic and read once a turn. The scheduler's instants count from ``begin``."""

    def __init__(
        self,
        driver: Driver,
        fleet: Fleet,
        channel: DriverChannel,
        launcher: Launcher,
        clock_ns: Callable[[], int],
        new_id: Callable[[], RequestId],
    ) -> None:
        self.arrivals = Arrivals()
        self.asked: Mailbox[Ask] = Mailbox()
        self._driver = driver
        self._fleet = fleet
        self._channel = channel
        self._launcher = launcher
        self._clock_ns = clock_ns
        self._new_id = new_id
        self._epoch_ns = self._looked_ns = clock_ns()
        self.decisions = Decisions()
        channel.wake_on(launcher.fileno())
        channel.wake_on(self.asked.fileno())

    def begin(self) -> None:
        """From now on requests are served: this is instant 0 of the scheduler."""
        self._epoch_ns = self._clock_ns()

    def launch(self, worker: WorkerId) -> None:
        """Start a worker that is away. Raises ControlError if that cannot be done."""
        self._fleet.launch(worker, self._clock_ns())

    @property
    def now_ns(self) -> int:
        """The scheduler's clock."""
        return self._clock_ns() - self._epoch_ns

    def turn(self) -> None:
        """Sleep until there is something, then one turn. Raises ServiceError if the workers cannot serve any more."""
        sleep_s = self._sleep_s()
        incoming = self._channel.receive(sleep_s)
        clock_ns = self._clock_ns()
        now_ns = clock_ns - self._epoch_ns
        absent_ns = clock_ns - self._looked_ns - int(sleep_s * 1e9)
        self._looked_ns = clock_ns
        if absent_ns >= ABSENT_MIN_NS:
            self._fleet.excuse(absent_ns, clock_ns)
        for message in incoming:
            if isinstance(message, Received):
                self._fleet.take(message, self._driver, clock_ns)
            else:
                self._fleet.refused(message)
        for notice in self._launcher.exits():
            self._fleet.exited(notice, self._driver)
        self._fleet.give_up_late(clock_ns)
        for ask in self.asked.take():
            ask()
        for submission in self.arrivals.due(now_ns):
            self._driver.submit(self._new_id(), submission)
        begun_ns = self._clock_ns()
        if self._driver.turn(now_ns):
            self.decisions.add(self._clock_ns() - begun_ns)

    def wind_down(self) -> None:
        """Sleep until there is something, then see which workers have ended: nothing is served any more."""
        self._channel.receive(self._sleep_s())
        for notice in self._launcher.exits():
            self._fleet.exited(notice, self._driver)

    @property
    def idle(self) -> bool:
        """Whether every request so far, and every arrival that was planned, is over."""
        return self._driver.idle and self.arrivals.next_ns is None

    def _sleep_s(self) -> float:
        """Until the next instant at which something is due by itself."""
        clock_ns = self._clock_ns()
        ours_ns = [self.arrivals.next_ns, self._driver.deadline_ns]
        due_ns = [at_ns + self._epoch_ns for at_ns in ours_ns if at_ns is not None]
        late_ns = self._fleet.deadline_ns()
        if late_ns is not None:
            due_ns.append(late_ns)
        return max(0.0, min([SLEEP_MAX_S, *((at_ns - clock_ns) / 1e9 for at_ns in due_ns)]))
