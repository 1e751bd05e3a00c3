"""Requests move because workers do: one that takes nothing new gives away what waits there, one that begins to serve
takes its share.

It must not know why a worker takes no more, or when.
"""

from kvsim.core.fleet import Fleet
from kvsim.core.messages import DedicatedRole, RequestId, WorkerId
from kvsim.core.request import Phase, RequestState
from kvsim.core.request_life import RequestLife


class Relocation:
    """Changes where requests wait, never what they have got."""

    def __init__(self, fleet: Fleet, life: RequestLife) -> None:
        self._fleet = fleet
        self._life = life

    def place_waiting_elsewhere(self, worker: WorkerId) -> None:
        """The worker takes nothing new: what only waits there is placed again."""
        for state in self._fleet.engine(worker).take_waiting():
            if worker in self._fleet.decode:
                state.decode_worker = None
                self._life.request_memory(state)
            else:
                self._life.queue_for_prefill(state)

    def homeless_tokens(self, role: DedicatedRole) -> int:
        """The most context tokens of a request for which there is no worker of this role; 0 if there is none such."""
        return max([state.context_tokens for state in self._homeless(role).values()], default=0)

    def spread(self, role: DedicatedRole) -> None:
        """A worker has begun to serve in this role: place anew what waits for it, first what began first."""
        if role == "prefill":
            waiting = [state for engine in self._fleet.prefill.values() for state in engine.take_waiting()]
        else:
            waiting = [state for engine in self._fleet.decode.values() for state in engine.take_waiting()]
        waiting.sort(key=lambda state: state.id)
        first = [state for state in waiting if state.goes_first()]
        for state in (*reversed(first), *[state for state in waiting if not state.goes_first()]):
            if role == "prefill":
                self._life.queue_for_prefill(state)
            else:
                state.decode_worker = None
                self._life.request_memory(state)

    def leave_unfilled(self, worker: WorkerId) -> None:
        """Decode memory of this worker that was reserved for prompts whose prefill has not begun is asked for anew."""
        for state in list(self._life.states.values()):
            if state.decode_worker == worker and state.reserved and state.phase is Phase.WAITING_PREFILL:
                self._life.withdraw_from_prefill(state)
                self._life.leave_decode_worker(state)
                self._life.wait_for_prefill(state)

    def set_back_stranded(self, worker: WorkerId) -> None:
        """KV on this prefill worker that waits although there is no decode worker to fetch it is given up: else the
        worker, which may be the one that is to become one, would never get free."""
        for state in list(self._life.homeless_decode.values()):
            if state.prefill_worker == worker and state.phase is Phase.WAITING_MEMORY:
                del self._life.homeless_decode[state.id]
                state.restarts += 1
                self._life.leave_source(state)

    def _homeless(self, role: DedicatedRole) -> dict[RequestId, RequestState]:
        return self._life.homeless_prefill if role == "prefill" else self._life.homeless_decode
