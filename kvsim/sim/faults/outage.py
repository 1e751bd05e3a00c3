"""A controller that is gone for a while and comes back from its record.

While it is away workers go on with what they were told, and what they report waits. A scheduler is then restored from
the record and hears what has waited: the reports of each instant by
themselves, a nanosecond apart, since some of them could not have come together. It must not know what they say.
"""

from collections.abc import Callable, Sequence

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import Command, Event, Record
from kvsim.core.scheduler import Scheduler
from kvsim.sim.clock import Clock


class Outage:
    """``observe`` must see every call of the scheduler. ``tell`` hands events over, ``replace`` puts a scheduler in."""

    def __init__(
        self,
        clock: Clock,
        cluster: ClusterSpec,
        tell: Callable[[Sequence[Event]], None],
        replace: Callable[[Scheduler], None],
    ) -> None:
        self.away = False
        self._clock = clock
        self._cluster = cluster
        self._tell = tell
        self._replace = replace
        self._record: list[Record] = []
        self._unheard: list[Sequence[Event]] = []

    def observe(self, now_ns: int, events: Sequence[Event], commands: Sequence[Command]) -> None:
        """Keep what the scheduler was told and what it said."""
        self._record.append(Record(now_ns, tuple(events), tuple(commands)))

    def keep(self, events: Sequence[Event]) -> None:
        """Reports of one instant that nobody hears now."""
        self._unheard.append(events)

    def begin(self) -> None:
        """The controller is gone."""
        self.away = True

    def end(self) -> None:
        """It is back: where it was, and behind."""
        self._replace(Scheduler.restore(self._cluster, self._record))
        self._hear_next()

    def _hear_next(self) -> None:
        if not self._unheard:
            self.away = False
            return
        self._tell(self._unheard.pop(0))
        self._clock.call_after(1, self._hear_next)
