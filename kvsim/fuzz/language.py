"""The language of stories, as in ``tests/stories``: events as text in, commands as text out.

A story begins with one ``cluster`` line. Each line that is not indented is one call of the scheduler, ``at NOW: EVENT;
EVENT``; the indented lines below it are the commands that it answered with. Lines starting with # are kept. A story
ends when every request has, unless its last line says otherwise.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import (
    AssignBlocks,
    BlockRuns,
    ChooseMode,
    Command,
    CutDecode,
    DismissWorker,
    DrainWorker,
    EndLease,
    FinishRequest,
    KeepRole,
    Record,
    ReleaseBlocks,
    RequestId,
    RunDecode,
    RunPrefill,
    StartTransfer,
    StopTransfer,
    SwitchRole,
    TransferId,
    WorkerId,
)
from kvsim.core.scheduler import Scheduler
from kvsim.fuzz.cluster_line import read_cluster, write_cluster
from kvsim.fuzz.event_line import read_event, write_event

OPEN_END = "# It ends here even"
"""Begins the last line of a story that may leave requests in flight."""


def tell_story(text: str) -> str:
    """The story with its transcript written anew."""
    lines: list[str] = []
    scheduler: Scheduler | None = None
    names: dict[str, WorkerId] = {}
    generations: dict[TransferId, int] = {}
    for line in text.splitlines():
        if line.startswith("    "):
            continue
        lines.append(line)
        if line.startswith("cluster "):
            cluster = read_cluster(line)
            names = {worker.name: worker.id for worker in cluster.workers}
            scheduler = Scheduler(cluster)
        elif line.startswith("at "):
            assert scheduler is not None, "a story begins with a cluster"
            now, events = re.fullmatch(r"at (\d+): (.*)", line).groups()  # type: ignore[union-attr]
            reported = [read_event(event.split(), names, generations) for event in events.split(";")]
            commands = scheduler.handle(int(now), reported)
            generations.update({c.transfer: c.generation for c in commands if isinstance(c, StartTransfer)})
            lines += [f"    {show(command, list(names))}" for command in commands] or ["    nothing"]
            scheduler.check()
        else:
            assert not line or line.startswith("#"), f"what is {line!r}?"
    assert scheduler is not None
    left_open = lines[-1].startswith(OPEN_END)
    assert left_open or scheduler.requests_live == 0, f"the story ends with {scheduler.requests_live} requests live"
    return "\n".join(lines) + "\n"


def write_story(cluster: ClusterSpec, records: Iterable[Record], about: Sequence[str]) -> str:
    """A record as a story that begins with the comment ``about``. It ends as the record does, be it in the middle."""
    names = [worker.name for worker in cluster.workers]
    generations: dict[TransferId, int] = {}
    lines = [f"# {line}" for line in about]
    lines.append(write_cluster(cluster))
    for record in records:
        events = "; ".join(write_event(event, names, generations) for event in record.events)
        lines.append(f"at {record.now_ns}: {events}")
        lines += [f"    {show(command, names)}" for command in record.commands] or ["    nothing"]
        generations.update({c.transfer: c.generation for c in record.commands if isinstance(c, StartTransfer)})
    return "\n".join([*lines, f"{OPEN_END} if requests are left."]) + "\n"


def show(command: Command, names: list[str]) -> str:
    """One line for a command."""
    match command:
        case AssignBlocks(worker, request, blocks):
            return f"{names[worker]} gives r{request} blocks {runs(blocks)}"
        case ReleaseBlocks(worker, request):
            return f"{names[worker]} frees r{request}"
        case RunPrefill():
            return " ".join(prefill_words(command, names))
        case RunDecode(worker, run, batch, steps_max, spare):
            promised = f", spare {runs(spare)}" if spare else ""
            return f"{names[worker]} decodes {each(batch)} up to {steps_max} steps, run{run}{promised}"
        case CutDecode(worker, run):
            return f"{names[worker]} cuts run{run}"
        case StartTransfer():
            layers = f"layers {command.first_layer}..{command.first_layer + command.layers - 1}"
            source = f"{names[command.source]} {runs(command.source_blocks)}"
            target = f"{names[command.target]} {runs(command.target_blocks)}"
            last = ", the last" if command.last else ""
            size = f"{command.size_bytes} B in {command.operations}{last}"
            path = f", path {command.path}" if command.path else ""
            ends = f"{source} -> {target}, {layers}, {size}{path}"
            return f"{command.kind} t{command.transfer} of r{command.request}: {ends}"
        case StopTransfer(transfer):
            return f"stop t{transfer}"
        case ChooseMode(request, mode, why):
            times = f"queue {command.queue_ns}, prefill {command.prefill_ns}, transfer {command.transfer_ns}"
            return f"r{request} goes {mode}: {why} ({times}, memory {command.memory_share // 10_000} %)"
        case EndLease(worker, request):
            return f"the lease of r{request} on {names[worker]} is over"
        case FinishRequest(request, why):
            return f"r{request} ends: {why}"
        case _:
            return show_worker(command, names)


def show_worker(command: DismissWorker | DrainWorker | KeepRole | SwitchRole, names: list[str]) -> str:
    """One line for a command about a worker as a whole."""
    match command:
        case DismissWorker(worker):
            return f"{names[worker]} may go"
        case DrainWorker(worker, role, reason):
            return f"{names[worker]} drains for {role}: {reason}"
        case KeepRole(worker, reason):
            return f"{names[worker]} keeps its role: {reason}"
        case SwitchRole(worker, switch, role):
            return f"{names[worker]} switches to {role}, switch{switch}"


def prefill_words(command: RunPrefill, names: list[str]) -> Iterator[str]:
    yield f"{names[command.worker]} prefills"
    yield ", ".join(
        f"r{chunk.request}[{chunk.start_token}:{chunk.start_token + chunk.tokens}]" for chunk in command.chunks
    )
    yield f"to complete {each(command.completes)}" if command.completes else "to complete none"
    if command.decoding:
        yield f"beside {each(command.decoding)}"
    if command.spare_blocks:
        yield f"spare {runs(command.spare_blocks)}"
    yield f"run{command.run}"
    if command.announce_layers:
        yield f"announcing every {command.announce_layers} layers"


def each(requests: tuple[RequestId, ...]) -> str:
    return " ".join(f"r{request}" for request in requests)


def runs(blocks: BlockRuns) -> str:
    return "+".join(f"{first}..{first + count - 1}" if count > 1 else str(first) for first, count in blocks)
