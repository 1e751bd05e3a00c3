"""Drives the scheduler on real workers: all that happened since the last turn in, commands out, each carried out once.

The counterpart of ``kvsim.sim.driver``. One thread owns it. What workers report is checked before the scheduler hears
of it; tokens stay here, the scheduler counts them only. The driver decides nothing.

It must not know sockets, processes or a clock: instants are given, messages leave through ``send``.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from backends.control.messages import CancelTransfer, DriverMessage, Report, Stop
from backends.control.ranges import PeerLimits
from backends.control.report_checks import OrderedWork
from backends.driver.orders import OrderDesk, parties
from backends.driver.requests import RequestBook, Submission
from backends.driver.transfers import Settled, TransferLedger
from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import (
    ChooseMode,
    Command,
    DeadlineReached,
    DismissWorker,
    DrainWorker,
    EndLease,
    Event,
    FinishReason,
    FinishRequest,
    KeepRole,
    LeasesRenewed,
    RequestArrived,
    RequestCancelled,
    RequestId,
    RoleSwitched,
    StartTransfer,
    StopTransfer,
    SwitchRole,
    TransferDone,
    TransferFailed,
    TransferId,
    TransferReleased,
    WorkerId,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from kvsim.core.scheduler import Scheduler

_log = logging.getLogger("kvsim.driver")

Observer: TypeAlias = Callable[[int, Sequence[Event], Sequence[Command]], None]
"""Is shown every call of ``handle``, as in the simulator: ``(now_ns, events, commands)``."""

Watcher: TypeAlias = Callable[[WorkerId, Report], None]
"""Is shown every report that a worker made and that can be true: durations are in it, for calibration."""


class Client(Protocol):
    """Hears of the output of requests. Called by the driver's thread: it must return at once."""

    def on_tokens(self, request: RequestId, tokens: Sequence[int]) -> None:
        """More output tokens."""

    def on_finish(self, request: RequestId, why: FinishReason) -> None:
        """Nothing more comes."""


