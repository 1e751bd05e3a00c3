"""Workers come and go: what becomes of the requests that were on one.

A request never ends because a worker did. What it has lost decides how far it goes back: a place in a queue is taken
elsewhere, decode memory is asked for elsewhere and filled from the KV that the prefill worker still has, and only where
the KV itself is gone the prompt and all that was generated are computed anew.

It must not know how a loss is noticed.
"""

from kvsim.core.decode_batch import DecodeBatch
from kvsim.core.fleet import Engine, Fleet
from kvsim.core.handover import HandOver
from kvsim.core.messages import DismissWorker, WorkerId
from kvsim.core.outbox import Outbox
from kvsim.core.prefill_engine import PrefillEngine
from kvsim.core.relocation import Relocation
from kvsim.core.request import Phase, RequestState
from kvsim.core.request_life import RequestLife


class Recovery:
    """Carries out joining, leaving and loss. A report about a worker that is not there (any more) changes nothing."""

    def __init__(self, fleet: Fleet, handover: HandOver, life: RequestLife, out: Outbox) -> None:
        self._fleet = fleet
        self._handover = handover
        self._life = life
        self._relocation = Relocation(fleet, life)
        self._out = out

    def joined(self, worker: WorkerId) -> None:
        """The worker may be given work, and takes its share of what waits. One that was leaving stays."""
        if self._fleet.admit(worker):
            self._life.find_homes()
            if not self._fleet.colocated:
                self._relocation.spread(self._fleet.role(worker))

    def leaving(self, worker: WorkerId) -> None:
        """Let the worker finish what it has begun and nothing else; what only waits there is placed elsewhere."""
        if not self._fleet.retire(worker):
            return
        self._relocation.place_waiting_elsewhere(worker)

    def dismiss_idle(self) -> None:
        """Let go of leaving workers that have nothing left."""
        if not self._fleet.anyone_leaves:
            return
        for worker in self._fleet.leaving():
            if self._fleet.is_idle(worker) and not self._handover.involves(worker):
                self._fleet.discard(worker)
                self._out.put(DismissWorker(worker))

    def lost(self, worker: WorkerId) -> None:
        """The worker is gone, with everything that was on it."""
        if not self._fleet.is_there(worker):
            return
        engine = self._fleet.discard(worker)
        self._out.drop(worker)
        states = list(self._life.states.values())  # in order of arrival
        begun = [state for state in states if _has_begun(state)]
        waiting = [state for state in states if not _has_begun(state)]
        for state in (*reversed(begun), *waiting):  # each that has begun goes ahead of all others: the first comes last
            if state.prefill_worker == worker and self._fleet.colocated:
                self._lost_all(state, engine)
                continue
            dropped = not self._handover.is_quiet(state) and self._handover.drop(state, worker)
            if state.prefill_worker == worker:
                self._lost_source(state)
            elif state.decode_worker == worker:
                self._lost_target(state, engine)
            elif dropped:  # to a decode worker that it had left
                self._life.source_released(state)

    def _lost_all(self, state: RequestState, engine: Engine) -> None:
        """A colocated worker had everything of this request."""
        if state.phase is Phase.FINISHED:
            return
        if state.id in _batch_of(engine):
            _batch_of(engine).leave(state.id)
        state.prefill_worker = None
        state.computed_tokens = 0
        state.restarts += 1
        state.context_tokens = state.tokens_known()
        if state.cancelled:
            self._life.finish(state, "cancelled")
            return
        if state.phase is not Phase.WAITING_PREFILL:
            state.enter(Phase.WAITING_PREFILL)
        self._life.queue_for_prefill(state)

    def _lost_source(self, state: RequestState) -> None:
        """The prefill worker of this request is gone: it had its place in the queue, its run, or its KV."""
        state.prefill_worker = None
        match state.phase:
            case Phase.FINISHED:
                self._life.forget_if_quiet(state)
            case Phase.WAITING_PREFILL:
                self._life.queue_for_prefill(state)
            case Phase.PREFILLING | Phase.WAITING_MEMORY | Phase.TRANSFERRING:
                state.restarts += 1
                self._life.leave_decode_worker(state)  # else it held memory there while it waits for some at a source
                self._life.compute_anew(state)
            case _ if state.awaits_source:
                self._life.leave_source(state)

    def _lost_target(self, state: RequestState, engine: Engine) -> None:
        """The decode worker of this request is gone. ``engine`` knows how far it had come there."""
        if state.id in _batch_of(engine):
            _batch_of(engine).leave(state.id)
        state.decode_worker = None
        state.reserved = False
        if state.mode == "local" and state.phase in (Phase.WAITING_PREFILL, Phase.PREFILLING):
            state.restarts += state.phase is Phase.PREFILLING
            self._life.compute_anew(state)
            return
        match state.phase:
            case Phase.FINISHED:
                self._life.forget_if_quiet(state)
            case Phase.DECODING:
                state.restarts += 1
                self._life.leave_source(state)
            case Phase.TRANSFERRING | Phase.WAITING_DECODE if not self._life.has_source(state):
                state.restarts += 1
                self._life.leave_source(state)
            case Phase.WAITING_PREFILL:  # push: the memory comes first
                self._life.withdraw_from_prefill(state)
                self._life.wait_for_prefill(state)
            case Phase.TRANSFERRING | Phase.WAITING_DECODE:
                self._handover.begin_anew(state)
                state.enter(Phase.WAITING_MEMORY)
                self._life.seek_target(state)
            case _:
                self._handover.begin_anew(state)
                self._life.request_memory(state)


def _has_begun(state: RequestState) -> bool:
    """Whether the request has been served before, so that it goes ahead of those that have not."""
    waits = state.phase in (Phase.WAITING_PREFILL, Phase.WAITING_MEMORY)
    return not waits or state.generated > 0 or state.goes_first()


def _batch_of(engine: Engine) -> DecodeBatch:
    assert not isinstance(engine, PrefillEngine), "a prefill worker decodes nothing"
    return engine.batch
