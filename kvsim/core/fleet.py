"""The workers of a cluster as the scheduler sees them: their engines, whose turn it is to plan, and who gets a request.

It must not know the life of a request; it finds a worker and remembers which workers have something to plan.
"""

from collections.abc import Callable, Iterable

from kvsim.core.cluster import ClusterSpec, Role
from kvsim.core.colocated_engine import ColocatedEngine
from kvsim.core.decode_engine import DecodeEngine
from kvsim.core.links import LinkLoads
from kvsim.core.messages import DedicatedRole, Request, SwitchId, WorkerId
from kvsim.core.placement import choose_near, choose_worker, relative_load
from kvsim.core.prefill_engine import PrefillEngine
from kvsim.core.request import RequestState
from kvsim.core.rules import Rules
from kvsim.core.touched import Touched

Candidates = list[tuple[int, WorkerId]]
Engine = PrefillEngine | DecodeEngine | ColocatedEngine


class Fleet:
    """Engines by worker id. A *touched* worker may have something to plan; ``next_touched`` gives them in a fixed
    order: decode workers first, since what they admit may queue for prefill at the same instant. ``prefill_costs``,
    where it is set, puts in place of the load of prefill workers what each would cost a request, and ``decode_ns`` says
    how long a worker takes for an output; else all are taken to be equally fast."""

    def __init__(self, cluster: ClusterSpec, links: LinkLoads | None = None) -> None:
        policy = cluster.policy
        self._links = links
        self.prefill_costs: Callable[[RequestState, Candidates], Candidates] | None = None
        self.decode_ns: Callable[[WorkerId], int] | None = None
        self.rules = Rules(cluster) if policy.placement_rules else None
        assert self.rules is None or policy.roles is None, "roles change with no regard to placement rules"
        self._policy = policy
        self.prefill: dict[WorkerId, PrefillEngine] = {}
        self.decode: dict[WorkerId, DecodeEngine] = {}
        self.colocated: dict[WorkerId, ColocatedEngine] = {}
        self._cluster = cluster
        self._placeable: list[bool] = []  # by worker
        self._leaving: dict[WorkerId, None] = {}
        self._draining: dict[WorkerId, DedicatedRole] = {}  # to which role they are to change
        self._switching: dict[WorkerId, SwitchId] = {}
        self._roles: list[Role] = [spec.role for spec in cluster.workers]
        for spec in cluster.workers:
            self._set_up(spec.id)
            self._placeable.append(spec.present)
        disaggregated = bool(self.prefill and self.decode)
        assert bool(self.colocated) != disaggregated, "workers are either all colocated, or prefill and decode workers"
        self._capacity_tokens = [cluster.capacity_tokens(spec.id) for spec in cluster.workers]
        self._decode_turn = self._prefill_turn = 0
        self._touched = Touched(len(cluster.workers))
        entries = self.colocated or self.prefill
        self.context_tokens_max = self._largest(entries)
        if disaggregated:
            self.context_tokens_max = min(self.context_tokens_max, self._largest(self.decode))

    def engines(self) -> tuple[Engine, ...]:
        """Every engine, by kind and id."""
        return (*self.prefill.values(), *self.decode.values(), *self.colocated.values())

    def engine(self, worker: WorkerId) -> Engine:
        """The engine of one worker."""
        if worker in self.prefill:
            return self.prefill[worker]
        return self.decode[worker] if worker in self.decode else self.colocated[worker]

    # --- who is there -------------------------------------------------------------------------------------------------

    def is_there(self, worker: WorkerId) -> bool:
        """Whether the worker has joined and was neither lost nor dismissed since."""
        return (
            self._placeable[worker] or worker in self._leaving or worker in self._draining or worker in self._switching
        )

    @property
    def anyone_leaves(self) -> bool:
        """Whether any worker is to end."""
        return bool(self._leaving)

    def leaving(self) -> tuple[WorkerId, ...]:
        """Workers that are to end once they have nothing left, in the order in which they were told."""
        return tuple(self._leaving)

    def is_idle(self, worker: WorkerId) -> bool:
        """Whether the worker has nothing left: no request and no block of one."""
        engine = self.engine(worker)
        return engine.tokens_outstanding == 0 and engine.pool.blocks_free == engine.pool.blocks_total

    def admit(self, worker: WorkerId) -> bool:
        """The worker may be given requests. False if that is nothing new, or it is about to change its role."""
        if self._placeable[worker] or worker in self._draining or worker in self._switching:
            return False
        self._placeable[worker] = True
        self._leaving.pop(worker, None)
        return True

    def retire(self, worker: WorkerId) -> bool:
        """The worker is given no more requests, in any role. False if that is nothing new."""
        if worker in self._leaving or not self.is_there(worker):
            return False
        self._set_aside(worker)
        self._leaving[worker] = None
        return True

    def discard(self, worker: WorkerId) -> Engine:
        """The worker is gone. Returns its engine; an empty one takes its place for when it joins again."""
        gone = self.engine(worker)
        self._set_aside(worker)
        self._leaving.pop(worker, None)
        self._touched.drop(worker)
        self._set_up(worker)
        return gone

    def _set_aside(self, worker: WorkerId) -> None:
        """The worker serves no more and changes no role."""
        self._placeable[worker] = False
        self._draining.pop(worker, None)
        self._switching.pop(worker, None)

    def _set_up(self, worker: WorkerId) -> None:
        spec, kv, policy = self._cluster.workers[worker], self._cluster.kv, self._policy
        role, block_tokens = self._roles[worker], self._cluster.block_tokens(worker)
        if role == "prefill":
            self.prefill[worker] = PrefillEngine(spec, block_tokens, policy, kv.layers)
        elif role == "decode":
            self.decode[worker] = DecodeEngine(spec, block_tokens, policy)
        else:
            self.colocated[worker] = ColocatedEngine(spec, block_tokens, policy)

    # --- who has which role -------------------------------------------------------------------------------------------

    def role(self, worker: WorkerId) -> DedicatedRole:
        """The role of a worker that is not colocated; while it switches, its new one."""
        return "prefill" if worker in self.prefill else "decode"

    def serving(self, role: DedicatedRole) -> list[WorkerId]:
        """Workers of this role that are given requests, by id."""
        return [worker for worker in (self.prefill if role == "prefill" else self.decode) if self._placeable[worker]]

    def coming(self, role: DedicatedRole) -> list[WorkerId]:
        """Workers that will have this role when they have drained and switched, by id."""
        draining = [worker for worker, target in self._draining.items() if target == role]
        return sorted([*draining, *[worker for worker in self._switching if self.role(worker) == role]])

    def draining(self) -> list[tuple[WorkerId, DedicatedRole]]:
        """Workers that are to change, and to which role, in the order in which they began."""
        return list(self._draining.items())

    def begin_drain(self, worker: WorkerId, target: DedicatedRole) -> None:
        """The worker is given no more requests of its role; see ``RoleControl`` for what follows."""
        assert self._placeable[worker], f"worker {worker} does not serve"
        self._placeable[worker] = False
        self._draining[worker] = target

    def keep_role(self, worker: WorkerId) -> None:
        """A worker that drains serves on in its role."""
        del self._draining[worker]
        self._placeable[worker] = True
        if worker in self.decode:
            self.decode[worker].evicts = False

    def begin_switch(self, worker: WorkerId, switch: SwitchId, role: DedicatedRole) -> None:
        """The worker has drained: an empty engine of its new role takes the place of the old one."""
        del self._draining[worker]
        self._switching[worker] = switch
        self._touched.drop(worker)
        self.prefill.pop(worker, None)
        self.decode.pop(worker, None)
        self._roles[worker] = role
        self._set_up(worker)
        self.prefill = dict(sorted(self.prefill.items()))  # placement goes through workers by id
        self.decode = dict(sorted(self.decode.items()))

    def end_switch(self, worker: WorkerId, switch: SwitchId) -> bool:
        """The worker serves in its new role. False for a report of another life or switch."""
        if self._switching.get(worker) != switch:
            return False
        del self._switching[worker]
        self._placeable[worker] = True
        return True

    # --- whose turn it is ---------------------------------------------------------------------------------------------

    def touch(self, worker: WorkerId) -> None:
        """Something changed on this worker that its engine may act upon."""
        self._touched.add(worker, first=self._roles[worker] == "decode")

    def next_touched(self) -> WorkerId | None:
        """Remove and return the worker that plans next."""
        return self._touched.pop()

    # --- who gets a request -------------------------------------------------------------------------------------------

    def capacity_tokens(self, worker: WorkerId) -> int:
        """Tokens that the pool of this worker holds."""
        return self._capacity_tokens[worker]

    def room_tokens(self, worker: WorkerId, context_tokens: int) -> int:
        """Output tokens that a request may generate before its context outgrows the pool of this worker."""
        return self._capacity_tokens[worker] - context_tokens

    def paths(self, source: WorkerId, target: WorkerId) -> int:
        """Ways between two workers of which one may be used instead of another."""
        workers = self._cluster.workers
        return min(workers[source].paths, workers[target].paths)

    def requests_waiting(self, *, decode: bool) -> int:
        """Requests that wait for a prefill and, if asked, those that wait for decode memory."""
        waiting = sum([engine.requests_waiting for engine in self.prefill.values()])
        waiting += sum([engine.requests_waiting for engine in self.colocated.values()])
        return waiting + (sum([len(engine.waiting()) for engine in self.decode.values()]) if decode else 0)

    def place_prefill(self, state: RequestState) -> WorkerId | None:
        """A worker to compute the prompt: by outstanding prompt tokens, or in turn; the one that it rather avoids only
        if there is no other. None if there is none at all."""
        worker = self.find_prefill(state)
        self._prefill_turn += worker is not None
        return worker

    def find_prefill(self, state: RequestState) -> WorkerId | None:
        """Whom ``place_prefill`` would choose now."""
        candidates = [
            (engine.tokens_outstanding, worker)
            for worker, engine in (self.colocated or self.prefill).items()
            if self._placeable[worker] and state.context_tokens < self._capacity_tokens[worker]
        ]
        if self.rules is not None:
            candidates = self._permitted(state, state.decode_worker, candidates, tuple(self.decode))
        if state.avoid_prefill is not None and len(candidates) > 1:
            candidates = [candidate for candidate in candidates if candidate[1] != state.avoid_prefill]
        if self.prefill_costs is not None and len(candidates) > 1:
            candidates = self.prefill_costs(state, candidates)
        return choose_worker(self._policy.prefill_placement, candidates, self._prefill_turn) if candidates else None

    def place_decode(
        self, state: RequestState, source: WorkerId | None, avoid: WorkerId | None = None
    ) -> WorkerId | None:
        """A worker to decode: by the share of its pool that is spoken for, by that and the links from ``source``, or in
        turn; ``avoid`` only if there is no other. None if there is none at all."""
        worker = self.find_decode(state, source, avoid)
        self._decode_turn += worker is not None
        return worker

    def find_decode(
        self, state: RequestState, source: WorkerId | None, avoid: WorkerId | None = None
    ) -> WorkerId | None:
        """Whom ``place_decode`` would choose now."""
        candidates = self.decode_candidates(state)
        if self.rules is not None:
            candidates = self._permitted(state, source, candidates, tuple(self.prefill))
        if avoid is not None and len(candidates) > 1:
            candidates = [candidate for candidate in candidates if candidate[1] != avoid]
        if not candidates:
            return None
        if self._links is None or source is None or self._policy.decode_placement != "link_aware":
            return choose_worker(self._policy.decode_placement, candidates, self._decode_turn)
        tokens = state.context_tokens
        size_bytes = tokens * self._cluster.kv.bytes_per_token
        hand_overs_ns = [self._links.transfer_ns(source, worker, size_bytes) for _, worker in candidates]
        own_loads = [relative_load(tokens, self._capacity_tokens[worker]) for _, worker in candidates]
        decode_ns = self.decode_ns
        decodes_ns = [0 if decode_ns is None else decode_ns(worker) for _, worker in candidates]
        return choose_near(candidates, hand_overs_ns, decodes_ns, own_loads)

    def decode_candidates(self, state: RequestState) -> Candidates:
        """Workers that could decode the request if it were computed there too, each behind its load, in order of id."""
        rules = self.rules
        return [
            (relative_load(engine.tokens_outstanding, self._capacity_tokens[worker]), worker)
            for worker, engine in self.decode.items()
            if self._placeable[worker]
            and state.context_tokens < self._capacity_tokens[worker]
            and (rules is None or rules.may_serve(state.request, worker))
        ]

    def _permitted(
        self,
        state: RequestState,
        other: WorkerId | None,
        candidates: Candidates,
        partners: tuple[WorkerId, ...],
    ) -> Candidates:
        """Those of ``candidates`` that rules allow: with the ``other`` side where that is chosen, else with one of its
        ``partners``, rather with one that is there."""
        rules, request = self.rules, state.request
        assert rules is not None, "asked for rules where there are none"
        candidates = [candidate for candidate in candidates if rules.may_serve(request, candidate[1])]
        if other is not None:
            return [candidate for candidate in candidates if rules.may_move(candidate[1], other)]
        if self.colocated:
            return candidates
        partners = tuple([worker for worker in partners if state.context_tokens < self._capacity_tokens[worker]])
        present = tuple([worker for worker in partners if self._placeable[worker]])
        paired = [candidate for candidate in candidates if rules.has_partner(request, candidate[1], present)]
        return paired or [candidate for candidate in candidates if rules.has_partner(request, candidate[1], partners)]

    def context_tokens_limit(self, request: Request) -> int:
        """The longest context that some pair of workers serves, or one colocated worker; 0 if rules leave none."""
        rules = self.rules
        if rules is None:
            return self.context_tokens_max
        served = [spec.id for spec in self._cluster.workers if rules.may_serve(request, spec.id)]
        if self.colocated:
            return max([self._capacity_tokens[worker] for worker in served], default=0)
        sources = [worker for worker in served if worker in self.prefill]
        targets = [worker for worker in served if worker in self.decode]
        limits = [
            min(self._capacity_tokens[source], self._capacity_tokens[target])
            for source in sources
            for target in targets
            if rules.may_move(source, target)
        ]
        return max(limits, default=0)

    def _largest(self, workers: Iterable[WorkerId]) -> int:
        return max(self._capacity_tokens[worker] for worker in workers)