class Driver:
    """``send`` must not fail: a worker that cannot be told is reported as lost by whoever noticed."""

    def __init__(
        self,
        cluster: ClusterSpec,
        vocabulary: int,
        send: Callable[[WorkerId, DriverMessage], None],
        client: Client,
        observers: Sequence[Observer] = (),
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.scheduler = Scheduler(cluster)
        self.book = RequestBook()
        self.transfers = TransferLedger()
        self._limits = [PeerLimits(cluster.kv.layers, vocabulary, spec.kv_blocks) for spec in cluster.workers]
        self._work = [OrderedWork(spec.id, self._limits[spec.id]) for spec in cluster.workers]
        self._desk = OrderDesk(self.book)
        self._send = send
        self._client = client
        self._observers = tuple(observers)
        self._watchers = tuple(watchers)
        self._away = {spec.id for spec in cluster.workers if not spec.present}
        self._losing: list[WorkerId] = []
        self._joining: list[WorkerId] = []
        self._inbox: list[Event] = []
        self._later: list[Event] = []
        self._renewal_ns = cluster.policy.kv_lease_renewal_ns
        self._alive: dict[WorkerId, tuple[TransferId, ...]] = {}
        self._renewed_ns: dict[WorkerId, int] = {}

    # --- what happened ------------------------------------------------------------------------------------------------

    def submit(self, request: RequestId, submission: Submission) -> None:
        """A client sent a request, under an id that was never used."""
        self._inbox.append(RequestArrived(self.book.open(request, submission).to_core()))

    def report(self, worker: WorkerId, report: Report) -> None:
        """A worker reports. Raises Refusal if it cannot be true: then nothing of it was taken in."""
        self._work[worker].check(report)
        for watch in self._watchers:
            watch(worker, report)
        if isinstance(report.event, TransferDone | TransferReleased):
            self._settle(self.transfers.ended(worker, report.event))
            return
        for request, tokens in report.tokens.items():
            served = self.book.find(request)
            if served is not None:  # a cancelled request may get one token more
                served.outputs.extend(tokens)
                self._client.on_tokens(request, tokens)
        self._inbox.append(report.event)

    def alive(self, worker: WorkerId, transfers: tuple[TransferId, ...]) -> None:
        """A worker is well and at work on these transfers."""
        if self._renewal_ns is not None:
            self._alive[worker] = transfers

    def transfer_failed(self, worker: WorkerId, transfer: TransferId, reason: str) -> None:
        """A worker gave a transfer up. Raises Refusal if it had no part in it."""
        self._settle(self.transfers.gave_up(worker, transfer, reason))

    def severed(self, one: WorkerId, other: WorkerId) -> None:
        """Two workers that live on do not reach each other any more."""
        for settled in self.transfers.severed(one, other):
            self._settle(settled)

    def disconnected(self, survivor: WorkerId, lost: WorkerId) -> None:
        """Nothing that the lost worker began reaches the survivor's memory any more."""
        for settled in self.transfers.disconnected(survivor, lost):
            self._settle(settled)

    def worker_lost(self, worker: WorkerId) -> None:
        """A worker is gone for good: its process has ended. The scheduler hears of it when every other worker has let
        go of its transfers with it."""
        self._away.add(worker)
        self._losing.append(worker)
        for settled in self.transfers.lost(worker):
            self._settle(settled)

    def worker_joined(self, worker: WorkerId) -> None:
        """A worker is there and connected that was not. It knows nothing of what a predecessor was told."""
        self._joining.append(worker)

    def worker_leaving(self, worker: WorkerId) -> None:
        """A worker is to end once it has finished what it has."""
        self._inbox.append(WorkerLeaving(worker))

    def cancel(self, request: RequestId) -> None:
        """A client wants no more of a request. Harmless if it is over."""
        if self.book.find(request) is not None:
            arrives = any(isinstance(event, RequestArrived) and event.request.id == request for event in self._inbox)
            # within one instant arrivals come last, so one that is cancelled at once must arrive before
            (self._later if arrives else self._inbox).append(RequestCancelled(request))

    # --- a turn -------------------------------------------------------------------------------------------------------

    @property
    def deadline_ns(self) -> int | None:
        """The instant at which the scheduler wants a turn at the latest."""
        return self.scheduler.deadline_ns

    def turn(self, now_ns: int) -> bool:
        """The one place where the scheduler is called: with everything that happened since the last turn. Returns
        whether anything had happened."""
        deadline_ns = self.scheduler.deadline_ns
        if deadline_ns is not None and deadline_ns <= now_ns:
            self._inbox.append(DeadlineReached())
        self._renew_leases(now_ns)
        self._note_workers()
        if not self._inbox:
            return False
        while self._inbox:
            events, self._inbox, self._later = self._inbox, self._later, []
            self._handle(now_ns, events)
        return True

    def _handle(self, now_ns: int, events: list[Event]) -> None:
        commands = self.scheduler.handle(now_ns, events)
        for command in commands:
            self._carry_out(command)
        for observe in self._observers:
            observe(now_ns, events, commands)

    @property
    def idle(self) -> bool:
        """Whether every request is over and everything that it held is free again."""
        waiting = self._inbox or self._losing or self._joining or self.book
        return not waiting and not self.scheduler.requests_live

    def _note_workers(self) -> None:
        """Tell of workers that are lost and let go by all others, and of those that have come."""
        for worker in [worker for worker in self._losing if not self.transfers.involves(worker)]:
            self._losing.remove(worker)
            self._inbox.append(WorkerLost(worker))
        for worker in [worker for worker in self._joining if worker not in self._losing]:
            self._joining.remove(worker)
            self._away.discard(worker)
            self._desk.forget(worker)
            self._work[worker] = OrderedWork(worker, self._limits[worker])
            self._inbox.append(WorkerJoined(worker))

    def _renew_leases(self, now_ns: int) -> None:
        """Pass on who was heard of, each as often as leases ask for and no more; nobody while there is no request."""
        if not self.scheduler.requests_live:
            self._alive.clear()
            return
        for worker in [worker for worker in self._alive if worker not in self._away]:
            last_ns = self._renewed_ns.get(worker)
            if last_ns is None or now_ns - last_ns >= (self._renewal_ns or 0):
                self._renewed_ns[worker] = now_ns
                self._inbox.append(LeasesRenewed(worker, self._alive.pop(worker)))

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, FinishRequest):
            self.book.close(command.request)
            self._client.on_finish(command.request, command.why)
            return
        if isinstance(command, StopTransfer):
            self._settle(self.transfers.stop(command.transfer))
            return
        if isinstance(command, DismissWorker):
            self._away.add(command.worker)
            self._send(command.worker, Stop())
            return
        if isinstance(command, ChooseMode | EndLease | DrainWorker | KeepRole):
            return  # it says what the scheduler has decided, or will order
        if isinstance(command, SwitchRole):
            # a worker process computes whatever it is ordered, so it has changed when it has nothing left
            self._inbox.append(RoleSwitched(command.worker, command.switch))
            return
        concerned = parties(command)
        if not self._away.isdisjoint(concerned):
            return  # WorkerLost is on its way; a peer that was told would take the successor for the lost one
        if isinstance(command, StartTransfer):
            self.transfers.start(command)
        for worker in concerned:
            self._work[worker].ordered(command)
        for worker, order in self._desk.orders(command):
            self._send(worker, order)

    def _settle(self, settled: Settled) -> None:
        self._inbox.extend(settled.endings)
        if settled.failed is not None:
            transfer, reason = settled.failed
            _log.warning("transfer %s failed: %s", transfer, reason)
            self._inbox.append(TransferFailed(transfer))
        for worker, transfer in settled.cancel:
            self._send(worker, CancelTransfer(transfer))
