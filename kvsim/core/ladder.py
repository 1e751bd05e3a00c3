"""What is tried, one after the other, when KV does not get from its prefill worker to a decode worker.

The ladder of a transfer that fails: the same way again, every other path between the two, other decode workers from the
KV that the prefill worker still has, the KV computed anew by another prefill worker, the KV computed on the very worker
that decodes it (where workers may do both: mode adaptive); below that the request ends and its client is told. How
often each is tried is in ``PolicySpec``. KV that nobody has asked for during a whole lease is given up at once.

It must not know how a failure is noticed.
"""

from kvsim.core.cluster import PolicySpec
from kvsim.core.fleet import Fleet
from kvsim.core.handover import HandOver
from kvsim.core.messages import EndLease, RequestId, StopTransfer
from kvsim.core.outbox import Outbox
from kvsim.core.request import Phase, RequestState
from kvsim.core.request_life import RequestLife


class Ladder:
    """Decides for one request at a time; where it stands is in its state."""

    def __init__(self, policy: PolicySpec, fleet: Fleet, handover: HandOver, life: RequestLife, out: Outbox) -> None:
        self._policy = policy
        adaptive = policy.transfer_mode == "adaptive"  # then once more, where it is to be decoded
        self._recomputes_max = policy.transfer_recomputes_max + (1 if adaptive else 0)
        self._push = policy.transfer_mode == "push"
        self._fleet = fleet
        self._handover = handover
        self._life = life
        self._out = out

    def transfer_failed(self, state: RequestState) -> None:
        """What the transfer carried is to be moved again. The ladder: the same way a few times, every other path, other
        decode workers, the KV computed anew; then it cannot be."""
        if not self._life.has_source(state):  # released before it was known to have failed
            self._life.leave_decode_worker(state)
            self._life.compute_anew(state)
            return
        state.transfer_failures += 1
        if state.transfer_failures > self._policy.transfer_retries_max:
            if state.transfer_path + 1 < self._fleet.paths(state.prefill_side(), state.decode_side()):
                state.transfer_path += 1
                state.transfer_failures = 0
            elif state.phase is Phase.TRANSFERRING:  # and not still being computed
                self._leave_unreachable(state)
                return
        self._life.start_transfer(state)

    def _leave_unreachable(self, state: RequestState) -> None:
        """The KV cannot be moved to this decode worker: try others, then compute it elsewhere, then give up."""
        unreachable = state.decode_worker
        state.transfer_targets += 1
        self._life.leave_decode_worker(state)
        self._handover.begin_anew(state)
        if state.transfer_targets < self._policy.transfer_targets_max and not self._push:
            state.enter(Phase.WAITING_MEMORY)
            self._life.request_memory(state, avoid=unreachable)
            return
        state.transfer_targets = 0
        state.transfer_recomputes += 1
        if state.transfer_recomputes > self._recomputes_max:
            self._life.finish(state, "failed")
            return
        state.restarts += 1
        state.avoid_prefill = state.prefill_worker
        self._life.leave_source(state)

    def lease_over(self, request: RequestId) -> None:
        """Nobody has shown for a whole lease that he wants this KV: its source is free, and it is computed anew unless
        it has arrived. Whoever still reads it finds another generation there and cannot take it for what it was."""
        state = self._life.states.get(request)
        if state is None:
            return
        self._handover.let_go(state)
        # a homeless one keeps its KV: nobody could ask for it, only the end of a transfer was waited for
        keeps = state.transfer is None and state.phase is not Phase.FINISHED and request in self._life.homeless_decode
        if self._life.has_source(state) and not keeps:
            self._out.put(EndLease(state.prefill_side(), request))
        if state.transfer is not None:  # the target blocks are held until its end is known
            self._out.put(StopTransfer(state.transfer))
            self._life.release_source(state)
            self._life.leases.grant(request)
        elif state.phase is Phase.FINISHED:
            self._life.forget_if_quiet(state)
        elif keeps:
            return
        elif state.phase is Phase.WAITING_MEMORY:
            state.restarts += 1
            self._life.leave_decode_worker(state)
            self._life.leave_source(state)
        elif state.awaits_source:
            self._life.leave_source(state)
        else:  # it has arrived, and word of that never came to the source
            self._life.release_source(state)
