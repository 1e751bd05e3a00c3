"""Listens to a run, simulated or real, and notes what metrics need: the only reader of events and commands.

It runs beside the scheduler, so a call appends integers to flat logs and computes nothing that could be computed later
from all requests at once (``kvsim.metrics.derive``). It must not know who carries out the commands.
"""

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import astuple

from kvsim.core.block_runs import count_blocks
from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import (
    FEMTOSECONDS_PER_NS,
    AssignBlocks,
    ChooseMode,
    Command,
    DecodeAdvanced,
    DismissWorker,
    Event,
    FinishRequest,
    PrefillDone,
    ReleaseBlocks,
    RequestArrived,
    RunDecode,
    RunPrefill,
    StartTransfer,
    TransferDone,
    TransferFailed,
    WorkerLost,
)
from kvsim.metrics.columns import FINISH_REASONS, MISSING, SERVING_MODES, RunColumns
from kvsim.metrics.derive import derive_columns
from kvsim.metrics.log import Boxed, Log
from kvsim.metrics.logs import Logs
from kvsim.metrics.mishaps import TRANSFER_CUT, TRANSFER_FAILED, TRANSFER_STALE, Mishaps
from kvsim.metrics.role_log import ROLE_MESSAGES, RoleLog
from kvsim.metrics.unnoted import UNNOTED


