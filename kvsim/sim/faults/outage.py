"""A controller that is gone for a while and comes back from its record.

While it is away workers go on with what they were told, and what they report waits. A scheduler is then restored from
the record and hears what has waited: first that workers were alive and at work, as else it would take its own silence
for theirs and end every lease; then the reports of each instant by themselves, a nanosecond apart, since some of them
could not have come together. It must not know what else they say.
"""

from collections.abc import Callable, Sequence

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import Command, Event, LeasesRenewed, Record, TransferId, WorkerId
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
        alive = _signs_of_life(self._unheard)
        if alive:
            others = [[event for event in events if not isinstance(event, LeasesRenewed)] for events in self._unheard]
            self._unheard = [alive, *[events for events in others if events]]
        self._hear_next()

    def _hear_next(self) -> None:
        if not self._unheard:
            self.away = False
            return
        self._tell(self._unheard.pop(0))
        self._clock.call_after(1, self._hear_next)


def _signs_of_life(unheard: Sequence[Sequence[Event]]) -> list[Event]:
    """All that workers have said of being at work, as one report each."""
    transfers: dict[WorkerId, dict[TransferId, None]] = {}
    for events in unheard:
        for event in events:
            if isinstance(event, LeasesRenewed):
                transfers.setdefault(event.worker, {}).update(dict.fromkeys(event.transfers))
    return [LeasesRenewed(worker, tuple(each)) for worker, each in sorted(transfers.items())]
