"""The language of the stories in ``tests/stories``: events as text in, commands as text out.

A story begins with one ``cluster`` line. Each line that is not indented is one call of the scheduler, ``at NOW: EVENT;
EVENT``; the indented lines below it are the commands that it answered with. Lines starting with # are kept.
"""

import re
from collections.abc import Iterator

from kvsim.core.cluster import ClusterSpec, KvSpec, PolicySpec, Role, RoleSpec, ThresholdRoles, WorkerSpec
from kvsim.core.messages import (
    AssignBlocks,
    BlockRuns,
    ChooseMode,
    Command,
    CutDecode,
    DeadlineReached,
    DecodeAdvanced,
    DismissWorker,
    DrainWorker,
    Event,
    FinishRequest,
    KeepRole,
    LayersReady,
    LeasesRenewed,
    PrefillDone,
    ReleaseBlocks,
    Request,
    RequestArrived,
    RequestCancelled,
    RequestId,
    RoleSwitched,
    RunDecode,
    RunId,
    RunPrefill,
    StartTransfer,
    StopTransfer,
    SwitchId,
    SwitchRole,
    TransferDone,
    TransferFailed,
    TransferId,
    TransferReleased,
    WorkerId,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from kvsim.core.scheduler import Scheduler

UNLIMITED = 1 << 30
LIMITS = {
    "lease": "kv_lease_ns",
    "queue_max": "queue_requests_max",
    "retries_max": "transfer_retries_max",
    "targets_max": "transfer_targets_max",
    "recomputes_max": "transfer_recomputes_max",
}
LETTERS = {"p": "prefill", "d": "decode", "c": "colocated"}


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
    assert scheduler.requests_live == 0, f"the story ends with {scheduler.requests_live} requests in flight"
    return "\n".join(lines) + "\n"


def read_cluster(line: str) -> ClusterSpec:
    """``cluster pull p=1x8 d=2x16 key=value ...``: workers as count x blocks."""
    _, mode, *words = line.split()
    values = dict(word.split("=") for word in words)
    workers: list[WorkerSpec] = []
    for letter, role in LETTERS.items():
        count, blocks = (int(part) for part in values.pop(letter, "0x0").split("x"))
        workers += [worker(len(workers) + index, f"{letter}{index}", role, blocks, values) for index in range(count)]
    layers = int(values.get("layers", 4))
    kv = KvSpec(layers=layers, kv_heads=1, head_dim=1, dtype_bytes=1, block_tokens=int(values.get("block_tokens", 4)))
    wait = values.get("wait_max")
    limits = {LIMITS[word]: int(value) for word, value in values.items() if word in LIMITS}
    policy = PolicySpec(
        transfer_mode=mode,  # type: ignore[arg-type]
        layers_per_group=int(values.get("group", 2)),
        steps_max=int(values.get("steps_max", 16)),
        prefill_placement=values.get("placement", "least_loaded"),  # type: ignore[arg-type]
        prefill_wait_max_ns=int(wait) if wait else None,
        roles=read_roles(values) if "roles" in values else None,
        allocation=values.get("allocation", "first_fit"),  # type: ignore[arg-type]
        admission=values.get("admission", "chunk"),  # type: ignore[arg-type]
        async_scheduling="async" in values,
        prefix_caching="caching" in values,
        **limits,  # type: ignore[arg-type]
    )
    return ClusterSpec(kv, tuple(workers), policy)


def read_roles(values: dict[str, str]) -> RoleSpec:
    """``roles=PREFILL_HIGH,PREFILL_LOW,DECODE_HIGH,DECODE_LOW [every=10 drain_max=30]``: prompt tokens per prefill
    worker, permille of decode memory."""
    prefill_high, prefill_low, decode_high, decode_low = (int(mark) for mark in values["roles"].split(","))
    return RoleSpec(
        ThresholdRoles(prefill_high, prefill_low, decode_high, decode_low),
        interval_ns=int(values.get("every", 10)),
        dwell_ns=int(values.get("dwell", 0)),
        drain_max_ns=int(values["drain_max"]) if "drain_max" in values else None,
    )


def worker(number: int, name: str, role: str, blocks: int, values: dict[str, str]) -> WorkerSpec:
    return WorkerSpec(
        id=WorkerId(number),
        name=name,
        role=role_of(role),
        tensor_parallel=1,
        kv_blocks=blocks,
        batch_requests_max=int(values.get("requests_max", 8)),
        batch_tokens_max=int(values.get("tokens_max", 64)),
        watermark_blocks=int(values.get("watermark", 0)),
        paths=int(values.get("paths", 1)),
        link_bytes_per_s=int(values.get("rate", 0)),
    )


def role_of(role: str) -> Role:
    assert role in ("prefill", "decode", "colocated")
    return role  # type: ignore[return-value]


def read_event(words: list[str], names: dict[str, WorkerId], generations: dict[TransferId, int]) -> Event:
    """``arrive r0 prompt=9 max=4``, ``layers p0 run0 2``, ``prefilled p0 run0 [last r0,r1]``, ``decoded d0 run1 3
    [last r0]``, ``arrived t0 [stale]``, ``released t0``, ``deadline``, ``alive d0 t0,t1``, or what ``read_mishap``
    reads."""
    match words:
        case ["arrive", request, prompt, *rest]:
            limit = number(rest[0]) if rest else UNLIMITED
            return RequestArrived(Request(RequestId(number(request)), number(prompt), limit))
        case ["layers", name, run, layers]:
            return LayersReady(names[name], RunId(number(run)), int(layers))
        case ["prefilled", name, run, *rest]:
            return PrefillDone(names[name], RunId(number(run)), last_of(rest))
        case ["decoded", name, run, steps, *rest]:
            return DecodeAdvanced(names[name], RunId(number(run)), int(steps), 1_000_000, 0, True, last_of(rest))
        case ["arrived", transfer]:
            found = TransferId(number(transfer))
            return TransferDone(found, generations.get(found, 0))
        case ["arrived", transfer, "stale"]:
            return TransferDone(TransferId(number(transfer)), 0)
        case ["alive", name, *transfers]:
            carried = transfers[0].split(",") if transfers else []
            return LeasesRenewed(names[name], tuple(TransferId(number(transfer)) for transfer in carried))
        case ["released", transfer]:
            return TransferReleased(TransferId(number(transfer)))
        case ["deadline"]:
            return DeadlineReached()
        case _:
            return read_mishap(words, names)


def read_mishap(words: list[str], names: dict[str, WorkerId]) -> Event:
    """``failed t0``, ``cancel r0``, ``lost d0``, ``leaving d0``, ``joined d0``, ``switched d0 switch0``."""
    match words:
        case ["failed", transfer]:
            return TransferFailed(TransferId(number(transfer)))
        case ["cancel", request]:
            return RequestCancelled(RequestId(number(request)))
        case ["lost", name]:
            return WorkerLost(names[name])
        case ["leaving", name]:
            return WorkerLeaving(names[name])
        case ["joined", name]:
            return WorkerJoined(names[name])
        case ["switched", name, switch]:
            return RoleSwitched(names[name], SwitchId(number(switch)))
        case _:
            raise AssertionError(f"what event is {' '.join(words)!r}?")


def last_of(words: list[str]) -> tuple[RequestId, ...]:
    return tuple(RequestId(number(request)) for request in words[1].split(",")) if words else ()


def number(word: str) -> int:
    return int(re.sub(r"^[a-z]+=?", "", word))


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
