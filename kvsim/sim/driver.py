"""Drives the scheduler in SimPy: reports of one instant in, commands out, each carried out once.

All that happens at one instant is collected and handed over in one call, after everything else that is due then. The
driver must not decide anything; what it knows beyond the core (durations, true output lengths) it never tells it.
"""

import gc
from collections.abc import Callable, Sequence
from typing import Final

from simpy.core import EmptySchedule

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import (
    AssignBlocks,
    ChooseMode,
    Command,
    CutDecode,
    DeadlineReached,
    DismissWorker,
    DrainWorker,
    EndLease,
    Event,
    FinishRequest,
    KeepRole,
    LeasesRenewed,
    ReleaseBlocks,
    Request,
    RequestArrived,
    RequestId,
    RoleSwitched,
    RunDecode,
    RunPrefill,
    StartTransfer,
    StopTransfer,
    SwitchRole,
    TransferDone,
    TransferId,
    TransferReleased,
)
from kvsim.core.scheduler import Scheduler
from kvsim.sim.clock import Clock
from kvsim.sim.faults.injector import FaultInjector, needs_record
from kvsim.sim.faults.outage import Outage
from kvsim.sim.faults.plan import Fault, FaultPlan
from kvsim.sim.hardware import Hardware
from kvsim.sim.network import Network
from kvsim.sim.transfers import TransferEngine
from kvsim.sim.truth import Truth
from kvsim.sim.workers import Worker, shared_devices, simulated_workers
from kvsim.workload import Workload

Observer = Callable[[int, Sequence[Event], Sequence[Command]], None]
"""Is shown every call of ``handle``: ``(now_ns, events, commands)``."""

OUTPUT_TOKENS_UNLIMITED: Final = 1 << 40

CALLS_IN_VAIN_MAX: Final = 100_000
"""So many deadlines and renewals in a row with nothing else and without an order: requests wait for nothing."""


