"""The workers of a cluster as the scheduler sees them: their engines, whose turn it is to plan, and who gets a request.

It must not know the life of a request; it finds a worker and remembers which workers have something to plan.
"""

from collections.abc import Iterable

from kvsim.core.cluster import ClusterSpec
from kvsim.core.colocated_engine import ColocatedEngine
from kvsim.core.decode_engine import DecodeEngine
from kvsim.core.messages import WorkerId
from kvsim.core.placement import choose_worker, relative_load
from kvsim.core.prefill_engine import PrefillEngine

Engine = PrefillEngine | DecodeEngine | ColocatedEngine


class Fleet:
    """Engines by worker id. A *touched* worker may have something to plan; ``next_touched`` gives them in a fixed
    order: decode workers first, since what they admit may queue for prefill at the same instant."""

    def __init__(self, cluster: ClusterSpec) -> None:
        kv, policy = cluster.kv, cluster.policy
        self.prefill: dict[WorkerId, PrefillEngine] = {}
        self.decode: dict[WorkerId, DecodeEngine] = {}
        self.colocated: dict[WorkerId, ColocatedEngine] = {}
        for spec in cluster.workers:
            if spec.role == "prefill":
                self.prefill[spec.id] = PrefillEngine(spec, kv.block_tokens, policy, kv.layers)
            elif spec.role == "decode":
                self.decode[spec.id] = DecodeEngine(spec, kv.block_tokens, policy)
            else:
                self.colocated[spec.id] = ColocatedEngine(spec, kv.block_tokens, policy)
        disaggregated = bool(self.prefill and self.decode)
        assert bool(self.colocated) != disaggregated, "workers are either all colocated, or prefill and decode workers"
        self._policy = policy
        self._capacity_tokens = {spec.id: spec.kv_blocks * kv.block_tokens for spec in cluster.workers}
        self._decode_turn = self._prefill_turn = 0
        self._touched: set[tuple[bool, WorkerId]] = set()
        entries = self.colocated or self.prefill
        self.context_tokens_max = self._largest(entries)
        if disaggregated:
            self.context_tokens_max = min(self.context_tokens_max, self._largest(self.decode))

    def engines(self) -> tuple[Engine, ...]:
        """Every engine, by kind and id."""
        return (*self.prefill.values(), *self.decode.values(), *self.colocated.values())

    def touch(self, worker: WorkerId) -> None:
        """Something changed on this worker that its engine may act upon."""
        self._touched.add((worker not in self.decode, worker))

    def next_touched(self) -> WorkerId | None:
        """Remove and return the worker that plans next."""
        touched = self._touched
        if not touched:
            return None
        if len(touched) == 1:
            return touched.pop()[1]
        first = min(touched)
        touched.remove(first)
        return first[1]

    def fits(self, worker: WorkerId, context_tokens: int) -> bool:
        """Whether the worker's whole pool can hold this context and one token more."""
        return context_tokens < self._capacity_tokens[worker]

    def room_tokens(self, worker: WorkerId | None, context_tokens: int) -> int:
        """Output tokens that a request may generate before its context outgrows every pool that could serve it; if it
        is bound to ``worker`` for good, before it outgrows that one's."""
        limit = self.context_tokens_max if worker is None else self._capacity_tokens[worker]
        return limit - context_tokens

    def place_prefill(self, context_tokens: int) -> WorkerId:
        """A worker to compute the prompt: by outstanding prompt tokens, or in turn."""
        candidates = [
            (engine.tokens_outstanding, worker)
            for worker, engine in (self.colocated or self.prefill).items()
            if self.fits(worker, context_tokens)
        ]
        self._prefill_turn += 1
        return choose_worker(self._policy.prefill_placement, candidates, self._prefill_turn - 1)

    def place_decode(self, context_tokens: int) -> WorkerId:
        """A worker to decode: by the share of its pool that is spoken for, or in turn."""
        candidates = [
            (relative_load(engine.tokens_outstanding, self._capacity_tokens[worker]), worker)
            for worker, engine in self.decode.items()
            if self.fits(worker, context_tokens)
        ]
        self._decode_turn += 1
        return choose_worker(self._policy.decode_placement, candidates, self._decode_turn - 1)

    def _largest(self, workers: Iterable[WorkerId]) -> int:
        return max(self._capacity_tokens[worker] for worker in workers)
