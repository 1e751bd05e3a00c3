"""The scheduler: everything that happened at one instant in, commands out.

``Scheduler.handle`` only dispatches; one method per event says what it means for a request, and the engines (one a
worker) say what a worker does next. Read ``messages`` first, then this file from top to bottom.

It reads no clock, draws no random number and does no I/O. The same events give the same commands, byte for byte.
"""

from collections.abc import Callable, Sequence

from kvsim.core.batching import layers_to_start
from kvsim.core.cluster import ClusterSpec
from kvsim.core.colocated_engine import ColocatedEngine
from kvsim.core.event_order import event_key
from kvsim.core.fleet import Fleet
from kvsim.core.handover import HandOver
from kvsim.core.messages import (
    Command,
    DeadlineReached,
    DecodeAdvanced,
    Event,
    FinishReason,
    FinishRequest,
    LayersReady,
    PrefillDone,
    RequestArrived,
    RequestId,
    TransferDone,
    TransferReleased,
)
from kvsim.core.outbox import Outbox
from kvsim.core.request import Phase, RequestState
from kvsim.core.waits import PrefillWaits

Ended = tuple[list[RequestState], list[RequestState]]


class Scheduler:
    """Owns the state of every request and worker. Single-threaded, never suspends.

    ``deadline_ns`` is the instant at which it wants to be called at the latest (with ``DeadlineReached`` or anything
    else).
    """

    def __init__(self, cluster: ClusterSpec) -> None:
        self._layers = cluster.kv.layers
        self._policy = cluster.policy
        self._now_ns = 0
        self._out = Outbox()
        self._fleet = Fleet(cluster)
        self._handover = HandOver(cluster)
        self._states: dict[RequestId, RequestState] = {}
        self._waits = PrefillWaits(cluster.policy.prefill_wait_max_ns)
        self._on: dict[type, Callable[..., None]] = {
            RequestArrived: self._on_request_arrived,
            LayersReady: self._on_layers_ready,
            PrefillDone: self._on_prefill_done,
            DecodeAdvanced: self._on_decode_advanced,
            TransferDone: self._on_transfer_done,
            TransferReleased: self._on_transfer_released,
            DeadlineReached: self._on_deadline_reached,
        }

    # --- the contract -------------------------------------------------------------------------------------------------

    def handle(self, now_ns: int, events: Sequence[Event]) -> list[Command]:
        """Take in everything that happened at ``now_ns``; return what is to be done."""
        assert now_ns >= self._now_ns, f"time runs backwards: {now_ns} after {self._now_ns}"
        self._now_ns = now_ns
        if len(events) == 1:
            self._on[type(events[0])](events[0])
        else:
            ordered = sorted(events, key=event_key)
            advanced = sum([type(event) is DecodeAdvanced for event in ordered])
            for index, event in enumerate(ordered):
                if index == advanced:
                    self._settle()  # see EVENT_ORDER in event_order
                self._on[type(event)](event)
        for state in self._waits.expire(now_ns):
            self._give_up(state)
        self._settle()
        return self._out.take()

    @property
    def deadline_ns(self) -> int | None:
        """When the request that has waited longest gives up; None if nothing is due."""
        return self._waits.deadline_ns

    @property
    def requests_live(self) -> int:
        """Requests that the scheduler still remembers."""
        return len(self._states)

    def check(self) -> None:
        """Assert the conservation laws of every worker and, when nothing is left to do, that nothing is left over."""
        self._handover.check()
        for engine in self._fleet.engines():
            engine.check()
            if not self._states:
                used = engine.pool.blocks_total - engine.pool.blocks_free
                assert used == 0, f"worker {engine.spec.id} holds {used} blocks of no request"
                assert engine.tokens_outstanding == 0, f"worker {engine.spec.id}: {engine.tokens_outstanding} tokens"

    # --- one method per event -----------------------------------------------------------------------------------------

    def _on_request_arrived(self, event: RequestArrived) -> None:
        request = event.request
        assert request.id not in self._states, f"request {request.id} arrived twice"
        if request.prompt_tokens >= self._fleet.context_tokens_max:
            self._out.put(FinishRequest(request.id, "too_long"))
            return
        worker = self._fleet.place_prefill(request.prompt_tokens) if self._fleet.colocated else None
        generated_max = min(request.output_tokens_max, self._fleet.room_tokens(worker, request.prompt_tokens))
        state = RequestState(request, Phase.ARRIVED, generated_max, worker, context_tokens=request.prompt_tokens)
        self._states[request.id] = state
        self._waits.add(state, self._now_ns)
        self._wait_for_prefill(state)

    def _on_layers_ready(self, event: LayersReady) -> None:
        for state in self._fleet.prefill[event.worker].running(event.run):
            state.layers_ready = event.layers
            self._start_transfer(state)

    def _on_prefill_done(self, event: PrefillDone) -> None:
        colocated = self._fleet.colocated.get(event.worker)
        if colocated is not None:
            self._finish_on_colocated(colocated, colocated.finish_step(event))
            return
        for state in self._fleet.prefill[event.worker].finish_run(event.run):
            state.generated += 1
            state.layers_ready = self._layers
            if state.request.id in event.finished:
                self._finish(state, "stop")
            elif state.generated == state.generated_max:
                self._finish(state, "length")
            else:
                self._hand_over(state)
        self._fleet.touch(event.worker)

    def _on_decode_advanced(self, event: DecodeAdvanced) -> None:
        colocated = self._fleet.colocated.get(event.worker)
        if colocated is not None:
            self._finish_on_colocated(colocated, colocated.advance(event))
            return
        engine = self._fleet.decode[event.worker]
        ended = engine.advance(event)
        if ended is None:
            return
        stopped, limited = ended
        for state in stopped:
            engine.release(state, self._out)
            self._finish(state, "stop")
        for state in limited:
            engine.release(state, self._out)
            self._finish(state, "length")
        if event.ended:
            self._fleet.touch(event.worker)

    def _on_transfer_done(self, event: TransferDone) -> None:
        state = self._handover.arrived(event.transfer)
        if state is None:
            return
        if state.phase is Phase.FINISHED:
            self._forget_if_quiet(state)
        elif state.layers_arrived == self._layers:
            state.enter(Phase.WAITING_DECODE)
            self._fleet.decode[state.decode_side()].make_ready(state)
            self._fleet.touch(state.decode_side())
        else:
            self._start_transfer(state)

    def _on_transfer_released(self, event: TransferReleased) -> None:
        state = self._handover.released(event.transfer)
        if state is None:
            return
        if state.phase is Phase.FINISHED:
            self._forget_if_quiet(state)
        elif self._handover.source_is_free(state):
            self._fleet.prefill[state.prefill_side()].release(state, self._out)
            self._fleet.touch(state.prefill_side())
            if state.awaits_source:
                self._prefill_again(state)

    def _on_deadline_reached(self, event: DeadlineReached) -> None:
        """Nothing beyond what every call does: waits expire, workers are planned."""

    # --- the life of a request ----------------------------------------------------------------------------------------

    def _wait_for_prefill(self, state: RequestState) -> None:
        """Push needs its decode memory before it may queue for prefill; every other mode queues at once."""
        if self._policy.transfer_mode == "push" and not state.reserved:
            state.enter(Phase.WAITING_MEMORY)
            self._request_memory(state)
            return
        state.enter(Phase.WAITING_PREFILL)
        if self._fleet.colocated:
            self._fleet.colocated[state.prefill_side()].enqueue(state)
        else:  # placed when it queues and not before: only then do the loads say where it is served soonest
            state.prefill_worker = self._fleet.place_prefill(state.context_tokens)
            self._fleet.prefill[state.prefill_worker].enqueue(state, first=state.preemptions > 0)
        self._fleet.touch(state.prefill_side())

    def _hand_over(self, state: RequestState) -> None:
        """The prefill is over and more tokens are wanted: the KV goes to a decode worker."""
        if state.reserved:
            state.enter(Phase.TRANSFERRING)
            self._start_transfer(state)
            return
        state.enter(Phase.WAITING_MEMORY)
        if state.decode_worker is None:
            self._request_memory(state)

    def _request_memory(self, state: RequestState) -> None:
        if state.decode_worker is None:
            state.decode_worker = self._fleet.place_decode(state.context_tokens)
        self._fleet.decode[state.decode_worker].request_memory(state, first=state.preemptions > 0)
        self._fleet.touch(state.decode_worker)

    def _admitted(self, state: RequestState) -> None:
        """The decode worker gave the request its blocks. A prompt that is still to be computed may queue now (push);
        one that is being computed (streamed) or is complete may move what there is of it."""
        if state.phase is Phase.WAITING_MEMORY and not state.layers_ready:
            self._wait_for_prefill(state)
            return
        if state.phase is Phase.WAITING_MEMORY:
            state.enter(Phase.TRANSFERRING)
        self._start_transfer(state)

    def _start_transfer(self, state: RequestState) -> None:
        layers = layers_to_start(
            state.layers_ready, state.layers_started, state.reserved, transfer_active=state.transfer is not None
        )
        if layers:
            source_blocks = self._fleet.prefill[state.prefill_side()].pool.table(state.request.id)
            target_blocks = self._fleet.decode[state.decode_side()].pool.table(state.request.id)
            self._handover.start(state, layers, (source_blocks, target_blocks), self._out)

    def _preempted(self, state: RequestState) -> None:
        """The decode worker took its blocks back: all that is known so far is prefilled again, ahead of new
        requests."""
        state.context_tokens = state.request.prompt_tokens + state.generated
        state.decode_worker = None
        state.preemptions += 1
        if state.transfers_unreleased:
            state.awaits_source = True
        else:
            self._prefill_again(state)

    def _prefill_again(self, state: RequestState) -> None:
        state.awaits_source = False
        self._handover.forget(state)
        self._wait_for_prefill(state)

    def _finish(self, state: RequestState, why: FinishReason) -> None:
        self._out.put(FinishRequest(state.request.id, why))
        state.enter(Phase.FINISHED)
        self._forget_if_quiet(state)

    def _forget_if_quiet(self, state: RequestState) -> None:
        """Free what a finished request still holds, once no transfer reads or writes it any more."""
        if not self._handover.is_quiet(state):
            return
        if state.prefill_worker is not None:
            engine = self._fleet.prefill[state.prefill_worker]
            if engine.pool.holds(state.request.id):
                engine.release(state, self._out)
                self._fleet.touch(state.prefill_worker)
        if state.decode_worker is not None:
            self._fleet.decode[state.decode_worker].withdraw(state)
            self._fleet.touch(state.decode_worker)
        self._handover.forget(state)
        del self._states[state.request.id]

    def _finish_on_colocated(self, engine: ColocatedEngine, ended: Ended | None) -> None:
        stopped, limited = ended or ([], [])
        for state in stopped:
            self._leave_colocated(engine, state, "stop")
        for state in limited:
            self._leave_colocated(engine, state, "length")
        self._fleet.touch(engine.spec.id)

    def _leave_colocated(self, engine: ColocatedEngine, state: RequestState, why: FinishReason) -> None:
        engine.release(state, self._out)
        self._out.put(FinishRequest(state.request.id, why))
        state.enter(Phase.FINISHED)
        del self._states[state.request.id]

    def _give_up(self, state: RequestState) -> None:
        """Reject a request that nobody has begun to serve; whoever waits behind it may be served now."""
        if self._fleet.colocated:
            self._fleet.colocated[state.prefill_side()].withdraw(state)
            self._fleet.touch(state.prefill_side())
            self._out.put(FinishRequest(state.request.id, "timeout"))
            state.enter(Phase.FINISHED)
            del self._states[state.request.id]
            return
        if state.phase is Phase.WAITING_PREFILL:
            self._fleet.prefill[state.prefill_side()].withdraw(state)
            self._fleet.touch(state.prefill_side())
        self._finish(state, "timeout")

    # --- the turn of the workers --------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Let every touched worker plan, until nothing changes any more."""
        while (worker := self._fleet.next_touched()) is not None:
            if worker in self._fleet.decode:
                admitted, preempted = self._fleet.decode[worker].plan(self._out)
                for state in preempted:  # each goes before all others, so the one that joined first ends up first
                    self._preempted(state)
                for state in admitted:
                    self._admitted(state)
            elif worker in self._fleet.colocated:
                self._fleet.colocated[worker].plan(self._out)
            else:
                for state in self._fleet.prefill[worker].plan(self._out):
                    if self._policy.transfer_mode == "streamed":
                        self._request_memory(state)
