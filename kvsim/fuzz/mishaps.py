"""What goes wrong in a fuzzed cluster.

Workers are lost, hang, join and leave; links between two are cut, on one path or on all, and come back; transfers fail
at any moment, bring what belongs to somebody else, or end without anybody being told; reports come twice, or late and
from workers that are gone; clients go away. What a driver promises, it keeps: nothing of a lost worker goes on, and a
transfer that is to be stopped ends.

It must not know how requests fare.
"""

from collections import Counter, deque
from collections.abc import Callable

from kvsim.core.messages import (
    DecodeAdvanced,
    Event,
    LayersReady,
    PrefillDone,
    RequestCancelled,
    RequestId,
    RoleSwitched,
    RunDecode,
    TransferDone,
    TransferFailed,
    TransferId,
    TransferReleased,
    WorkerId,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from kvsim.fuzz.choices import Choices
from kvsim.fuzz.ground import Ground
from kvsim.fuzz.holdings import Moving

SAID_MAX = 40
"""So many reports are remembered, to be said again."""


class Mishaps:
    """``hung`` are workers that do nothing and say nothing. ``happened`` counts what went wrong, by kind."""

    def __init__(self, ground: Ground, choices: Choices, happened: Counter[str]) -> None:
        self.hung: set[WorkerId] = set()
        self._ground = ground
        self._attendance = ground.attendance
        self._choices = choices
        self._happened = happened
        self._cuts: set[tuple[WorkerId, WorkerId, int]] = set()  # source, target, path
        self._said: deque[Event] = deque(maxlen=SAID_MAX)
        self._unsaid: list[Event] = []  # by workers that were lost in this instant
        self._changed: set[WorkerId] = set()
        self._kinds: tuple[tuple[str, Callable[[], list[Event]]], ...] = (
            ("failed", self._fail),
            ("lost", self._lose),
            ("joined", self._join_one),
            ("leaving", self._leave),
            ("cancelled", self._cancel),
            ("said again", self._say_again),
            ("hung", self._hang),
            ("link cut", self._cut),
            ("link mended", self._mend_one),
            ("stale", self._read_stale),
            ("never said", self._fall_silent),
        )

    def begin(self, now_ns: int) -> None:
        """A new instant. What a worker would have said when it was lost may come from now on: in the instant of the
        loss it would count as said before."""
        del now_ns
        self._changed.clear()
        self._said.extend(self._unsaid)
        self._unsaid.clear()

    def one(self) -> list[Event]:
        """One of them, if it can happen now."""
        kind, happen = self._choices.pick(self._kinds)
        events = happen()
        if events:
            self._happened[kind] += 1
        return events

    def say(self, event: Event) -> None:
        """A worker has reported this; it may do so again. Only an end is an end twice: progress is counted."""
        if not isinstance(event, DecodeAdvanced) or event.ended:
            self._said.append(event)

    # --- what is as it was --------------------------------------------------------------------------------------------

    def mend(self) -> None:
        """The faults are over: links are up, and who hung goes on."""
        self._cuts.clear()
        self.hung.clear()

    def away(self) -> list[WorkerId]:
        """Workers that can come back in this instant."""
        return [worker for worker in self._attendance.away() if worker not in self._changed]

    def join(self, worker: WorkerId) -> Event:
        """A worker is there."""
        self._attendance.present[worker] = True
        self._changed.add(worker)
        return WorkerJoined(worker)

    def goes_on(self, moving: Moving) -> bool:
        """Whether something more is to be heard of a transfer: not of a silent one, unless it was told to stop."""
        hangs = not self.hung.isdisjoint(moving.movers())
        return not hangs and (not moving.silent or moving.stopped)

    def fails(self, moving: Moving) -> bool:
        """Whether a transfer that goes on cannot but fail."""
        command = moving.command
        return moving.silent or (command.source, command.target, command.path) in self._cuts

    def alive(self) -> list[tuple[WorkerId, tuple[TransferId, ...]]]:
        """The workers that are well, each with the transfers that it is at work on."""
        return [
            (worker, tuple([moving.command.transfer for moving in self._moved_by(worker)]))
            for worker in self._attendance.there()
            if worker not in self.hung
        ]

    def _moved_by(self, worker: WorkerId) -> list[Moving]:
        moving = self._ground.moving.values()
        return [each for each in moving if worker in each.movers() and not (each.silent or each.done)]

    # --- workers ------------------------------------------------------------------------------------------------------

    def _worker(self, *, present: bool) -> WorkerId | None:
        """One that is there, or one that is not; at most one change a worker and an instant."""
        worker = WorkerId(self._choices.below(len(self._attendance.present)))
        fits = self._attendance.present[worker] == present and worker not in self._changed
        return worker if fits else None

    def _lose(self) -> list[Event]:
        """Everything of the worker is gone; what it would have reported comes late, if at all."""
        worker = self._worker(present=True)
        if worker is None:
            return []
        self._changed.add(worker)
        self.hung.discard(worker)
        switch = self._attendance.lose(worker)
        if switch is not None:
            self._unsaid.append(RoleSwitched(worker, switch.switch))
        runs, transfers = self._ground.lose(worker)
        for run in runs:
            number = run.command.run
            if isinstance(run.command, RunDecode):
                self._unsaid.append(DecodeAdvanced(worker, number, 1, 1_000_000, 0, ended=True))
            else:
                self._unsaid += [PrefillDone(worker, number), LayersReady(worker, number, 1)]
        for moving in transfers:
            transfer, generation = moving.command.transfer, moving.command.generation
            self._unsaid += [TransferDone(transfer, generation), TransferReleased(transfer), TransferFailed(transfer)]
        return [WorkerLost(worker)]

    def _join_one(self) -> list[Event]:
        worker = self._worker(present=False)
        return [] if worker is None else [self.join(worker)]

    def _leave(self) -> list[Event]:
        worker = self._worker(present=True)
        if worker is None:
            return []
        self._attendance.leave(worker)
        self._changed.add(worker)
        return [WorkerLeaving(worker)]

    def _hang(self) -> list[Event]:
        """A worker hangs, or one that hung goes on. Nobody is told."""
        worker = self._worker(present=True)
        if worker is not None:
            self.hung ^= {worker}
            self._happened["hung"] += worker in self.hung
        return []

    # --- links and transfers ------------------------------------------------------------------------------------------

    def _cut(self) -> list[Event]:
        """Transfers from one worker to another fail, on one path or on all of them, until the link is mended."""
        if self._ground.moving:
            command = self._moving().command
            workers = self._ground.spec.workers
            paths = min(workers[command.source].paths, workers[command.target].paths)
            cut = (command.path,) if self._choices.below(2) else range(paths)
            self._cuts |= {(command.source, command.target, path) for path in cut}
            self._happened["link cut"] += 1
        return []

    def _mend_one(self) -> list[Event]:
        if self._cuts:
            self._cuts.discard(sorted(self._cuts)[self._choices.below(len(self._cuts))])
        return []

    def _fail(self) -> list[Event]:
        """A transfer fails, before its bytes have moved, half-way or after one of its reports."""
        if not self._ground.moving:
            return []
        transfer = self._moving().command.transfer
        del self._ground.moving[transfer]
        event = TransferFailed(transfer)
        self.say(event)
        return [event]

    def _read_stale(self) -> list[Event]:
        """A transfer brings what belongs to nobody."""
        waiting = [moving for moving in self._ground.moving.values() if moving.found is None and self.goes_on(moving)]
        if not waiting:
            return []
        moving = self._choices.pick(waiting)
        moving.found = self._choices.pick((0, moving.command.generation + 1))
        event = self._ground.arrive(moving)
        self.say(event)
        if moving.released:
            del self._ground.moving[event.transfer]
        return [event]

    def _fall_silent(self) -> list[Event]:
        """The next report of a transfer is never said. Only a lease helps."""
        if self._ground.spec.policy.kv_lease_ns is not None and self._ground.moving:
            moving = self._moving()
            if moving.done:
                del self._ground.moving[moving.command.transfer]
            moving.silent = True
            self._happened["never said"] += 1
        return []

    def _moving(self) -> Moving:
        return self._choices.pick(list(self._ground.moving.values()))

    # --- reports and clients ------------------------------------------------------------------------------------------

    def _say_again(self) -> list[Event]:
        return [self._choices.pick(self._said)] if self._said else []

    def _cancel(self) -> list[Event]:
        if not self._ground.arrived:
            return []
        request = RequestId(self._choices.below(self._ground.arrived))
        self._ground.cancelled.add(request)
        return [RequestCancelled(request)]
