"""A run's record as a Chrome trace-event file, for ui.perfetto.dev or chrome://tracing.

One process per variant and worker. Its tracks: ``compute`` (one span a run), ``sends`` and ``receives`` (one span
a transfer, as many lanes as there are transfers at a time), ``role`` (where roles change) and a counter of reserved KV
blocks, by whether the KV of their request is complete there. Flow arrows lead from a request's first prefill run along
its transfers to its first decode run.

Records are read once, in order, and written as they come, so memory does not grow with the run. A span starts when its
command is given: time between the command and its execution is part of the span. This module must not know which driver
made the record, and derives no metric from it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kvsim.core.block_runs import count_blocks
from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import (
    AssignBlocks,
    Command,
    DecodeAdvanced,
    DismissWorker,
    EndLease,
    Event,
    FinishRequest,
    PrefillDone,
    Record,
    ReleaseBlocks,
    RequestId,
    RunDecode,
    RunId,
    RunPrefill,
    StartTransfer,
    TransferDone,
    TransferFailed,
    TransferId,
    WorkerId,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from kvsim.report.fault_tracks import fault_events
from kvsim.report.timeline_roles import RoleMessage, RoleSpans
from kvsim.report.timeline_tracks import Lanes, Memory
from kvsim.report.trace_events import COMPUTE_TRACK, TraceEvent, TraceEvents

ROLE_TRACK = 2
SEND_TRACKS, RECEIVE_TRACKS = 1_000, 1_000_000  # lane k of sends is track 1000 + k
FLOWS_PER_VARIANT = 1_000_000_000


def write_timeline(
    path: Path,
    records_by_variant: Mapping[str, Iterable[Record]],
    clusters: Mapping[str, ClusterSpec],
    faults: Mapping[str, Any] | None = None,
) -> Path:
    """Write the trace of every variant into one JSON file at ``path``; returns ``path``.

    ``clusters`` has the cluster of each variant. Variants start at the same zero, so they can be compared by eye.
    What has not ended when a record stops, ends there. ``faults`` is what ``faults.json`` of a run folder holds.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        separator = ""
        for event in _events_of_all(records_by_variant, clusters, faults or {}):
            file.write(separator + json.dumps(event, separators=(",", ":"), ensure_ascii=False))
            separator = ",\n"
        file.write("\n]}\n")
    return path


def _events_of_all(
    records_by_variant: Mapping[str, Iterable[Record]],
    clusters: Mapping[str, ClusterSpec],
    faults: Mapping[str, Any],
) -> Iterator[TraceEvent]:
    first_process = 1
    for place, (variant, records) in enumerate(records_by_variant.items()):
        yield from _Timeline(variant, clusters[variant], first_process, place * FLOWS_PER_VARIANT).events(records)
        first_process += len(clusters[variant].workers)
        if variant in faults:
            yield from fault_events(variant, faults[variant]["struck"], first_process)
            first_process += 1


