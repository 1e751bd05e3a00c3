"""One schedule: a cluster without durations in which everything that can go wrong does, and the scheduler in charge.

It plays the driver. At each instant one to three things happen, in an order that chance decides: work goes on, requests
arrive, workers show that they are alive, and while requests arrive, mishaps. Then the faults end, and everything must
come to its end within a bound: each request exactly once, with nothing left over, and the same commands when the record
is replayed.

It must not look into the scheduler: what it asserts is what ``ground`` sees, and the scheduler's own conservation laws.
"""

from collections import Counter
from typing import TypeAlias

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import (
    DeadlineReached,
    Event,
    LeasesRenewed,
    Record,
    Request,
    RequestArrived,
    RequestId,
    RoleSwitched,
    RunPrefill,
    SwitchRole,
    TransferDone,
    TransferFailed,
    TransferReleased,
    WorkerId,
)
from kvsim.core.scheduler import Scheduler
from kvsim.fuzz.choices import Choices
from kvsim.fuzz.ground import Ground
from kvsim.fuzz.holdings import Moving, Run, Want
from kvsim.fuzz.mishaps import Mishaps

CALLS_PER_REQUEST_MAX = 1000
"""More calls of the scheduler than this for each request mean that they get nowhere."""

_Doing: TypeAlias = Run | Moving | SwitchRole | WorkerId | None


class World:
    """``faults_permille`` of what happens is a mishap while requests still arrive. ``happened`` counts them by kind."""

    def __init__(self, spec: ClusterSpec, wants: list[Want], choices: Choices, faults_permille: int) -> None:
        self.spec = spec
        self.scheduler = Scheduler(spec)
        self.records: list[Record] = []
        self.ground = Ground(spec, wants)
        self.happened: Counter[str] = Counter()
        self._wants = wants
        self._choices = choices
        self._faults_permille = faults_permille
        self._mishaps = Mishaps(self.ground, choices, self.happened)
        self._now_ns = 0
        self._renewed_ns = 0

    @property
    def ends(self) -> dict[RequestId, str]:
        """Why each request that is over has ended."""
        return dict(self.ground.ends)

    def play(self) -> None:
        """To the end. Raises AssertionError, or whatever the scheduler raises, if something is not as it must be."""
        calls_max = CALLS_PER_REQUEST_MAX * len(self._wants)
        while len(self.ground.ends) < len(self._wants) or self.scheduler.requests_live:
            ended = len(self.ground.ends)
            assert len(self.records) < calls_max, f"no end in sight: {ended} of {len(self._wants)} requests ended"
            self._call(self._happenings())
        self.ground.assert_empty()
        Scheduler.restore(self.spec, self.records)

    def _call(self, events: list[Event]) -> None:
        """One call of the scheduler. The record has its events even if it fails."""
        self.records.append(Record(self._now_ns, tuple(events), ()))
        commands = self.scheduler.handle(self._now_ns, events)
        self.records[-1] = Record(self._now_ns, tuple(events), tuple(commands))
        self.scheduler.check()
        for command in commands:
            self.ground.carry_out(command)

    # --- what happens -------------------------------------------------------------------------------------------------

    def _happenings(self) -> list[Event]:
        """What happens at the next instant."""
        self._pass_time()
        self._mishaps.begin(self._now_ns)
        events: list[Event] = []
        for _ in range(self._choices.pick((1, 1, 1, 2, 3))):
            if self._faulty() and self._choices.happens(self._faults_permille):
                events += self._mishap()
            else:
                events += self._progress()
        events += self._renewals()
        deadline_ns = self.scheduler.deadline_ns
        events = events or self._progress()
        if not events:
            assert deadline_ns is not None, f"deadlock: {self.scheduler.requests_live} requests wait for nothing"
            self._now_ns = max(self._now_ns, deadline_ns)
        if deadline_ns is not None and deadline_ns <= self._now_ns:
            events.append(DeadlineReached())
        return events

    def _pass_time(self) -> None:
        """A little, or until the scheduler wants to be asked, and never much past that."""
        later_ns = self._now_ns + self._choices.pick((1, 0, 5))
        deadline_ns = self.scheduler.deadline_ns
        if deadline_ns is not None:
            late = later_ns > deadline_ns or self._choices.happens(50)
            later_ns = max(self._now_ns, deadline_ns) if late else later_ns
        self._now_ns = later_ns

    def _faulty(self) -> bool:
        return self.ground.arrived < len(self._wants)

    def _mishap(self) -> list[Event]:
        if self._choices.below(40) == 39 and "restart" not in self.happened:
            self.happened["restart"] += 1
            self.scheduler = Scheduler.restore(self.spec, self.records)
        return self._mishaps.one()

    def _progress(self) -> list[Event]:
        """One thing goes on."""
        mishaps, ground = self._mishaps, self.ground
        doing: list[_Doing] = [run for run in ground.runs.values() if run.command.worker not in mishaps.hung]
        doing += [switch for worker, switch in ground.attendance.switching.items() if worker not in mishaps.hung]
        doing += [moving for moving in ground.moving.values() if mishaps.goes_on(moving)]
        if self._faulty():
            doing.append(None)
        else:
            mishaps.mend()
            doing += mishaps.away()
        if not doing:
            return []
        chosen = self._choices.pick(doing)
        if isinstance(chosen, Run):
            event = ground.compute(chosen) if isinstance(chosen.command, RunPrefill) else ground.decode(chosen)
            mishaps.say(event)
            return [event]
        if isinstance(chosen, Moving):
            return [self._move(chosen)]
        if isinstance(chosen, SwitchRole):
            del ground.attendance.switching[chosen.worker]
            switched = RoleSwitched(chosen.worker, chosen.switch)
            mishaps.say(switched)
            return [switched]
        if chosen is not None:
            return [mishaps.join(chosen)]
        request_id, want = RequestId(ground.arrived), self._wants[ground.arrived]
        ground.arrived += 1
        request = Request(request_id, want.prompt_tokens, want.output_tokens_max, want.labels)
        return [RequestArrived(request)]

    def _move(self, moving: Moving) -> Event:
        """The next of the two reports of a transfer, which may come in either order, or that it has failed."""
        transfer = moving.command.transfer
        event: TransferDone | TransferReleased | TransferFailed
        if self._mishaps.fails(moving) or (moving.stopped and self._choices.below(2)):
            event = TransferFailed(transfer)
            del self.ground.moving[transfer]
        elif moving.done or (not moving.released and self._choices.happens(300)):
            self.ground.read(moving)
            moving.released = True
            event = TransferReleased(transfer)
        else:
            event = self.ground.arrive(moving)
        if moving.done and moving.released:
            del self.ground.moving[transfer]
        self._mishaps.say(event)
        return event

    def _renewals(self) -> list[Event]:
        """Who is alive shows it, in time unless that is forgotten for once."""
        every_ns = self.spec.policy.kv_lease_renewal_ns
        if every_ns is None or self._now_ns - self._renewed_ns < every_ns:
            return []
        self._renewed_ns = self._now_ns
        if self._faulty() and self._choices.happens(300):
            return []
        return [LeasesRenewed(worker, transfers) for worker, transfers in self._mishaps.alive()]
