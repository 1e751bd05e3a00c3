"""Workers change their roles: a policy decides, the worker drains, then it switches, then it serves::

    serving --DrainWorker--> draining --SwitchRole--> switching --RoleSwitched--> serving
       ^--------KeepRole--------'

What a worker has begun is served to its end there, what only waits there is placed elsewhere. A role that nobody has
any more, as its workers were lost, is given one of the other's, whatever the policy says.

It must not know how long a switch takes or why a worker disappeared.
"""

from kvsim.core.cluster import ClusterSpec, ControllerRoles, RoleSpec
from kvsim.core.fleet import Fleet
from kvsim.core.handover import HandOver
from kvsim.core.messages import DedicatedRole, DrainWorker, KeepRole, SwitchId, SwitchRole, WorkerId
from kvsim.core.outbox import Outbox
from kvsim.core.placement import relative_load
from kvsim.core.relocation import Relocation
from kvsim.core.request import Phase, RequestState
from kvsim.core.request_life import RequestLife
from kvsim.core.role_gauge import RoleGauge
from kvsim.core.role_policy import RoleView, choose_move


class RoleControl:
    """``deadline_ns`` is when the policy is asked next; None while there is no request."""

    def __init__(
        self, cluster: ClusterSpec, spec: RoleSpec, fleet: Fleet, handover: HandOver, life: RequestLife, out: Outbox
    ) -> None:
        assert not fleet.colocated, "a colocated worker has no role to change"
        policy = spec.policy
        self.deadline_ns: int | None = None
        self.gauge = RoleGauge(
            spec.interval_ns, policy.window_ns if isinstance(policy, ControllerRoles) else spec.interval_ns
        )
        self._spec = spec
        self._fleet = fleet
        self._handover = handover
        self._life = life
        self._relocation = Relocation(fleet, life)
        self._out = out
        self._asked_ns = 0
        self._changed_ns = {worker.id: 0 for worker in cluster.workers}
        """When each worker last began to serve in its role, or to drain."""

    # --- called by the scheduler --------------------------------------------------------------------------------------

    def arrived(self, prompt_tokens: int, now_ns: int) -> None:
        """A request has come: the policy is asked at regular intervals from now on."""
        if self.deadline_ns is None:
            for _ in range(min(1000, (now_ns - self._asked_ns) // self._spec.interval_ns)):
                self.gauge.beat()  # those without any request
            self.deadline_ns = now_ns + self._spec.interval_ns
        self.gauge.arrived(prompt_tokens)

    def decide(self, now_ns: int) -> None:
        """Ask the policy if it is time; at most one worker begins to drain or keeps its role."""
        if self.deadline_ns is None or now_ns < self.deadline_ns:
            return
        self._asked_ns = now_ns
        self.deadline_ns = now_ns + self._spec.interval_ns if self._life.states else None
        self.gauge.beat()
        for worker, role in self._fleet.draining():
            self._hasten(worker, role, now_ns)
        if not self._refill("prefill", now_ns) and not self._refill("decode", now_ns):
            self._follow_policy(now_ns)

    def switch_drained(self) -> None:
        """Order the switch of workers that have nothing left: no request, no block, no transfer from or to them."""
        for worker, role in self._fleet.draining():
            if self._fleet.is_idle(worker) and not self._handover.involves(worker):
                for state in self._life.states.values():  # they have released all that they had there
                    if state.prefill_worker == worker:
                        state.prefill_worker = None
                    if state.decode_worker == worker:  # finished, and the end of a transfer elsewhere is waited for
                        state.decode_worker = None
                switch = self._out.next_switch()
                self._fleet.begin_switch(worker, switch, role)
                self._out.put(SwitchRole(worker, switch, role))

    def switched(self, worker: WorkerId, switch: SwitchId, now_ns: int) -> None:
        """The worker serves in its new role and takes its share of what waits. A late report changes nothing."""
        if self._fleet.end_switch(worker, switch):
            self._changed_ns[worker] = now_ns
            self._life.find_homes()
            self._relocation.spread(self._fleet.role(worker))

    # --- those that drain ---------------------------------------------------------------------------------------------

    def _hasten(self, worker: WorkerId, target: DedicatedRole, now_ns: int) -> None:
        """Take the drain back if the worker is missing in its role; else let go of what would wait there too long."""
        role = self._fleet.role(worker)
        serving = len(self._fleet.serving(role))
        if not serving or (serving < self._minimum(role) and self._fleet.serving(target)):
            self._keep(worker, f"{serving} {role} workers are left", now_ns)
            return
        if role == "prefill":
            self._relocation.set_back_stranded(worker)
            return
        self._relocation.leave_unfilled(worker)
        drain_max_ns = self._spec.drain_max_ns
        if drain_max_ns is not None and now_ns - self._changed_ns[worker] >= drain_max_ns:
            self._fleet.decode[worker].evicts = True
            self._fleet.touch(worker)

    def _begin(self, worker: WorkerId, target: DedicatedRole, reason: str, now_ns: int) -> None:
        role = self._fleet.role(worker)
        self._fleet.begin_drain(worker, target)
        self._changed_ns[worker] = now_ns
        self._out.put(DrainWorker(worker, target, reason))
        self._relocation.place_waiting_elsewhere(worker)
        if role == "decode":
            self._relocation.leave_unfilled(worker)
        else:
            self._relocation.set_back_stranded(worker)

    def _keep(self, worker: WorkerId, reason: str, now_ns: int) -> None:
        self._fleet.keep_role(worker)
        self._changed_ns[worker] = now_ns
        self._out.put(KeepRole(worker, reason))
        self._life.find_homes()
        self._fleet.touch(worker)

    # --- who is to drain ----------------------------------------------------------------------------------------------

    def _refill(self, role: DedicatedRole, now_ns: int) -> bool:
        """Give a worker to a role that has none (that is large enough for those who wait for one), if the other role
        can do without. False if there is nothing to do."""
        other = _other(role)
        tokens = self._relocation.homeless_tokens(role)
        mine = (*self._fleet.serving(role), *self._fleet.coming(role))
        if any(self._fleet.capacity_tokens(worker) > tokens for worker in mine):
            return False
        donors = [worker for worker in self._fleet.serving(other) if self._fleet.capacity_tokens(worker) > tokens]
        if not donors or len(self._fleet.serving(other)) < 2:
            return False
        large = [worker for worker in donors if self._leaves_room(worker, other)]
        reason = f"no {role} worker holds {tokens} tokens" if self._fleet.serving(role) else f"no {role} worker is left"
        self._begin(self._first_drained(large or donors), role, reason, now_ns)
        return True

    def _follow_policy(self, now_ns: int) -> None:
        move = choose_move(self._spec.policy, self._view())
        if move is None:
            return
        for worker, target in self._fleet.draining():
            if target == move.source:
                self._keep(worker, move.reason, now_ns)
                return
        serving = self._fleet.serving(move.source)
        if len(serving) <= self._minimum(move.source):
            return
        donors = [
            worker
            for worker in serving
            if now_ns - self._changed_ns[worker] >= self._spec.dwell_ns and self._leaves_room(worker, move.source)
        ]
        if donors:
            self._begin(self._first_drained(donors), move.target, move.reason, now_ns)

    def _view(self) -> RoleView:
        fleet, gauge = self._fleet, self.gauge
        prefill = (*fleet.serving("prefill"), *fleet.coming("prefill"))
        decode = (*fleet.serving("decode"), *fleet.coming("decode"))
        computing = sum([fleet.prefill[worker].run is not None for worker in fleet.serving("prefill")])
        queued = contexts = prefilled = 0
        for state in self._life.states.values():
            if _awaits_prefill(state):
                queued += state.context_tokens
            else:
                contexts += state.context_tokens
                prefilled += 1
        workers = max(1, len(decode))
        return RoleView(
            prefill_workers=len(prefill),
            decode_workers=len(decode),
            prompt_tokens_queued=queued,
            prompt_tokens_per_s=gauge.prompt_tokens_per_s,
            prefill_tokens_per_s=gauge.prefill_tokens_per_s,
            prefills_blocked=4 * computing < 3 * len(fleet.serving("prefill")),
            # half of an output is there on average while it is being generated
            context_tokens=contexts + prefilled * gauge.output_tokens // 2,
            requests_prefilled=prefilled,
            capacity_tokens=max(1, sum([fleet.capacity_tokens(worker) for worker in decode]) // workers),
            batch_requests=max(1, sum([fleet.engine(worker).spec.batch_requests_max for worker in decode]) // workers),
            tpot_ns=gauge.tpot_ns,
        )

    def _minimum(self, role: DedicatedRole) -> int:
        return self._spec.prefill_min if role == "prefill" else self._spec.decode_min

    def _leaves_room(self, worker: WorkerId, role: DedicatedRole) -> bool:
        """Whether the longest request that is admitted still finds a worker of the role without this one."""
        largest = self._fleet.context_tokens_max
        return any(
            other != worker and self._fleet.capacity_tokens(other) >= largest for other in self._fleet.serving(role)
        )

    def _first_drained(self, workers: list[WorkerId]) -> WorkerId:
        """The one that has the least to finish."""
        fleet = self._fleet

        def load(worker: WorkerId) -> tuple[int, WorkerId]:
            return relative_load(fleet.engine(worker).tokens_outstanding, fleet.capacity_tokens(worker)), worker

        return min(workers, key=load)


def _other(role: DedicatedRole) -> DedicatedRole:
    return "decode" if role == "prefill" else "prefill"


def _awaits_prefill(state: RequestState) -> bool:
    """Whether its prefill, by a prefill worker, is not over. Memory that it may hold on a decode worker meanwhile says
    nothing of how many of those there should be."""
    if state.mode == "local":
        return False
    waits = state.phase is Phase.WAITING_MEMORY and not state.layers_ready
    return waits or state.phase in (Phase.WAITING_PREFILL, Phase.PREFILLING)
