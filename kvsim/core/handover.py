"""Transfers in flight: which layers of which request they carry, and when its source blocks are nobody's concern any
more.

Ownership of a request's blocks on the prefill side::

    prefill run ......... transfers ............ last layers arrived ... released
    |<- being filled ->|<- held: nobody may take them, not even after FinishRequest ->|

It must not know why a transfer starts; ``batching.layers_to_start`` and the scheduler decide that.
"""

from kvsim.core.cluster import ClusterSpec
from kvsim.core.descriptors import TransferPlan, TransferPlanner
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


class HandOver:
    """Starts transfers and books their reports. A report for a transfer that is not in flight is ignored by its id."""

    def __init__(self, cluster: ClusterSpec, links: LinkLoads | None = None) -> None:
        self._kv = cluster.kv
        self._links = links
        self._sizes_bytes: dict[TransferId, int] = {}  # of those on their way, where links are watched
        self._shapes = [(spec.tensor_parallel, cluster.block_tokens(spec.id)) for spec in cluster.workers]
        self._planners: dict[tuple[int, int, int, int], TransferPlanner] = {}
        self._plans: dict[RequestId, tuple[TransferPlan, BlockRuns, BlockRuns]] = {}
        self._arriving: dict[TransferId, RequestState] = {}
        self._unreleased: dict[TransferId, RequestState] = {}
        self._ends: dict[TransferId, tuple[WorkerId, WorkerId, int]] = {}  # source, target, generation; while in flight

    def start(
        self, state: RequestState, layers: int, blocks: tuple[BlockRuns, BlockRuns], generation: int, out: Outbox
    ) -> None:
        """Move the next ``layers`` layers of the request from its ``blocks`` (source, target), the source's being of
        this ``generation``."""
        request = state.request.id
        source, target = state.prefill_side(), state.decode_side()
        if request not in self._plans:
            self._plans[request] = (self._planner(source, target).plan(*blocks), *blocks)
            if self._links is not None:
                left_bytes = self._plans[request][0].size_bytes(self._kv.layers - state.layers_started)
                self._links.begin(request, source, target, left_bytes)
        plan, source_blocks, target_blocks = self._plans[request]
        kind = KIND_OF_MODE[state.mode]
        first_layer = state.layers_started
        state.layers_started += layers
        last = state.layers_started == self._kv.layers
        if last:
            del self._plans[request]
        # each pair of ranks exchanges one packed message, or one operation for each coalesced range
        operations = plan.messages if kind == "message" else plan.operations(first_layer, layers)
        transfer = out.next_transfer()
        state.transfer = transfer
        state.transfers_unreleased += 1
        self._arriving[transfer] = self._unreleased[transfer] = state
        self._ends[transfer] = source, target, generation
        if self._links is not None:
            self._sizes_bytes[transfer] = plan.size_bytes(layers)
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
                plan.size_bytes(layers),
                operations,
                last,
                generation,
                state.transfer_path,
            )
        )

    def carried_by(self, transfer: TransferId) -> RequestState | None:
        """The request that a transfer in flight belongs to."""
        return self._arriving.get(transfer) or self._unreleased.get(transfer)

    def arrived(self, transfer: TransferId, generation: int) -> tuple[RequestState | None, bool]:
        """The target may read what the transfer carried, from blocks of this ``generation``. Returns its request, and
        whether that is the request's KV. If it is not, its layers have to be moved again."""
        state = self._arriving.pop(transfer, None)
        if state is None:
            return None, False
        fresh = generation == self._ends[transfer][2]
        if fresh:
            state.layers_arrived = state.layers_started
            if self._links is not None:
                self._links.moved(state.request.id, self._sizes_bytes[transfer])
        else:
            state.layers_started = state.layers_arrived
            self._drop_plan(state.request.id)
        self._sizes_bytes.pop(transfer, None)
        state.transfer = None
        self._close(transfer)
        return state, fresh

    def released(self, transfer: TransferId) -> RequestState | None:
        """Nobody reads the source blocks of this transfer any more. Returns its request."""
        state = self._unreleased.pop(transfer, None)
        if state is not None:
            state.transfers_unreleased -= 1
            self._close(transfer)
        return state

    def failed(self, transfer: TransferId) -> tuple[RequestState | None, bool]:
        """The transfer has ended without success: its request, and whether its layers have to be moved again. They
        need not if the target had them already and only word to the source was lost."""
        arriving, unreleased = self._arriving.pop(transfer, None), self._unreleased.pop(transfer, None)
        state = arriving or unreleased
        if state is not None:
            del self._ends[transfer]
        if unreleased is not None:
            unreleased.transfers_unreleased -= 1
        if arriving is not None:
            arriving.layers_started = arriving.layers_arrived
            arriving.transfer = None
            self._sizes_bytes.pop(transfer, None)
        return state, arriving is not None

    def drop(self, state: RequestState, worker: WorkerId) -> bool:
        """Forget the transfers of the request from or to a worker that is gone. False if there are none."""
        mine = [transfer for transfer, other in self._unreleased.items() if other is state]
        if state.transfer is not None and state.transfer not in mine:
            mine.append(state.transfer)
        gone = [transfer for transfer in mine if worker in self._ends[transfer][:2]]
        for transfer in gone:
            self.failed(transfer)
        return bool(gone)

    def let_go(self, state: RequestState) -> None:
        """The source blocks are waited for no more. A transfer that still reads them will find another generation, and
        its report will say so; one that has arrived reads them no more."""
        for transfer in [transfer for transfer, other in self._unreleased.items() if other is state]:
            del self._unreleased[transfer]
            self._close(transfer)
        state.transfers_unreleased = 0

    def _close(self, transfer: TransferId) -> None:
        """Forget the ends of a transfer that has arrived and is released."""
        if transfer not in self._arriving and transfer not in self._unreleased:
            del self._ends[transfer]

    def involves(self, worker: WorkerId) -> bool:
        """Whether a transfer from or to this worker is in flight."""
        return any(worker in ends for ends in self._ends.values())

    def begin_anew(self, state: RequestState) -> None:
        """The layers that are ready go to another target, from the first one on."""
        self._drop_plan(state.request.id)
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
        self._drop_plan(state.request.id)
        state.layers_ready = state.layers_started = state.layers_arrived = 0
        state.transfer_failures = state.transfer_path = 0

    def _drop_plan(self, request: RequestId) -> None:
        self._plans.pop(request, None)
        if self._links is not None:
            self._links.end(request)

    def _planner(self, source: WorkerId, target: WorkerId) -> TransferPlanner:
        (source_tp, source_tokens), (target_tp, target_tokens) = self._shapes[source], self._shapes[target]
        shapes = source_tp, target_tp, source_tokens, target_tokens
        if shapes not in self._planners:
            self._planners[shapes] = TransferPlanner(self._kv, *shapes)
        return self._planners[shapes]

    def ends(self) -> list[tuple[WorkerId, WorkerId]]:
        """Source and target of every transfer in flight."""
        return [(source, target) for source, target, _ in self._ends.values()]

    def check(self) -> None:
        """Assert that at most one transfer of a request is in flight and that the counts agree."""
        for transfer, state in self._arriving.items():
            assert state.transfer == transfer, f"request {state.request.id}: transfers {transfer} and {state.transfer}"
        for state in self._unreleased.values():
            count = sum(1 for other in self._unreleased.values() if other is state)
            assert count == state.transfers_unreleased, f"request {state.request.id}: {count} transfers not released"
        if self._links is not None:
            self._links.check()
