"""The life of a request: one method for each turn that it may take, whichever event brought it about.

Phases and what leads from one to the next are in ``kvsim.core.request``. It must not know events, nor when workers
plan: it changes states, asks engines and puts commands.
"""

from kvsim.core.adaptive import ModeChooser, mode_of
from kvsim.core.batching import layers_to_start
from kvsim.core.cluster import ClusterSpec
from kvsim.core.fleet import Fleet
from kvsim.core.handover import HandOver
from kvsim.core.leases import Leases
from kvsim.core.messages import FinishReason, FinishRequest, Request, RequestId, StopTransfer, WorkerId
from kvsim.core.outbox import Outbox
from kvsim.core.request import Phase, RequestState
from kvsim.core.waits import PrefillWaits


class RequestLife:
    """``states`` holds every request that is not over. A request for which no worker is there is *homeless*: it waits
    until one joins. With a ``chooser`` each request has a mode of its own."""

    def __init__(
        self, cluster: ClusterSpec, fleet: Fleet, handover: HandOver, out: Outbox, chooser: ModeChooser | None = None
    ) -> None:
        self.states: dict[RequestId, RequestState] = {}
        self.waits = PrefillWaits(cluster.policy.prefill_wait_max_ns)
        self.leases = Leases(cluster.policy.kv_lease_ns)
        self._policy = cluster.policy
        self._push = cluster.policy.transfer_mode == "push"
        self._mode = mode_of(cluster.policy)
        self._chooser = chooser
        self._fleet = fleet
        self._handover = handover
        self._out = out
        self.homeless_prefill: dict[RequestId, RequestState] = {}
        self.homeless_decode: dict[RequestId, RequestState] = {}

    # --- from arrival to decode ---------------------------------------------------------------------------------------

    def arrive(self, request: Request, now_ns: int) -> None:
        """A client sent a request: it waits, or is told at once that it can never fit."""
        number, prompt_tokens = request.id, request.prompt_tokens
        assert number not in self.states, f"request {number} arrived twice"
        context_tokens_max = self._fleet.context_tokens_limit(request)
        if prompt_tokens >= context_tokens_max:
            self._out.put(FinishRequest(number, "too_long" if context_tokens_max else "forbidden"))
            return
        if (most := self._policy.queue_requests_max) is not None and self._requests_waiting() >= most:
            self._out.put(FinishRequest(number, "shed"))
            return
        generated_max = min(request.output_tokens_max, context_tokens_max - prompt_tokens)
        state = RequestState(request, Phase.ARRIVED, generated_max, context_tokens=prompt_tokens, mode=self._mode)
        self.states[number] = state
        self.waits.add(state, now_ns)
        self.wait_for_prefill(state)

    def _requests_waiting(self) -> int:
        """Requests that wait for a prefill, or for the decode memory that comes before it."""
        waiting = len(self.homeless_prefill) + self._fleet.requests_waiting(decode=self._push)
        return waiting + (len(self.homeless_decode) if self._push else 0)

    def wait_for_prefill(self, state: RequestState) -> None:
        """Push needs its decode memory before it may queue for prefill, and so does who computes on the decode worker;
        every other mode queues at once."""
        if self._chooser is not None and self._compute_locally(state):
            return
        if self._push and not state.reserved:
            if state.phase is not Phase.WAITING_MEMORY:
                state.enter(Phase.WAITING_MEMORY)
            self.request_memory(state)
            return
        if state.phase is not Phase.WAITING_PREFILL:
            state.enter(Phase.WAITING_PREFILL)
        self.queue_for_prefill(state)

    def _compute_locally(self, state: RequestState) -> bool:
        """Let a decode worker compute the prompt, if the chooser says so."""
        worker = self._chooser.local_worker(state) if self._chooser is not None else None
        if worker is None:
            return False
        state.prefill_worker = None
        if state.phase is not Phase.WAITING_MEMORY:
            state.enter(Phase.WAITING_MEMORY)
        self._ask(state, worker)
        return True

    def queue_for_prefill(self, state: RequestState) -> None:
        """Place a request that waits for its prefill: when it queues and not before, as only then do the loads say
        where it is served soonest."""
        state.prefill_worker = self._fleet.place_prefill(state)
        worker = state.prefill_worker
        if worker is None:
            if self._chooser is None or not self._compute_locally(state):
                self.homeless_prefill[state.id] = state
            return
        if self._fleet.colocated:
            room_tokens = self._fleet.room_tokens(worker, state.request.prompt_tokens)
            state.generated_max = min(state.generated_max, room_tokens)
            self._fleet.colocated[worker].enqueue(state, first=state.restarts > 0)
        else:
            self._fleet.prefill[worker].enqueue(state, first=state.goes_first())
        self._fleet.touch(worker)

    def hand_over(self, state: RequestState) -> None:
        """The prefill is over and more tokens are wanted: the KV goes to a decode worker."""
        if state.reserved:
            state.enter(Phase.TRANSFERRING)
            self.keep(state)
            self.start_transfer(state)
            return
        state.enter(Phase.WAITING_MEMORY)
        self.seek_target(state)
        if state.decode_worker is not None:
            self.keep(state)

    def keep(self, state: RequestState) -> None:
        """The whole KV is at its source and somebody wants it: as long as it has a lease."""
        if state.layers_ready and state.phase in (Phase.WAITING_MEMORY, Phase.TRANSFERRING):
            self.leases.grant(state.id)

    def seek_target(self, state: RequestState) -> None:
        """The whole KV waits at the source for decode memory. Not so with push, where others hold decode memory while
        they wait for the source's: two that wait for each other. There it is given up and computed anew, in turn."""
        if self._push:
            self.leave_decode_worker(state)
            self.leave_source(state)
        elif state.decode_worker is None:
            if self._chooser is not None:
                self._chooser.asks_at_last(state)
            self.request_memory(state)

    def computes(self, state: RequestState, layers: int) -> None:
        """``layers`` layers of its prefill are done: it may ask for decode memory now."""
        if self._chooser is not None and not state.cancelled and self._chooser.asks_now(state, layers):
            self.request_memory(state)

    def request_memory(self, state: RequestState, avoid: WorkerId | None = None) -> None:
        """Ask a decode worker for the blocks of the context; rather not ``avoid``."""
        assert state.decode_worker is None, f"request {state.id} asks twice"
        waits_first = state.phase is Phase.WAITING_MEMORY and not state.layers_ready  # its source is not chosen yet
        worker = self._fleet.place_decode(state, None if waits_first else state.prefill_worker, avoid)
        if worker is None:
            # nobody's turn comes sooner if its KV is given up; the lease stays for a transfer whose end was not heard
            if not state.transfers_unreleased:
                self.leases.drop(state.id)
            self.homeless_decode[state.id] = state
        else:
            self._ask(state, worker)

    def _ask(self, state: RequestState, worker: WorkerId) -> None:
        state.decode_worker = worker
        self.keep(state)
        self._fleet.decode[worker].request_memory(state, first=state.goes_first())
        self._fleet.touch(worker)

    def admitted(self, state: RequestState) -> None:
        """The decode worker gave the request its blocks. A prompt that is still to be computed may queue now (push);
        one that is being computed (streamed) or is complete may move what there is of it."""
        if state.phase is Phase.WAITING_MEMORY and not state.layers_ready:
            self.wait_for_prefill(state)
            return
        if state.phase is Phase.WAITING_MEMORY:
            state.enter(Phase.TRANSFERRING)
        self.start_transfer(state)

    def start_transfer(self, state: RequestState) -> None:
        """Move the layers that are ready, if the target has blocks for them and no transfer is under way."""
        layers = layers_to_start(
            state.layers_ready, state.layers_started, state.reserved, transfer_active=state.transfer is not None
        )
        if layers:
            source = self._fleet.prefill[state.prefill_side()].pool
            target = self._fleet.decode[state.decode_side()].pool
            request = state.id
            blocks = source.table(request), target.table(request)
            self._handover.start(state, layers, blocks, source.generation(request), self._out)
            self.keep(state)

    def source_released(self, state: RequestState) -> None:
        """A transfer has let go of the source blocks: free them if it was the last."""
        if state.phase is Phase.FINISHED:
            self.forget_if_quiet(state)
        elif state.awaits_source and not state.transfers_unreleased:
            self.leave_source(state)
        elif self._handover.source_is_free(state):
            self.release_source(state)

    # --- turning back -------------------------------------------------------------------------------------------------

    def preempted(self, state: RequestState) -> None:
        """The decode worker took its blocks back: all that is known so far is prefilled again, ahead of new
        requests."""
        state.decode_worker = None
        state.preemptions += 1
        self.leave_source(state)

    def leave_source(self, state: RequestState) -> None:
        """Compute the request anew, as soon as no transfer reads what it still has on the prefill side."""
        state.awaits_source = state.transfers_unreleased > 0
        if state.awaits_source:
            return
        if state.prefill_worker is not None:
            self.release_source(state)
        self.compute_anew(state)

    def compute_anew(self, state: RequestState) -> None:
        """The KV is nowhere any more: the prompt and what has been generated are prefilled again."""
        state.awaits_source = False
        state.context_tokens = state.tokens_known()
        self.leases.drop(state.id)
        self._handover.forget(state)
        if state.cancelled:
            self.finish(state, "cancelled")
        else:
            self.wait_for_prefill(state)

    def leave_decode_worker(self, state: RequestState) -> None:
        """The request will not decode where it was to: give back what it has there."""
        self.homeless_decode.pop(state.id, None)
        if state.decode_worker is not None:
            self._fleet.decode[state.decode_worker].withdraw(state)
            self._fleet.touch(state.decode_worker)
            state.decode_worker = None

    def find_homes(self) -> None:
        """A worker has joined: place those that found none, in the order in which they began to wait."""
        prefill, decode = list(self.homeless_prefill.values()), list(self.homeless_decode.values())
        self.homeless_prefill.clear()
        self.homeless_decode.clear()
        for state in prefill:
            self.queue_for_prefill(state)
        for state in decode:
            self.request_memory(state)

    # --- the end ------------------------------------------------------------------------------------------------------

    def cancel(self, request: RequestId) -> None:
        """The client is gone. A request that is being computed ends with its step, any other one now."""
        state = self.states.get(request)
        if state is None or state.cancelled or state.phase is Phase.FINISHED:
            return
        state.cancelled = True
        computing = state.phase in (Phase.PREFILLING, Phase.DECODING) and not state.awaits_source
        if computing and self._fleet.colocated:
            self._fleet.colocated[state.prefill_side()].cancel(state)
            self._fleet.touch(state.prefill_side())
        elif computing and (state.phase is Phase.DECODING or state.mode == "local"):
            self._fleet.decode[state.decode_side()].cancel(state)
            self._fleet.touch(state.decode_side())
        elif not computing:
            self.give_up(state, "cancelled")

    def give_up(self, state: RequestState, why: FinishReason) -> None:
        """End a request that nobody is computing."""
        if state.phase is Phase.WAITING_PREFILL:
            self.withdraw_from_prefill(state)
        self.finish(state, why)

    def withdraw_from_prefill(self, state: RequestState) -> None:
        """Leave the queue; whoever waits behind it may be served now."""
        self.homeless_prefill.pop(state.id, None)
        if state.mode == "local" and state.reserved:
            self._fleet.decode[state.decode_side()].local.withdraw(state)
            return
        if state.prefill_worker is None:
            return
        if self._fleet.colocated:
            self._fleet.colocated[state.prefill_worker].withdraw(state)
        else:
            self._fleet.prefill[state.prefill_worker].withdraw(state)
        self._fleet.touch(state.prefill_worker)

    def finish(self, state: RequestState, why: FinishReason) -> None:
        """Nothing more comes for this request; it is forgotten once no transfer touches its blocks."""
        self._out.put(FinishRequest(state.id, why))
        state.enter(Phase.FINISHED)
        if self._chooser is not None:
            self._chooser.ended(state)
        if state.transfer is not None:
            self._out.put(StopTransfer(state.transfer))
        if not self._handover.is_quiet(state):
            self.leases.grant(state.id)  # the ends of its transfers are waited for no longer than that
        self.forget_if_quiet(state)

    def forget_if_quiet(self, state: RequestState) -> None:
        """Free what a finished request still holds, once no transfer reads or writes it any more."""
        if not self._handover.is_quiet(state):
            return
        if self._fleet.colocated:
            del self.states[state.id]
            return
        if state.prefill_worker is not None:
            self.release_source(state)
        self.leave_decode_worker(state)
        self._handover.forget(state)
        self.leases.drop(state.id)
        del self.states[state.id]

    def has_source(self, state: RequestState) -> bool:
        """Whether the prefill worker still holds the KV."""
        worker = state.prefill_worker
        return worker is not None and self._fleet.prefill[worker].pool.holds(state.id)

    def release_source(self, state: RequestState) -> None:
        """Free the blocks on the prefill side, if there are any."""
        if state.prefill_worker is None:
            return
        if state.transfer is None:
            self.leases.drop(state.id)
        engine = self._fleet.prefill[state.prefill_side()]
        if engine.pool.holds(state.id):
            engine.release(state, self._out)
            self._fleet.touch(state.prefill_side())
