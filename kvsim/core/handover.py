"""Transfers in flight: which layers of which request they carry, and when its source blocks are nobody's concern any
more.

Ownership of a request's blocks on the prefill side::

    prefill run ......... transfers ............ last layers arrived ... released
    |<- being filled ->|<- held: nobody may take them, not even after FinishRequest ->|

It must not know why a transfer starts; ``batching.layers_to_start`` and the scheduler decide that.
"""

from kvsim.core.cluster import ClusterSpec
from kvsim.core.descriptors import TransferPlan, TransferPlanner, transfer_planner
from kvsim.core.links import LinkLoads
from kvsim.core.messages import BlockRuns, RequestId, ServingMode, StartTransfer, TransferId, TransferKind, WorkerId
from kvsim.core.outbox import Outbox
from kvsim.core.request import RequestState

KIND_OF_MODE: dict[ServingMode, TransferKind] = {
    "push": "push",
    "pull": "pull",
    "streamed": "pull",
    "message": "message",
}


class _InFlight:
    """A transfer that has not arrived, or not let go of its source. ``size_bytes``: 0 where links are not watched."""

    __slots__ = ("arrived", "generation", "released", "size_bytes", "source", "state", "target")

    def __init__(
        self, state: RequestState, source: WorkerId, target: WorkerId, generation: int, size_bytes: int
    ) -> None:
        self.state = state
        self.source = source
        self.target = target
        self.generation = generation
        self.size_bytes = size_bytes
        self.arrived = False
        self.released = False