class Collector:
    """``observe`` every call of ``Scheduler.handle``, in order; then ``finish`` once.

    ``Logs`` names the columns of the logs. What becomes known of a row later goes to a log of its own, as pairs (row,
    value), so that every log only ever grows.
    """

    def __init__(self, cluster: ClusterSpec) -> None:
        self._cluster = cluster
        self._end_ns = 0
        self._arrivals = Log(3)
        self._prefill_runs = Log(3)
        self._prefill_ends = Log(2)
        self._chunks = Log(5)
        self._spans = Log(5)
        self._span_lasts = Log(2)
        self._segments = Log(7)
        self._residencies = Log(2)
        self._releases = Log(2)
        self._assigns = Log(3)
        self._transfers = Log(8)
        self._transfer_ends = Log(2)
        self._transfer_residencies = Log(2)
        self._choices = Log(2)
        self._finishes = Log(3)
        self._mishaps = Mishaps(Log(3))
        self._role_log = RoleLog(Log(5))
        self._prefills_noted = self._spans_noted = self._residencies_noted = self._transfers_noted = 0
        workers = len(cluster.workers)
        self._steps = [0] * workers
        self._batch_size = [0] * workers
        self._decode_run: list[int] = [MISSING] * workers
        self._decoding: dict[Boxed, tuple[Boxed, Boxed]] = {}  # request -> row of its open span, worker
        self._resident: list[dict[Boxed, Boxed]] = [{} for _ in range(workers)]  # request -> its open residency
        self._prefills_in_flight: dict[Boxed, tuple[RunPrefill, Boxed, Boxed]] = {}  # run -> command, row, start
        self._transfers_in_flight: dict[Boxed, tuple[StartTransfer, Boxed]] = {}  # transfer -> command, row
        self._handlers: dict[type, Callable[[int, Any], None] | None] = {
            **dict.fromkeys(UNNOTED),
            **dict.fromkeys(ROLE_MESSAGES, self._role_log.note),
            DismissWorker: self._mishaps.left_after(self._role_log.note),
            **self._mishaps.handlers(),
            RequestArrived: self._arrived,
            PrefillDone: self._prefill_done,
            DecodeAdvanced: self._decode_advanced,
            TransferDone: self._transfer_done,
            TransferFailed: self._transfer_failed,
            WorkerLost: self._worker_lost,
            AssignBlocks: self._assign,
            ReleaseBlocks: self._release,
            RunPrefill: self._run_prefill,
            RunDecode: self._run_decode,
            StartTransfer: self._start_transfer,
            ChooseMode: self._choose_mode,
            FinishRequest: self._finish_request,
        }

    def observe(self, now_ns: Boxed, events: Sequence[Event], commands: Sequence[Command]) -> None:
        """Note one call of ``handle``: what had happened at ``now_ns`` and what was ordered."""
        if events:
            self._end_ns = now_ns
        handlers = self._handlers
        messages: list[Event | Command] = [*events, *commands]
        for message in messages:
            if (handler := handlers[type(message)]) is not None:
                handler(now_ns, message)

    def finish(self) -> RunColumns:
        """The run so far as columns. What is still under way has no end: prefills, transfers, requests."""
        for request in list(self._decoding):
            self._leave_batch(request)
        for command, row, _ in self._prefills_in_flight.values():
            self._note_chunks(command, row)
        self._prefills_in_flight.clear()
        logs = Logs(
            arrivals=self._arrivals.take(),
            prefill_runs=self._prefill_runs.take({2: self._prefill_ends}),
            chunks=self._chunks.take(),
            spans=self._spans.take({3: self._span_lasts}),
            segments=self._segments.take(),
            residencies=self._residencies.take({2: self._releases}),
            assigns=self._assigns.take(),
            transfers=self._transfers.take({4: self._transfer_ends, 9: self._transfer_residencies}),
            choices=self._choices.take(),
            finishes=self._finishes.take(),
            mishaps=self._mishaps.take(),
            role_changes=self._role_log.take(),
            end_ns=self._end_ns,
        )
        return derive_columns(self._cluster, logs)

    # --- events ---

    def _arrived(self, now_ns: Boxed, event: RequestArrived) -> None:
        request, prompt_tokens, _, _ = astuple(event.request)
        self._arrivals.put((request, prompt_tokens, now_ns))

    def _prefill_done(self, now_ns: Boxed, event: PrefillDone) -> None:
        _, run, finished = astuple(event)
        prefill = self._prefills_in_flight.pop(run, None)
        if prefill is None:
            return  # reported twice
        command, row, start_ns = prefill
        self._prefill_ends.put((row, now_ns))
        self._note_chunks(command, row)
        completes: tuple[Boxed, ...] = command.completes
        for request in completes:
            self._spans.put((request, MISSING, MISSING, MISSING, now_ns))
            self._spans_noted += 1
        if command.decoding:
            self._steps[command.worker] += 1
            duration_fs = (now_ns - start_ns) * FEMTOSECONDS_PER_NS
            self._segments.put((command.worker, now_ns, duration_fs, 0, 0, 1, 1))
        for request in finished:
            self._leave_batch(request)

    def _decode_advanced(self, now_ns: Boxed, event: DecodeAdvanced) -> None:
        worker, run, steps, first_step_fs, step_growth_fs, ended, finished, carry_fs = astuple(event)
        if self._decode_run[worker] != run:
            return  # a late report of a run that has ended
        if steps:
            self._steps[worker] += steps
            self._segments.put((worker, now_ns, first_step_fs, step_growth_fs, carry_fs, steps, 0))
        if ended:
            self._decode_run[worker] = MISSING
        for request in finished:
            self._leave_batch(request)

    def _transfer_done(self, now_ns: Boxed, event: TransferDone) -> None:
        transfer, generation = astuple(event)
        in_flight = self._transfers_in_flight.pop(transfer, None)
        if in_flight is None:
            return  # reported twice
        command, row = in_flight
        if generation != command.generation:  # it brought somebody else's KV
            self._mishaps.broke(now_ns, TRANSFER_STALE, command)
            return
        self._transfer_ends.put((row, now_ns))
        self._transfer_residencies.put((row, self._resident[command.target].get(command.request, MISSING)))

    def _transfer_failed(self, now_ns: Boxed, event: TransferFailed) -> None:
        """It never ends: what it carried is moved by another transfer."""
        transfer = self._transfers_in_flight.pop(event.transfer, None)
        if transfer is not None:
            self._mishaps.broke(now_ns, TRANSFER_FAILED, transfer[0])

    def _worker_lost(self, now_ns: Boxed, event: WorkerLost) -> None:
        """Its blocks are nobody's, its run and its batch are over."""
        self._role_log.note(now_ns, event)
        worker = event.worker
        self._mishaps.lost(now_ns, worker, self._resident[worker])
        for residency in self._resident[worker].values():
            self._releases.put((residency, now_ns))
        self._resident[worker].clear()
        self._decode_run[worker] = MISSING
        for request, (_, decodes_on) in list(self._decoding.items()):
            if decodes_on == worker:
                self._leave_batch(request)
        for run, (command, row, _) in list(self._prefills_in_flight.items()):
            if command.worker == worker:
                self._prefill_ends.put((row, now_ns))
                del self._prefills_in_flight[run]
        for transfer, (order, _) in list(self._transfers_in_flight.items()):
            if worker in (order.source, order.target):
                del self._transfers_in_flight[transfer]
                self._mishaps.broke(now_ns, TRANSFER_CUT, order)

    # --- commands ---

    def _assign(self, now_ns: Boxed, command: AssignBlocks) -> None:
        worker, request, blocks, _ = astuple(command)
        resident = self._resident[worker]
        residency = resident.get(request)
        if residency is None:
            residency = resident[request] = self._residencies_noted
            self._residencies.put((request, worker))
            self._residencies_noted += 1
        self._assigns.put((residency, now_ns, count_blocks(blocks)))

    def _release(self, now_ns: Boxed, command: ReleaseBlocks) -> None:
        worker, request = astuple(command)
        residency = self._resident[worker].pop(request, None)
        if residency is not None:
            self._releases.put((residency, now_ns))
        span = self._decoding.get(request)
        if span is not None and span[1] == worker:
            self._leave_batch(request)

    def _run_prefill(self, now_ns: Boxed, command: RunPrefill) -> None:
        worker, run, chunks, _, decoding, _, _ = astuple(command)
        self._prefills_in_flight[run] = command, self._prefills_noted, now_ns
        self._prefill_runs.put((worker, now_ns, len(chunks) + len(decoding)))
        self._prefills_noted += 1
        if decoding:
            self._join_batch(now_ns, worker, decoding)

    def _run_decode(self, now_ns: Boxed, command: RunDecode) -> None:
        worker, run, batch, _, _ = astuple(command)
        self._decode_run[worker] = run
        self._join_batch(now_ns, worker, batch)

    def _start_transfer(self, now_ns: Boxed, command: StartTransfer) -> None:
        fields = astuple(command)
        transfer, request, _, source, target, _, target_blocks, _, layers, size_bytes, operations, last, _, _ = fields
        self._transfers_in_flight[transfer] = command, self._transfers_noted
        self._transfers_noted += 1
        if self._mishaps.to_move_again:
            self._mishaps.started(now_ns, command)
        block_layers = count_blocks(target_blocks) * layers
        self._transfers.put((request, source, target, now_ns, size_bytes, operations, block_layers, last))

    def _choose_mode(self, _now_ns: Boxed, command: ChooseMode) -> None:
        self._choices.put((command.request, SERVING_MODES.index(command.mode)))

    def _finish_request(self, now_ns: Boxed, command: FinishRequest) -> None:
        request, why = astuple(command)
        self._finishes.put((request, now_ns, FINISH_REASONS.index(why)))
        self._leave_batch(request)

    # --- bookkeeping ---

    def _note_chunks(self, command: RunPrefill, row: Boxed) -> None:
        resident = self._resident[command.worker]
        for chunk in command.chunks:
            request, start_token, tokens = astuple(chunk)
            self._chunks.put((request, row, resident.get(request, MISSING), start_token, tokens))

    def _join_batch(self, now_ns: Boxed, worker: Boxed, batch: tuple[Boxed, ...]) -> None:
        """Open a span for each request of ``batch`` that has none.

        Requests that go on keep their order and new ones come last, so the walk starts at the end and the cost follows
        the number of new ones. A batch that leaves somebody out, or mixes the order, is taken apart in full.
        """
        decoding = self._decoding
        if batch[-1] not in decoding:
            joining = 0
            for request in reversed(batch):
                if request in decoding:
                    break
                joining += 1
            self._open_spans(now_ns, worker, batch[len(batch) - joining :])
        if self._batch_size[worker] != len(batch):
            members = frozenset(batch)
            for request, (_, decodes_on) in list(decoding.items()):
                if decodes_on == worker and request not in members:
                    self._leave_batch(request)
            self._open_spans(now_ns, worker, [request for request in batch if request not in decoding])

    def _open_spans(self, now_ns: Boxed, worker: Boxed, requests: Sequence[Boxed]) -> None:
        resident = self._resident[worker]
        first = self._steps[worker]
        for request in requests:
            self._decoding[request] = self._spans_noted, worker
            self._spans.put((request, worker, first, resident.get(request, MISSING), now_ns))
            self._spans_noted += 1
        self._batch_size[worker] += len(requests)

    def _leave_batch(self, request: Boxed) -> None:
        span = self._decoding.pop(request, None)
        if span is not None:
            row, worker = span
            self._span_lasts.put((row, self._steps[worker] - 1))
            self._batch_size[worker] -= 1