class Simulation:
    """One run of one cluster on one workload. ``observers`` see each call of the scheduler as it happens.

    ``plan`` says what goes wrong; without one nothing does. ``unfinished`` counts requests that were still waiting when
    nothing could happen any more, as no worker was left to serve them.
    """

    def __init__(
        self,
        cluster: ClusterSpec,
        hardware: Hardware,
        workload: Workload,
        observers: Sequence[Observer] = (),
        plan: FaultPlan | None = None,
    ) -> None:
        self.scheduler = Scheduler(cluster)
        self.events_total = 0
        self.finished = 0
        self.unfinished = 0
        self._clock = Clock()
        self._workload = workload
        self._observers = tuple(observers)
        self._decision_ns = hardware.decision_ns
        truth = Truth(workload.prompt_tokens, workload.output_tokens)
        devices = shared_devices(self._clock, hardware)
        network = self._network = Network(self._clock, hardware)
        engine = TransferEngine(self._clock, network, hardware, devices, abortable=bool(plan))
        self._faults = (
            FaultInjector(self._clock, plan, cluster, hardware, network, engine, self._report) if plan else None
        )
        paced = self._faults.paced if self._faults is not None else None
        self._fleet = simulated_workers(self._clock, cluster, hardware, truth, self._report, devices, paced)
        self._transfers = engine
        self._workers: Sequence[Worker] = self._fleet.workers
        self._outage: Outage | None = None
        self._on: dict[type, Callable[..., None]] = {
            RunDecode: self._run_decode,
            CutDecode: self._cut_decode,
            RunPrefill: self._run_prefill,
            StartTransfer: self._start_transfer,
            ReleaseBlocks: self._release_blocks,
            AssignBlocks: self._assign_blocks,
            FinishRequest: self._finish_request,
            ChooseMode: self._only_say,
            EndLease: self._only_say,
            DrainWorker: self._change_of_mind,
            KeepRole: self._change_of_mind,
            SwitchRole: self._switch_role,
            StopTransfer: self._stop_transfer,
        }
        self._switch_ns = [worker.order_ns + worker.role_switch_ns + worker.report_ns for worker in hardware.workers]
        self._calls_in_vain = 0
        self._moving: dict[TransferId, StartTransfer] = {}
        self._renewal_ns = cluster.policy.kv_lease_renewal_ns
        changing = cluster.policy.roles is not None
        self._decode_workers = [worker.id for worker in cluster.workers if changing or worker.role == "decode"]
        self._inbox: list[Event] = []
        self._deadline_ns: int | None = None
        self._over = False
        self._arrivals_ns: list[int] = workload.arrival_ns.tolist()
        self._prompt_tokens: list[int] = workload.prompt_tokens.tolist()
        self._arrived = 0
        if plan and self._faults is not None:
            self._expect_faults(self._faults, plan, cluster)

    def _expect_faults(self, faults: FaultInjector, plan: FaultPlan, cluster: ClusterSpec) -> None:
        self._workers = faults.mortal(self._fleet)
        self._on |= {
            AssignBlocks: faults.transfers.assigned,
            ReleaseBlocks: faults.released,
            StartTransfer: faults.transfers.start,
            StopTransfer: faults.transfers.stop,
            DismissWorker: faults.dismissed,
        }
        if needs_record(plan):
            self._outage = faults.outage = Outage(self._clock, cluster, self._tell, self._put_in_charge)
            self._observers = (*self._observers, self._outage.observe)

    @property
    def now_ns(self) -> int:
        """The simulated instant."""
        return self._clock.now_ns

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What has gone wrong, in order."""
        return () if self._faults is None else tuple(self._faults.struck)

    def notes(self) -> list[str]:
        """What the user must be told of how durations came about."""
        return [*self._fleet.notes(), *self._network.notes()]

    def run(self) -> None:
        """Run until every request has finished or was rejected and everything that it held is free again."""
        if not self._arrivals_ns:
            return
        self._await_arrival()
        if self._faults is not None:
            self._faults.begin()
        if self._renewal_ns is not None:
            self._clock.call_after(self._renewal_ns, self._renew_leases)
        collects = gc.isenabled()
        gc.disable()  # a run leaves no reference cycles behind, but it would be walked through again and again
        try:
            self._run_to_end()
        finally:
            if collects:
                gc.enable()
        self.scheduler.check()

    def _run_to_end(self) -> None:
        clock = self._clock
        try:
            while not self._over:
                clock.step()
                if self._inbox and clock.instant_is_over:
                    self._dispatch()
        except EmptySchedule as error:
            self._end_in_vain(error)

    def _end_in_vain(self, cause: Exception | None) -> None:
        """Requests wait and nothing can happen any more: no worker is left to serve them, or that is a defect."""
        waiting = self._arrived - self.finished
        if self._faults is None or not self._faults.stranded():
            raise AssertionError(f"deadlock at {self.now_ns} ns: {waiting} requests wait for nothing") from cause
        self.unfinished = waiting
        self._over = True

    def _await_arrival(self) -> None:
        self._clock.call_after(self._arrivals_ns[self._arrived] - self.now_ns, self._arrive)

    def _arrive(self) -> None:
        """Report every request of this instant, then wait for the next."""
        workload = self._workload
        limit = workload.output_tokens_max or OUTPUT_TOKENS_UNLIMITED
        while self._arrived < len(self._arrivals_ns) and self._arrivals_ns[self._arrived] == self._clock.now_ns:
            request = RequestId(self._arrived)
            labels = workload.labels[request] if workload.labels else ()
            self._report(RequestArrived(Request(request, self._prompt_tokens[request], limit, labels)))
            self._arrived += 1
        if self._arrived < len(self._arrivals_ns):
            self._await_arrival()

    def _report(self, event: Event) -> None:
        self._inbox.append(event)

    def _dispatch(self) -> None:
        """The one place where the scheduler is called."""
        events, self._inbox = self._inbox, []
        if self._outage is not None and self._outage.away:
            self._outage.keep(events)
        else:
            self._tell(events)

    def _tell(self, events: Sequence[Event]) -> None:
        now_ns = self._clock.now_ns
        commands = self.scheduler.handle(now_ns, events)
        self.events_total += len(events)
        for observe in self._observers:
            observe(now_ns, events, commands)
        if not commands:
            self._count_in_vain(events)
        if self._decision_ns:
            self._carry_out_later(commands)
        else:
            self._carry_out(commands)
        self._await_deadline()

    def _carry_out_later(self, commands: list[Command]) -> None:
        self._clock.call_after(self._decision_ns, lambda: self._carry_out(commands))

    def _put_in_charge(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def _carry_out(self, commands: list[Command]) -> None:
        on = self._on
        for command in commands:
            on[type(command)](command)
        if self.finished == len(self._arrivals_ns) and not self.scheduler.requests_live:
            self._over = True

    def _count_in_vain(self, events: Sequence[Event]) -> None:
        """A scheduler that only asks to be woken again looks alive: this finds out that it is not."""
        in_vain = {type(event) for event in events} <= {DeadlineReached, LeasesRenewed}
        self._calls_in_vain = self._calls_in_vain + 1 if in_vain else 0
        if self._calls_in_vain == CALLS_IN_VAIN_MAX:
            self._end_in_vain(None)

    def _run_decode(self, command: RunDecode) -> None:
        self._workers[command.worker].run_decode(command)

    def _cut_decode(self, command: CutDecode) -> None:
        self._workers[command.worker].cut_decode(command.run)

    def _run_prefill(self, command: RunPrefill) -> None:
        self._workers[command.worker].run_prefill(command)

    def _start_transfer(self, command: StartTransfer) -> None:
        self._moving[command.transfer] = command
        self._transfers.start(command, self._transfer_done, self._transfer_released)

    def _stop_transfer(self, _command: StopTransfer) -> None:
        """A simulated transfer comes to its end by itself, which is soon."""

    def _release_blocks(self, command: ReleaseBlocks) -> None:
        self._workers[command.worker].release(command.request)

    def _assign_blocks(self, _command: AssignBlocks) -> None:
        """The blocks of a simulated worker hold no bytes."""

    def _only_say(self, _command: ChooseMode | EndLease) -> None:
        """Nothing to carry out: it says what the scheduler has decided."""

    def _change_of_mind(self, _command: DrainWorker | KeepRole) -> None:
        """It shows in what is ordered."""

    def _switch_role(self, command: SwitchRole) -> None:
        switched = RoleSwitched(command.worker, command.switch)
        if self._faults is not None:
            self._faults.report_later(command.worker, self._switch_ns[command.worker], switched)
            return
        self._clock.call_after(self._switch_ns[command.worker], lambda: self._report(switched))

    def _finish_request(self, command: FinishRequest) -> None:
        self.finished += 1
        if self._faults is not None:
            self._faults.finished(command)

    def _transfer_done(self, transfer: TransferId) -> None:
        """Simulated blocks do not change hands unnoticed: they are found to be what was ordered."""
        self._report(TransferDone(transfer, self._moving.pop(transfer).generation))

    def _transfer_released(self, transfer: TransferId) -> None:
        self._report(TransferReleased(transfer))

    def _renew_leases(self) -> None:
        """Every decode worker shows that it is alive, as often as leases ask for; not if nothing else happens at all,
        which is a deadlock."""
        if self.scheduler.requests_live and self._faults is not None:
            self._faults.renew_leases(self._decode_workers)
        elif self.scheduler.requests_live:
            for worker in self._decode_workers:
                carried = [command.transfer for command in self._moving.values() if command.target == worker]
                self._report(LeasesRenewed(worker, tuple(carried)))
        if self._renewal_ns is not None and not self._clock.is_empty:
            self._clock.call_after(self._renewal_ns, self._renew_leases)

    def _await_deadline(self) -> None:
        """Arm a timer for the scheduler's deadline; one that it has dropped meanwhile only asks once too often."""
        deadline_ns = self.scheduler.deadline_ns
        if deadline_ns is not None and deadline_ns != self._deadline_ns:
            self._deadline_ns = deadline_ns
            self._clock.call_after(deadline_ns - self.now_ns, self._report_deadline)

    def _report_deadline(self) -> None:
        self._report(DeadlineReached())