class HandOver:
    """Starts transfers and books their reports. A report for a transfer that is not in flight is ignored by its id."""

    def __init__(self, cluster: ClusterSpec, links: LinkLoads | None = None) -> None:
        self._kv = cluster.kv
        self._links = links
        self._shapes = [(spec.tensor_parallel, cluster.block_tokens(spec.id)) for spec in cluster.workers]
        self._planners: dict[int, TransferPlanner] = {}  # by source and target, as one number
        self._plans: dict[RequestId, tuple[TransferPlan, BlockRuns, BlockRuns]] = {}
        self._in_flight: dict[TransferId, _InFlight] = {}

    def start(
        self, state: RequestState, layers: int, blocks: tuple[BlockRuns, BlockRuns], generation: int, out: Outbox
    ) -> None:
        """Move the next ``layers`` layers of the request from its ``blocks`` (source, target), the source's being of
        this ``generation``."""
        request = state.id
        source, target = state.prefill_side(), state.decode_side()
        planned = self._plans.pop(request, None)
        if planned is None:
            planned = (self._planner(source, target).plan(blocks[0], blocks[1]), blocks[0], blocks[1])
            if self._links is not None:
                left_bytes = planned[0].size_bytes(self._kv.layers - state.layers_started)
                self._links.begin(request, source, target, left_bytes)
        plan, source_blocks, target_blocks = planned
        kind = KIND_OF_MODE[state.mode]
        first_layer = state.layers_started
        state.layers_started += layers
        last = state.layers_started == self._kv.layers
        if not last:
            self._plans[request] = planned
        # each pair of ranks exchanges one packed message, or one operation for each coalesced range
        operations = plan.messages if kind == "message" else plan.operations(first_layer, layers)
        transfer = out.next_transfer()
        state.transfer = transfer
        state.transfers_unreleased += 1
        size_bytes = plan.size_bytes(layers)
        watched_bytes = size_bytes if self._links is not None else 0
        self._in_flight[transfer] = _InFlight(state, source, target, generation, watched_bytes)
        out.put(
            StartTransfer(
                transfer,
                request,
                kind,
                source,
                target,
                source_blocks,
                target_blocks,
                first_layer,
                layers,
                size_bytes,
                operations,
                last,
                generation,
                state.transfer_path,
            )
        )

    def carried_by(self, transfer: TransferId) -> RequestState | None:
        """The request that a transfer in flight belongs to."""
        flight = self._in_flight.get(transfer)
        return flight.state if flight is not None else None

    def arrived(self, transfer: TransferId, generation: int) -> tuple[RequestState | None, bool]:
        """The target may read what the transfer carried, from blocks of this ``generation``. Returns its request, and
        whether that is the request's KV. If it is not, its layers have to be moved again."""
        flight = self._in_flight.get(transfer)
        if flight is None or flight.arrived:
            return None, False
        flight.arrived = True
        state, fresh = flight.state, generation == flight.generation
        if fresh:
            state.layers_arrived = state.layers_started
            if self._links is not None:
                self._links.moved(state.id, flight.size_bytes)
        else:
            state.layers_started = state.layers_arrived
            self._drop_plan(state.id)
        state.transfer = None
        if flight.released:
            del self._in_flight[transfer]
        return state, fresh

    def released(self, transfer: TransferId) -> RequestState | None:
        """Nobody reads the source blocks of this transfer any more. Returns its request."""
        flight = self._in_flight.get(transfer)
        if flight is None or flight.released:
            return None
        self._release(transfer, flight)
        return flight.state

    def failed(self, transfer: TransferId) -> tuple[RequestState | None, bool]:
        """The transfer has ended without success: its request, and whether its layers have to be moved again. They
        need not if the target had them already and only word to the source was lost."""
        flight = self._in_flight.pop(transfer, None)
        if flight is None:
            return None, False
        state = flight.state
        if not flight.released:
            state.transfers_unreleased -= 1
        if not flight.arrived:
            state.layers_started = state.layers_arrived
            state.transfer = None
        return state, not flight.arrived

    def drop(self, state: RequestState, worker: WorkerId) -> bool:
        """Forget the transfers of the request from or to a worker that is gone. False if there are none."""
        gone = [transfer for transfer, flight in self._of(state) if worker in (flight.source, flight.target)]
        for transfer in gone:
            self.failed(transfer)
        return bool(gone)

    def let_go(self, state: RequestState) -> None:
        """The source blocks are waited for no more. A transfer that still reads them will find another generation, and
        its report will say so; one that has arrived reads them no more."""
        for transfer, flight in self._of(state):
            if not flight.released:
                self._release(transfer, flight)

    def _of(self, state: RequestState) -> list[tuple[TransferId, _InFlight]]:
        return [(transfer, flight) for transfer, flight in self._in_flight.items() if flight.state is state]

    def _release(self, transfer: TransferId, flight: _InFlight) -> None:
        flight.released = True
        flight.state.transfers_unreleased -= 1
        if flight.arrived:
            del self._in_flight[transfer]

    def involves(self, worker: WorkerId) -> bool:
        """Whether a transfer from or to this worker is in flight."""
        return any(worker in ends for ends in self.ends())

    def begin_anew(self, state: RequestState) -> None:
        """The layers that are ready go to another target, from the first one on."""
        self._drop_plan(state.id)
        state.layers_started = state.layers_arrived = 0
        state.transfer_failures = state.transfer_path = 0

    def source_is_free(self, state: RequestState) -> bool:
        """Whether every layer was handed to a transfer and every transfer has let go of the source."""
        return state.layers_started == self._kv.layers and state.transfers_unreleased == 0

    def is_quiet(self, state: RequestState) -> bool:
        """Whether no transfer reads or writes blocks of the request."""
        return state.transfer is None and state.transfers_unreleased == 0

    def forget(self, state: RequestState) -> None:
        """The request's hand-over is over or begins anew."""
        self._drop_plan(state.id)
        state.layers_ready = state.layers_started = state.layers_arrived = 0
        state.transfer_failures = state.transfer_path = 0

    def _drop_plan(self, request: RequestId) -> None:
        self._plans.pop(request, None)
        if self._links is not None:
            self._links.end(request)

    def _planner(self, source: WorkerId, target: WorkerId) -> TransferPlanner:
        ends = source * len(self._shapes) + target
        planner = self._planners.get(ends)
        if planner is None:
            (source_tp, source_tokens), (target_tp, target_tokens) = self._shapes[source], self._shapes[target]
            planner = transfer_planner(self._kv, source_tp, target_tp, source_tokens, target_tokens)
            self._planners[ends] = planner
        return planner

    def ends(self) -> list[tuple[WorkerId, WorkerId]]:
        """Source and target of every transfer in flight."""
        return [(flight.source, flight.target) for flight in self._in_flight.values()]

    def check(self) -> None:
        """Assert that at most one transfer of a request is in flight and that the counts agree."""
        for transfer, flight in self._in_flight.items():
            state = flight.state
            assert not (flight.arrived and flight.released), f"transfer {transfer} is over"
            assert flight.arrived or state.transfer == transfer, f"request {state.id}: {transfer} and {state.transfer}"
            count = sum(1 for _, other in self._of(state) if not other.released)
            assert count == state.transfers_unreleased, f"request {state.id}: {count} transfers not released"
        if self._links is not None:
            self._links.check()
