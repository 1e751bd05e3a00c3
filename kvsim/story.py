"""The story of one request, told in order from the record of its run.

A scheduler that answers events scatters a request over many calls; this puts the pieces together again. It must not
interpret: each line is one event or command that names the request, or a run or transfer that carries it.
"""

from collections.abc import Iterable, Iterator

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import (
    AssignBlocks,
    BlockRuns,
    ChooseMode,
    Command,
    CutDecode,
    DecodeAdvanced,
    EndLease,
    Event,
    FinishRequest,
    LayersReady,
    PrefillDone,
    Record,
    ReleaseBlocks,
    RequestArrived,
    RequestCancelled,
    RequestId,
    RunDecode,
    RunId,
    RunPrefill,
    StartTransfer,
    StopTransfer,
    TransferDone,
    TransferFailed,
    TransferId,
    TransferReleased,
    WorkerId,
    WorkerLost,
)
from kvsim.units import format_bytes, format_duration_ns


class _Storyteller:
    """Remembers which runs and transfers carry the request."""

    def __init__(self, cluster: ClusterSpec, request: RequestId) -> None:
        self._names = [worker.name for worker in cluster.workers]
        self._request = request
        self._runs: set[RunId] = set()
        self._transfers: dict[TransferId, int] = {}  # with the generation of their source blocks
        self._workers: set[WorkerId] = set()  # those that hold blocks of it
        self._decode_steps = 0

    def event(self, event: Event) -> str | None:
        """One line, or None if the event does not concern the request."""
        match event:
            case RequestArrived(request) if request.id == self._request:
                return f"arrives with {request.prompt_tokens} prompt tokens"
            case LayersReady(worker, run, layers) if run in self._runs:
                return f"{layers} layers of its KV are ready on {self._names[worker]}"
            case PrefillDone(worker, run, finished) if run in self._runs:
                end = "; that was its last token" if self._request in finished else ""
                return f"step {run} on {self._names[worker]} is over{end}"
            case DecodeAdvanced() if event.run in self._runs:
                self._decode_steps += event.steps
                end = "; that was its last token" if self._request in event.finished else ""
                return f"{event.steps} decode steps of run {event.run} on {self._names[event.worker]} are over{end}"
            case TransferDone(transfer, generation) if transfer in self._transfers:
                stale = (
                    "" if generation == self._transfers[transfer] else " with blocks that are not proven to be its own"
                )
                return f"transfer {transfer} has arrived{stale}"
            case TransferReleased(transfer) if transfer in self._transfers:
                return f"transfer {transfer} has let go of its source blocks"
            case TransferFailed(transfer) if transfer in self._transfers:
                return f"transfer {transfer} has failed"
            case RequestCancelled(request) if request == self._request:
                return "its client gives it up"
            case WorkerLost(worker) if worker in self._workers:
                return f"{self._names[worker]} is lost"
            case _:
                return None

    def command(self, command: Command) -> str | None:
        """One line, or None if the command does not concern the request."""
        match command:
            case AssignBlocks(worker, request, blocks) if request == self._request:
                self._workers.add(worker)
                return f"-> {self._names[worker]} gives it {_blocks(blocks)}"
            case ReleaseBlocks(worker, request) if request == self._request:
                self._workers.discard(worker)
                return f"-> {self._names[worker]} frees its blocks"
            case RunPrefill():
                return self._prefill(command)
            case RunDecode() if self._request in command.batch:
                self._runs.add(command.run)
                return (
                    f"-> {self._names[command.worker]} decodes it in a batch of {len(command.batch)}, run {command.run}"
                )
            case CutDecode(worker, run) if run in self._runs:
                return f"-> run {run} on {self._names[worker]} is to end at its next step"
            case StartTransfer() if command.request == self._request:
                return self._transfer(command)
            case ChooseMode() if command.request == self._request:
                return f"-> mode {command.mode}: {_reason(command)}"
            case EndLease(worker, request) if request == self._request:
                return f"-> nobody has asked {self._names[worker]} for its KV during a whole lease"
            case StopTransfer(transfer) if transfer in self._transfers:
                return f"-> transfer {transfer} is to stop"
            case FinishRequest(request, why) if request == self._request:
                return f"-> finished: {why}"
            case _:
                return None

    def _prefill(self, command: RunPrefill) -> str | None:
        worker = self._names[command.worker]
        for chunk in command.chunks:
            if chunk.request == self._request:
                self._runs.add(command.run)
                last = chunk.start_token + chunk.tokens
                return f"-> {worker} computes its tokens {chunk.start_token} to {last}, step {command.run}"
        if self._request in command.decoding:
            self._runs.add(command.run)
            return f"-> {worker} decodes it beside {len(command.chunks)} prompt chunks, step {command.run}"
        return None

    def _transfer(self, command: StartTransfer) -> str:
        self._transfers[command.transfer] = command.generation
        ends = f"{self._names[command.source]} -> {self._names[command.target]}"
        layers = f"layers {command.first_layer} to {command.first_layer + command.layers}"
        size = f"{format_bytes(command.size_bytes)} in {command.operations} operations"
        return f"-> {command.kind} {ends}: {layers}, {size}, transfer {command.transfer}"


def tell(cluster: ClusterSpec, records: Iterable[Record], request: RequestId) -> Iterator[str]:
    """Lines such as ``   12.5 ms  arrives with 700 prompt tokens``, times counted from the start of the run."""
    teller = _Storyteller(cluster, request)
    for record in records:
        for event in record.events:
            if line := teller.event(event):
                yield f"{format_duration_ns(record.now_ns):>14}  {line}"
        for command in record.commands:
            if line := teller.command(command):
                yield f"{format_duration_ns(record.now_ns):>14}  {line}"


def _blocks(blocks: BlockRuns) -> str:
    count = sum(run[1] for run in blocks)
    shown = ", ".join(f"{first}..{first + length - 1}" if length > 1 else str(first) for first, length in blocks[:4])
    more = ", ..." if len(blocks) > 4 else ""
    return f"{count} blocks ({shown}{more})"


def _reason(choice: ChooseMode) -> str:
    """Why a mode was chosen, with the figures that decided it."""
    queue, prefill = format_duration_ns(choice.queue_ns), format_duration_ns(choice.prefill_ns)
    transfer, memory = format_duration_ns(choice.transfer_ns), f"{choice.memory_share / 10_000:.0f} %"
    match choice.why:
        case "local_sooner":
            return f"sooner there than after a queue of {queue}, a prefill of {prefill} and a transfer of {transfer}"
        case "no_prefill_worker":
            return "there is no prefill worker"
        case "transfers_fail":
            return "its KV reaches no decode worker"
        case "memory_free":
            return f"only {memory} of the decode worker's memory is spoken for"
        case "just_in_time":
            return (
                f"{memory} of the decode memory is spoken for; {queue} of prefill left just hide {transfer} of transfer"
            )
        case "memory_scarce":
            return f"{memory} of the decode worker's memory is spoken for"
