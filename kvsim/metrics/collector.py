"""Listens to a run, simulated or real, and notes what metrics need: the only reader of events and commands.

It runs beside the scheduler, so a call appends integers to flat logs and computes nothing that could be computed later
from all requests at once (``kvsim.metrics.derive``). It must not know who carries out the commands.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import (
    FEMTOSECONDS_PER_NS,
    AssignBlocks,
    BlockRuns,
    Command,
    CutDecode,
    DeadlineReached,
    DecodeAdvanced,
    Event,
    FinishRequest,
    LayersReady,
    PrefillDone,
    Record,
    ReleaseBlocks,
    RequestArrived,
    RunDecode,
    RunPrefill,
    StartTransfer,
    TransferDone,
    TransferReleased,
)
from kvsim.metrics.columns import FINISH_REASONS, MISSING, Integers, RunColumns
from kvsim.metrics.derive import derive_columns
from kvsim.metrics.logs import Logs

_OUTCOMES = {reason: outcome for outcome, reason in enumerate(FINISH_REASONS)}
_run_blocks = itemgetter(1)

_SPAN_WORKER, _SPAN_LAST = 1, 3  # columns of a row of the log of spans
_PREFILL_START, _PREFILL_END = 1, 2
_RESIDENCY_RELEASED = 2
_TRANSFER_END, _TRANSFER_RESIDENCY = 4, 9


class Collector:
    """``observe`` every call of ``Scheduler.handle``, in order; then ``finish`` once.

    A log is one flat list of rows; ``Logs`` names its columns. A row that is completed later is found by its offset.
    Lists and not arrays, as ``array.extend`` costs several times as much for a short row.
    """

    def __init__(self, cluster: ClusterSpec) -> None:
        self._cluster = cluster
        self._end_ns = 0
        self._arrivals: list[int] = []
        self._prefill_runs: list[int] = []
        self._chunks: list[int] = []
        self._spans: list[int] = []
        self._segments: list[int] = []
        self._residencies: list[int] = []
        self._assigns: list[int] = []
        self._transfers: list[int] = []
        self._finishes: list[int] = []
        workers = len(cluster.workers)
        self._steps = [0] * workers
        self._batch_size = [0] * workers
        self._decode_run: list[int] = [MISSING] * workers
        self._decoding: dict[int, int] = {}  # request -> offset of its open span
        self._resident: list[dict[int, int]] = [{} for _ in range(workers)]  # request -> its open residency
        self._prefills_in_flight: dict[int, tuple[RunPrefill, int]] = {}  # run -> command and offset of its row
        self._transfers_in_flight: dict[int, int] = {}  # transfer -> offset of its row
        self._handlers: dict[type, Callable[[int, Any], None] | None] = {
            RequestArrived: self._arrived,
            LayersReady: None,
            PrefillDone: self._prefill_done,
            DecodeAdvanced: self._decode_advanced,
            TransferDone: self._transfer_done,
            TransferReleased: None,
            DeadlineReached: None,
            AssignBlocks: self._assign,
            ReleaseBlocks: self._release,
            RunPrefill: self._run_prefill,
            RunDecode: self._run_decode,
            CutDecode: None,
            StartTransfer: self._start_transfer,
            FinishRequest: self._finish_request,
        }

    def observe(self, now_ns: int, events: Sequence[Event], commands: Sequence[Command]) -> None:
        """Note one call of ``handle``: what had happened at ``now_ns`` and what was ordered."""
        if events:
            self._end_ns = now_ns
        handlers = self._handlers
        for event in events:
            handler = handlers[type(event)]
            if handler is not None:
                handler(now_ns, event)
        for command in commands:
            handler = handlers[type(command)]
            if handler is not None:
                handler(now_ns, command)

    def finish(self) -> RunColumns:
        """The run so far as columns. What is still under way has no end: prefills, transfers, requests."""
        for request in list(self._decoding):
            self._leave_batch(request)
        for command, offset in self._prefills_in_flight.values():
            self._note_chunks(command, offset)
        self._prefills_in_flight.clear()
        logs = Logs(
            arrivals=_rows(self._arrivals, 3),
            prefill_runs=_rows(self._prefill_runs, 4),
            chunks=_rows(self._chunks, 5),
            spans=_rows(self._spans, 6),
            segments=_rows(self._segments, 7),
            residencies=_rows(self._residencies, 3),
            assigns=_rows(self._assigns, 3),
            transfers=_rows(self._transfers, 10),
            finishes=_rows(self._finishes, 3),
            end_ns=self._end_ns,
        )
        return derive_columns(self._cluster, logs)

    # --- events ---

    def _arrived(self, now_ns: int, event: RequestArrived) -> None:
        request = event.request
        self._arrivals += (request.id, request.prompt_tokens, now_ns)

    def _prefill_done(self, now_ns: int, event: PrefillDone) -> None:
        prefill = self._prefills_in_flight.pop(event.run, None)
        if prefill is None:
            return  # reported twice
        command, offset = prefill
        self._prefill_runs[offset + _PREFILL_END] = now_ns
        self._note_chunks(command, offset)
        for request in command.completes:
            self._spans += (request, MISSING, MISSING, MISSING, MISSING, now_ns)
        if command.decoding:
            self._steps[command.worker] += 1
            duration_fs = (now_ns - self._prefill_runs[offset + _PREFILL_START]) * FEMTOSECONDS_PER_NS
            self._segments += (command.worker, now_ns, duration_fs, 0, 0, 1, 1)
        for request in event.finished:
            self._leave_batch(request)

    def _decode_advanced(self, now_ns: int, event: DecodeAdvanced) -> None:
        worker = event.worker
        if self._decode_run[worker] != event.run:
            return  # a late report of a run that has ended
        if event.steps:
            self._steps[worker] += event.steps
            costs_fs = (event.first_step_fs, event.step_growth_fs, event.carry_fs)
            self._segments += (worker, now_ns, *costs_fs, event.steps, 0)
        if event.ended:
            self._decode_run[worker] = MISSING
        for request in event.finished:
            self._leave_batch(request)

    def _transfer_done(self, now_ns: int, event: TransferDone) -> None:
        offset = self._transfers_in_flight.pop(event.transfer, None)
        if offset is None:
            return  # reported twice
        log = self._transfers
        log[offset + _TRANSFER_END] = now_ns
        log[offset + _TRANSFER_RESIDENCY] = self._resident[log[offset + 2]].get(log[offset], MISSING)

    # --- commands ---

    def _assign(self, now_ns: int, command: AssignBlocks) -> None:
        resident = self._resident[command.worker]
        residency = resident.get(command.request)
        if residency is None:
            residency = resident[command.request] = len(self._residencies) // 3
            self._residencies += (command.request, command.worker, MISSING)
        self._assigns += (residency, now_ns, _blocks(command.blocks))

    def _release(self, now_ns: int, command: ReleaseBlocks) -> None:
        request = command.request
        residency = self._resident[command.worker].pop(request, None)
        if residency is not None:
            self._residencies[3 * residency + _RESIDENCY_RELEASED] = now_ns
        offset = self._decoding.get(request)
        if offset is not None and self._spans[offset + _SPAN_WORKER] == command.worker:
            self._leave_batch(request)

    def _run_prefill(self, now_ns: int, command: RunPrefill) -> None:
        self._prefills_in_flight[command.run] = command, len(self._prefill_runs)
        requests = len(command.chunks) + len(command.decoding)
        self._prefill_runs += (command.worker, now_ns, MISSING, requests)
        if command.decoding:
            self._join_batch(now_ns, command.worker, command.decoding)

    def _run_decode(self, now_ns: int, command: RunDecode) -> None:
        self._decode_run[command.worker] = command.run
        self._join_batch(now_ns, command.worker, command.batch)

    def _start_transfer(self, now_ns: int, command: StartTransfer) -> None:
        self._transfers_in_flight[command.transfer] = len(self._transfers)
        self._transfers += (
            command.request,
            command.source,
            command.target,
            now_ns,
            MISSING,
            command.size_bytes,
            command.operations,
            _blocks(command.target_blocks) * command.layers,
            command.last,
            MISSING,
        )

    def _finish_request(self, now_ns: int, command: FinishRequest) -> None:
        self._finishes += (command.request, now_ns, _OUTCOMES[command.why])
        self._leave_batch(command.request)

    # --- bookkeeping ---

    def _note_chunks(self, command: RunPrefill, offset: int) -> None:
        resident = self._resident[command.worker]
        for chunk in command.chunks:
            request = chunk.request
            self._chunks += (request, offset // 4, resident.get(request, MISSING), chunk.start_token, chunk.tokens)

    def _join_batch(self, now_ns: int, worker: int, batch: Sequence[int]) -> None:
        """Open a span for each request of ``batch`` that has none.

        Requests that go on keep their order and new ones come last, so the walk starts at the end and the cost follows
        the number of new ones. A batch that leaves somebody out, or mixes the order, is taken apart in full.
        """
        decoding = self._decoding
        joining = 0
        for request in reversed(batch):
            if request in decoding:
                break
            joining += 1
        if joining:
            self._open_spans(now_ns, worker, batch[len(batch) - joining :])
        if self._batch_size[worker] != len(batch):
            members = frozenset(batch)
            for request, offset in list(decoding.items()):
                if self._spans[offset + _SPAN_WORKER] == worker and request not in members:
                    self._leave_batch(request)
            self._open_spans(now_ns, worker, [request for request in batch if request not in decoding])

    def _open_spans(self, now_ns: int, worker: int, requests: Sequence[int]) -> None:
        resident = self._resident[worker]
        first = self._steps[worker]
        for request in requests:
            self._decoding[request] = len(self._spans)
            self._spans += (request, worker, first, MISSING, resident.get(request, MISSING), now_ns)
        self._batch_size[worker] += len(requests)

    def _leave_batch(self, request: int) -> None:
        offset = self._decoding.pop(request, None)
        if offset is not None:
            worker = self._spans[offset + _SPAN_WORKER]
            self._spans[offset + _SPAN_LAST] = self._steps[worker] - 1
            self._batch_size[worker] -= 1


def collect(cluster: ClusterSpec, records: Iterable[Record]) -> RunColumns:
    """The columns of a stored record."""
    collector = Collector(cluster)
    for record in records:
        collector.observe(record.now_ns, record.events, record.commands)
    return collector.finish()


def _blocks(runs: BlockRuns) -> int:
    return runs[0][1] if len(runs) == 1 else sum(map(_run_blocks, runs))


def _rows(log: list[int], columns: int) -> Integers:
    """The log as an array with one row a column, which unpacks into named columns."""
    return np.array(log, dtype=np.int64).reshape(-1, columns).T
