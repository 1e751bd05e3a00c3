"""Lets the faults of a plan happen: to workers, links, transfers, clients and the controller.

Truth and report are two things: a worker is gone when it crashes, and the scheduler is told when somebody has noticed.
A worker is reported lost once the others have let go of their transfers with it, and of one worker at most one coming
or going is reported at an instant, as ``kvsim.core.messages`` asks. It must not decide anything that a scheduler
decides.
"""

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import (
    DismissWorker,
    Event,
    FinishRequest,
    LeasesRenewed,
    ReleaseBlocks,
    RequestCancelled,
    RequestId,
    WorkerId,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from kvsim.sim.clock import Clock
from kvsim.sim.faults.chances import Chances
from kvsim.sim.faults.links import DOWN, Links
from kvsim.sim.faults.outage import Outage
from kvsim.sim.faults.plan import Fault, FaultPlan
from kvsim.sim.faults.transfers import FallibleTransfers
from kvsim.sim.faults.workers import MortalWorker, PacedSteps
from kvsim.sim.flow import NEVER_NS
from kvsim.sim.hardware import Hardware
from kvsim.sim.network import Network
from kvsim.sim.step_times import StepTimes
from kvsim.sim.transfers import TransferEngine
from kvsim.sim.workers import Workers

STOPS = ("worker_crash", "worker_hang")


class FaultInjector:
    """``struck`` is the list of what really happened, in order; what struck nobody (a crash of a worker that was gone)
    is not in it. ``begin`` once everything is in place."""

    def __init__(
        self,
        clock: Clock,
        plan: FaultPlan,
        cluster: ClusterSpec,
        hardware: Hardware,
        network: Network,
        engine: TransferEngine,
        report: Callable[[Event], None],
    ) -> None:
        self.struck: list[Fault] = []
        self.outage: Outage | None = None
        self._clock = clock
        self._plan = plan
        self._cluster = cluster
        self._decision_ns = hardware.decision_ns
        self._report = report
        self._links = Links(network, hardware)
        self.transfers = FallibleTransfers(
            clock, engine, self._links, Chances(plan.chances), plan.detection.transfer_ns, report, self.struck.append
        )
        self._workers: list[MortalWorker] = []
        self._paces: dict[WorkerId, PacedSteps] = {}
        workers = range(len(cluster.workers))
        self._lives = [0 for _ in workers]
        self._leaving = [False for _ in workers]
        self._spoke_ns = [-1 for _ in workers]
        self._returns: list[tuple[int, int | None] | None] = [None for _ in workers]  # place in struck, after how long
        self._ended: dict[RequestId, None] = {}
        self._on: dict[str, Callable[[Fault], None]] = {
            "worker_crash": self._crash,
            "worker_hang": self._hang,
            "worker_slow": self._slow,
            "worker_joins": self._come,
            "worker_drained": self._drain,
            "link_down": self._link,
            "link_flapping": self._link,
            "link_degraded": self._link,
            "link_latency": self._link,
            "nic_lost": self._link,
            "client_cancels": self._cancel,
            "controller_restart": self._restart_controller,
        }

    # --- putting things in place --------------------------------------------------------------------------------------

    def paced(self, worker: WorkerId, steps: StepTimes) -> StepTimes:
        """Step times that a fault can make longer."""
        if not any(fault.kind == "worker_slow" and fault.worker == worker for fault in self._plan.timed):
            return steps
        self._paces[worker] = PacedSteps(steps)
        return self._paces[worker]

    def mortal(self, fleet: Workers) -> tuple[MortalWorker, ...]:
        """The same workers, which may be gone."""
        self._workers = [
            MortalWorker(worker, alive=spec.present)
            for worker, spec in zip(fleet.workers, self._cluster.workers, strict=True)
        ]
        return tuple(self._workers)

    def begin(self) -> None:
        """Everything of the plan will happen when it is due."""
        for worker in range(len(self._workers)):
            self._announce_stop(WorkerId(worker))
        for fault in self._plan.timed:
            self._clock.call_after(fault.at_ns - self._clock.now_ns, partial(self._on[fault.kind], fault))

    def stranded(self) -> list[str]:
        """Roles that no worker fills and none will, once nothing happens any more: their requests wait for ever."""
        roles = dict.fromkeys(spec.role for spec in self._cluster.workers)
        filled = {spec.role for spec in self._cluster.workers if self._workers[spec.id].alive}
        return [role for role in roles if role not in filled]

    # --- what the scheduler orders ------------------------------------------------------------------------------------

    def finished(self, command: FinishRequest) -> None:
        """A client has its answer, and no reason to go away any more."""
        self._ended[command.request] = None

    def released(self, command: ReleaseBlocks) -> None:
        """A request has given back what it had on a worker."""
        self._workers[command.worker].release(command.request)
        self.transfers.unassigned(command.worker, command.request)

    def renew_leases(self, workers: Sequence[WorkerId]) -> None:
        """Those of them that are alive and awake show it."""
        for worker in workers:
            if self._workers[worker].alive and not self._workers[worker].paused:
                self._report(LeasesRenewed(worker, self.transfers.carried_to(worker)))

    def report_later(self, worker: WorkerId, after_ns: int, event: Event) -> None:
        """What the worker will have to say then, if it is the same one still."""
        life = self._lives[worker]

        def say() -> None:
            if self._lives[worker] == life and self._workers[worker].alive:
                self.transfers.when_awake(worker, partial(self._report, event))

        self._clock.call_after(after_ns, say)

    def dismissed(self, command: DismissWorker) -> None:
        """A worker that was to leave has nothing left."""
        worker = command.worker
        if not self._workers[worker].alive:
            return  # lost before the order reached it
        self._end(worker)
        self.transfers.worker_left(worker)
        place = self._returns[worker]
        if place is not None:
            index, after_ns = place
            self._returns[worker] = None
            if after_ns is not None:
                self._come_back(worker, self._clock.now_ns + max(1, after_ns), index)

    # --- workers ------------------------------------------------------------------------------------------------------

    def _crash(self, fault: Fault) -> None:
        worker = _worker(fault)
        if self._workers[worker].alive:
            index = self._note(fault)
            self._end(worker)
            self.transfers.worker_gone(worker)
            self._give_up(fault, worker, index, self._clock.now_ns + self._plan.detection.crash_ns)

    def _hang(self, fault: Fault) -> None:
        worker = _worker(fault)
        mortal = self._workers[worker]
        if not mortal.alive or mortal.paused:
            return
        index = self._note(fault)
        mortal.pause()
        self.transfers.worker_paused(worker)
        life = self._lives[worker]
        hang_ns = self._plan.detection.hang_ns
        unnoticed = fault.until_ns is not None and fault.until_ns - fault.at_ns <= hang_ns

        def go_on() -> None:
            if self._lives[worker] != life:
                return
            if unnoticed:
                mortal.resume()
                self.transfers.worker_resumed(worker)
                self._announce_stop(worker)
            else:  # whoever does not answer is made sure of
                self._end(worker)
                self.transfers.worker_gone(worker)
                self._give_up(fault, worker, index, self._clock.now_ns)

        self._clock.call_after((fault.until_ns or 0) - fault.at_ns if unnoticed else hang_ns, go_on)

    def _end(self, worker: WorkerId) -> None:
        """It is gone, whoever knows."""
        self._lives[worker] += 1
        self._leaving[worker] = False
        self._workers[worker].lose()

    def _give_up(self, fault: Fault, worker: WorkerId, index: int, lost_ns: int) -> None:
        """The scheduler is told that it is lost; and, if it comes back, that later."""
        self._returns[worker] = None
        told_ns = self._speak(worker, lost_ns, self._say_lost)
        if fault.restart_ns is None:
            self.struck[index] = msgspec.structs.replace(self.struck[index], until_ns=None)
        else:
            # orders of before the loss was known must not reach the new one
            self._come_back(worker, max(self._clock.now_ns + fault.restart_ns, told_ns + self._decision_ns + 1), index)

    def _come_back(self, worker: WorkerId, at_ns: int, index: int) -> None:
        back_ns = self._speak(worker, at_ns, self._say_joined)
        self.struck[index] = msgspec.structs.replace(self.struck[index], until_ns=back_ns)

    def _slow(self, fault: Fault) -> None:
        worker = _worker(fault)
        self._note(fault)
        pace = self._paces[worker]
        pace.slow_down(fault.factor)
        self._workers[worker].change_pace()

        def recover() -> None:
            pace.recover(fault.factor)
            self._workers[worker].change_pace()

        self._at_end(fault, recover)

    def _come(self, fault: Fault) -> None:
        if not self._workers[_worker(fault)].alive:
            self._note(fault)
            self._speak(_worker(fault), self._clock.now_ns, self._say_joined)

    def _drain(self, fault: Fault) -> None:
        worker = _worker(fault)
        if self._workers[worker].alive and not self._leaving[worker]:
            self._leaving[worker] = True
            self._returns[worker] = self._note(fault), fault.restart_ns
            self._speak(worker, self._clock.now_ns, self._say_leaving)

    def _speak(self, worker: WorkerId, at_ns: int, say: Callable[[WorkerId], None]) -> int:
        """Say it then, or as soon after as nothing else is said of this worker. Returns when."""
        at_ns = max(at_ns, self._spoke_ns[worker] + 1)
        self._spoke_ns[worker] = at_ns
        self._clock.call_after(at_ns - self._clock.now_ns, partial(say, worker))
        return at_ns

    def _say_lost(self, worker: WorkerId) -> None:
        self.transfers.worker_lost(worker)
        self._report(WorkerLost(worker))

    def _say_joined(self, worker: WorkerId) -> None:
        self._workers[worker].alive = True
        self.transfers.worker_back(worker)
        self._announce_stop(worker)
        self._report(WorkerJoined(worker))

    def _say_leaving(self, worker: WorkerId) -> None:
        self._report(WorkerLeaving(worker))

    def _announce_stop(self, worker: WorkerId) -> None:
        """The worker itself must know, so that its reports do not depend on how long its runs are."""
        now_ns = self._clock.now_ns
        due = (f.at_ns for f in self._plan.timed if f.worker == worker and f.kind in STOPS and f.at_ns >= now_ns)
        self._workers[worker].expect_stop(min(due, default=NEVER_NS))

    # --- everything else ----------------------------------------------------------------------------------------------

    def _link(self, fault: Fault) -> None:
        if fault.kind == "nic_lost" and self._links.nics_left(_worker(fault)) == 1:
            return  # the last one stays: a worker without any would be lost, which is another kind
        self._note(fault)
        link = self._links.strike(fault)
        if fault.kind in DOWN:
            self.transfers.link_stalls(link)
        if fault.kind == "nic_lost":
            self.transfers.nic_lost(_worker(fault))
        self._at_end(fault, partial(self._heal, fault))

    def _heal(self, fault: Fault) -> None:
        self._links.heal(fault)
        if fault.kind == "nic_lost":
            self.transfers.nic_back(_worker(fault))

    def _cancel(self, fault: Fault) -> None:
        assert fault.request is not None, fault
        if fault.request not in self._ended:
            self._note(fault)
            self._report(RequestCancelled(fault.request))

    def _restart_controller(self, fault: Fault) -> None:
        assert self.outage is not None, "a controller that keeps no record"
        if self.outage.away:
            return
        self._note(fault)
        self.outage.begin()
        self._at_end(fault, self.outage.end)

    def _at_end(self, fault: Fault, action: Callable[[], None]) -> None:
        if fault.until_ns is not None:
            self._clock.call_after(fault.until_ns - self._clock.now_ns, action)

    def _note(self, fault: Fault) -> int:
        self.struck.append(fault)
        return len(self.struck) - 1


def needs_record(plan: FaultPlan) -> bool:
    """Whether the controller is to come back from its record."""
    return any(fault.kind == "controller_restart" for fault in plan.timed)


def _worker(fault: Fault) -> WorkerId:
    assert fault.worker is not None, f"{fault.kind} of no worker"
    return fault.worker