class _Timeline:
    """The trace events of one variant, made while its records pass by."""

    def __init__(self, variant: str, cluster: ClusterSpec, first_process: int, first_flow: int) -> None:
        self._variant = variant
        self._cluster = cluster
        self._first_process = first_process
        self._trace = TraceEvents(first_process, first_flow)
        self._runs: dict[RunId, RunPrefill | RunDecode] = {}
        self._steps: dict[RunId, int] = {}
        self._transfers: dict[TransferId, StartTransfer] = {}
        workers = cluster.workers
        self._sends = [Lanes(SEND_TRACKS, "sends") for _ in workers]
        self._receives = [Lanes(RECEIVE_TRACKS, "receives") for _ in workers]
        self._memory = [Memory(cluster.block_tokens(worker.id)) for worker in workers]
        self._memory_shown = [(0, 0)] * len(workers)
        self._roles = RoleSpans()
        self._context_tokens: dict[RequestId, int] = {}
        self._flow_ended: dict[RequestId, bool] = {}

    def events(self, records: Iterable[Record]) -> Iterator[TraceEvent]:
        """Names of processes and tracks, then everything that happened, in the order of the records."""
        for worker in self._cluster.workers:
            yield self._trace.metadata(
                worker.id, 0, "process_name", name=f"{self._variant}: {worker.name} ({worker.role})"
            )
            yield self._trace.metadata(worker.id, 0, "process_sort_index", sort_index=self._first_process + worker.id)
            yield self._trace.metadata(worker.id, COMPUTE_TRACK, "thread_name", name="compute")
            if self._cluster.policy.roles is not None:
                yield self._trace.metadata(worker.id, ROLE_TRACK, "thread_name", name="role")
        now_ns = 0
        for record in records:
            now_ns = record.now_ns
            for event in record.events:
                yield from self._on_event(now_ns, event)
            for command in record.commands:
                yield from self._on_command(now_ns, command)
            yield from self._memory_counters(now_ns)
        yield from self._end_everything(now_ns)

    def _on_event(self, now_ns: int, event: Event) -> Iterator[TraceEvent]:
        if isinstance(event, RoleMessage):
            yield from self._change_role(now_ns, event)
        if isinstance(event, PrefillDone):
            yield from self._prefill_done(now_ns, event)
        elif isinstance(event, DecodeAdvanced):
            yield from self._decode_advanced(now_ns, event)
        elif isinstance(event, TransferDone) and event.transfer in self._transfers:
            order = self._transfers.pop(event.transfer)
            if order.last and event.generation == order.generation:
                self._memory[order.target].complete(order.request)
            yield from self._end_transfer(now_ns, order, failed=event.generation != order.generation)
        elif isinstance(event, TransferFailed) and event.transfer in self._transfers:
            yield from self._end_transfer(now_ns, self._transfers.pop(event.transfer), failed=True)
        elif isinstance(event, WorkerLost):
            yield from self._lose(now_ns, event.worker)
        elif isinstance(event, WorkerJoined | WorkerLeaving):
            yield self._trace.moment(now_ns, event.worker, "joined" if isinstance(event, WorkerJoined) else "to leave")

    def _lose(self, now_ns: int, worker: WorkerId) -> Iterator[TraceEvent]:
        """All that was on the worker ends."""
        yield self._trace.moment(now_ns, worker, "lost")
        for run in [run for run, command in self._runs.items() if command.worker == worker]:
            yield self._trace.end(now_ns, worker, COMPUTE_TRACK, {"lost": True})
            del self._runs[run]
            self._steps.pop(run, None)
        for transfer, command in list(self._transfers.items()):
            if worker in (command.source, command.target):
                yield from self._end_transfer(now_ns, self._transfers.pop(transfer), failed=True)
        self._memory[worker].clear()

    def _on_command(self, now_ns: int, command: Command) -> Iterator[TraceEvent]:
        if isinstance(command, RoleMessage):
            yield from self._change_role(now_ns, command)
        if isinstance(command, AssignBlocks):
            self._memory[command.worker].assign(command.request, count_blocks(command.blocks))
        elif isinstance(command, ReleaseBlocks):
            self._memory[command.worker].release(command.request)
        elif isinstance(command, RunPrefill):
            yield from self._start_prefill(now_ns, command)
        elif isinstance(command, RunDecode):
            yield from self._start_decode(now_ns, command)
        elif isinstance(command, StartTransfer):
            yield from self._start_transfer(now_ns, command)
        elif isinstance(command, DismissWorker):
            yield self._trace.moment(now_ns, command.worker, "dismissed")
        elif isinstance(command, EndLease):
            yield self._trace.moment(now_ns, command.worker, f"lease of request {command.request} is over")
        elif isinstance(command, FinishRequest):
            self._context_tokens.pop(command.request, None)
            self._flow_ended.pop(command.request, None)

    def _start_prefill(self, now_ns: int, command: RunPrefill) -> Iterator[TraceEvent]:
        self._runs[command.run] = command
        tokens = sum(chunk.tokens for chunk in command.chunks)
        name = f"prefill {_short([chunk.request for chunk in command.chunks])}: {tokens} tokens"
        chunks = [f"request {c.request}: tokens {c.start_token} to {c.start_token + c.tokens}" for c in command.chunks]
        arguments: dict[str, object] = {"run": command.run, "tokens": tokens, "chunks": chunks}
        if command.decoding:
            name += f" + decode of {len(command.decoding)}"
            arguments["decoding"] = command.decoding
        yield self._trace.begin(now_ns, command.worker, COMPUTE_TRACK, name, "prefill", arguments)
        for chunk in command.chunks:
            if chunk.request not in self._flow_ended:
                self._flow_ended[chunk.request] = False
                yield self._trace.flow(now_ns, command.worker, COMPUTE_TRACK, chunk.request, "s")
        yield from self._end_flows(now_ns, command.worker, command.decoding)

    def _start_decode(self, now_ns: int, command: RunDecode) -> Iterator[TraceEvent]:
        self._runs[command.run] = command
        self._steps[command.run] = 0
        name = f"decode of {len(command.batch)}"
        arguments = {"run": command.run, "requests": list(command.batch), "steps_max": command.steps_max}
        yield self._trace.begin(now_ns, command.worker, COMPUTE_TRACK, name, "decode", arguments)
        yield from self._end_flows(now_ns, command.worker, command.batch)

    def _prefill_done(self, now_ns: int, event: PrefillDone) -> Iterator[TraceEvent]:
        command = self._runs.pop(event.run, None)
        if not isinstance(command, RunPrefill):
            return  # reported twice
        for chunk in command.chunks:
            self._context_tokens[chunk.request] = chunk.start_token + chunk.tokens
        for request in command.completes:
            self._memory[command.worker].complete(request)
        self._grow(command.worker, command.decoding, 1)
        yield self._trace.end(now_ns, command.worker, COMPUTE_TRACK, {"finished": list(event.finished)})

    def _decode_advanced(self, now_ns: int, event: DecodeAdvanced) -> Iterator[TraceEvent]:
        command = self._runs.get(event.run)
        if not isinstance(command, RunDecode):
            return  # a late report of a run that has ended
        self._steps[event.run] += event.steps
        self._grow(command.worker, command.batch, event.steps)
        if event.ended:
            del self._runs[event.run]
            arguments = {"steps": self._steps.pop(event.run), "finished": list(event.finished)}
            yield self._trace.end(now_ns, command.worker, COMPUTE_TRACK, arguments)

    def _grow(self, worker: WorkerId, requests: Iterable[RequestId], steps: int) -> None:
        for request in requests:
            self._context_tokens[request] = self._context_tokens.get(request, 0) + steps
            self._memory[worker].grow_to(request, self._context_tokens[request])

    def _start_transfer(self, now_ns: int, command: StartTransfer) -> Iterator[TraceEvent]:
        self._transfers[command.transfer] = command
        source, target = self._cluster.workers[command.source], self._cluster.workers[command.target]
        arguments = {
            "request": command.request,
            "transfer": command.transfer,
            "kind": command.kind,
            "from": source.name,
            "to": target.name,
            "layers": f"{command.first_layer} to {command.first_layer + command.layers}",
            "bytes": command.size_bytes,
            "operations": command.operations,
        }
        name = f"{command.kind} request {command.request}"
        for worker, lanes in ((source, self._sends), (target, self._receives)):
            track, new_name = lanes[worker.id].enter(command.transfer)
            if new_name is not None:
                yield self._trace.metadata(worker.id, track, "thread_name", name=new_name)
                yield self._trace.metadata(worker.id, track, "thread_sort_index", sort_index=track)
            yield self._trace.begin(now_ns, worker.id, track, name, "transfer", arguments)
            if command.request in self._flow_ended and not self._flow_ended[command.request]:
                yield self._trace.flow(now_ns, worker.id, track, command.request, "t")

    def _end_transfer(self, now_ns: int, command: StartTransfer, *, failed: bool = False) -> Iterator[TraceEvent]:
        how = {"failed": True} if failed else {}
        yield self._trace.end(now_ns, command.source, self._sends[command.source].leave(command.transfer), how)
        yield self._trace.end(now_ns, command.target, self._receives[command.target].leave(command.transfer), how)

    def _end_flows(self, now_ns: int, worker: WorkerId, requests: Iterable[RequestId]) -> Iterator[TraceEvent]:
        """Arrows end where a request decodes for the first time."""
        for request in requests:
            if request in self._flow_ended and not self._flow_ended[request]:
                self._flow_ended[request] = True
                yield self._trace.flow(now_ns, worker, COMPUTE_TRACK, request, "f")

    def _memory_counters(self, now_ns: int) -> Iterator[TraceEvent]:
        for worker in self._cluster.workers:
            memory = self._memory[worker.id]
            filled = memory.reserved_blocks - memory.unfilled_blocks
            if (filled, memory.unfilled_blocks) != self._memory_shown[worker.id]:
                self._memory_shown[worker.id] = filled, memory.unfilled_blocks
                blocks = {"complete": filled, "not complete yet": memory.unfilled_blocks}
                yield self._trace.event(now_ns, worker.id, 0, "C", name="KV blocks reserved", args=blocks)

    def _change_role(self, now_ns: int, message: RoleMessage) -> Iterator[TraceEvent]:
        worker, change = message.worker, self._roles.note(message)
        if change.ends:
            yield self._trace.end(now_ns, worker, ROLE_TRACK, {} if change.begins else change.arguments)
        if change.begins is not None:
            yield self._trace.begin(now_ns, worker, ROLE_TRACK, change.begins, "role", change.arguments)

    def _end_everything(self, now_ns: int) -> Iterator[TraceEvent]:
        for run in self._runs.values():
            yield self._trace.end(now_ns, run.worker, COMPUTE_TRACK, {"unfinished": True})
        for transfer in self._transfers.values():
            yield from self._end_transfer(now_ns, transfer)
        for worker in self._roles.open():
            yield self._trace.end(now_ns, worker, ROLE_TRACK, {"unfinished": True})


def _short(requests: list[RequestId]) -> str:
    first = f"request {requests[0]}" if requests else "nothing"
    return first if len(requests) <= 1 else f"{first} and {len(requests) - 1} more"
