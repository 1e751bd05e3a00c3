"""Small runs, written by hand, whose every metric can be worked out on paper. One request, one run of each mode.

The cluster has blocks of 4 tokens and 4 layers, so a prompt of 6 tokens takes 2 blocks.
"""

from collections.abc import Sequence

from kvsim.core.cluster import ClusterSpec, KvSpec, PolicySpec, Role, TransferMode, WorkerSpec
from kvsim.core.messages import (
    AssignBlocks,
    Chunk,
    Command,
    DeadlineReached,
    DecodeAdvanced,
    Event,
    FinishRequest,
    LayersReady,
    PrefillDone,
    Record,
    ReleaseBlocks,
    Request,
    RequestArrived,
    RequestId,
    RunDecode,
    RunId,
    RunPrefill,
    StartTransfer,
    TransferDone,
    TransferId,
    TransferReleased,
    WorkerId,
)

FS = 1_000_000  # femtoseconds in a nanosecond
P, D = WorkerId(0), WorkerId(1)
WAKE = DeadlineReached()


def cluster_of(*roles: Role, mode: TransferMode = "pull") -> ClusterSpec:
    workers = tuple(
        WorkerSpec(
            id=WorkerId(index),
            name=f"{role}-{index}",
            role=role,
            tensor_parallel=1,
            kv_blocks=100,
            batch_requests_max=64,
            batch_tokens_max=8192,
        )
        for index, role in enumerate(roles)
    )
    kv = KvSpec(layers=4, kv_heads=1, head_dim=8, dtype_bytes=2, block_tokens=4)
    return ClusterSpec(kv=kv, workers=workers, policy=PolicySpec(transfer_mode=mode))


def at(now_ns: int, events: Sequence[Event], commands: Sequence[Command] = ()) -> Record:
    return Record(now_ns, tuple(events), tuple(commands))


def arrived(request: int, prompt_tokens: int = 6) -> RequestArrived:
    return RequestArrived(Request(RequestId(request), prompt_tokens, output_tokens_max=100))


def assign(worker: int, request: int, blocks: int = 2) -> AssignBlocks:
    return AssignBlocks(WorkerId(worker), RequestId(request), ((10 * request, blocks),))


def release(worker: int, request: int) -> ReleaseBlocks:
    return ReleaseBlocks(WorkerId(worker), RequestId(request))


def prefill(
    worker: int,
    run: int,
    request: int,
    *,
    tokens: int = 6,
    start_token: int = 0,
    completes: bool = True,
    decoding: Sequence[int] = (),
) -> RunPrefill:
    chunk = Chunk(RequestId(request), start_token, tokens)
    complete = (RequestId(request),) if completes else ()
    return RunPrefill(WorkerId(worker), RunId(run), (chunk,), complete, tuple(RequestId(other) for other in decoding))


def prefill_done(worker: int, run: int, finished: Sequence[int] = ()) -> PrefillDone:
    return PrefillDone(WorkerId(worker), RunId(run), tuple(RequestId(request) for request in finished))


def decode(worker: int, run: int, batch: Sequence[int], steps_max: int = 8) -> RunDecode:
    return RunDecode(WorkerId(worker), RunId(run), tuple(RequestId(request) for request in batch), steps_max)


def advanced(
    worker: int,
    run: int,
    steps: int,
    first_ns: int,
    growth_ns: int = 0,
    *,
    finished: Sequence[int] = (),
    ended: bool = True,
) -> DecodeAdvanced:
    names = tuple(RequestId(request) for request in finished)
    return DecodeAdvanced(WorkerId(worker), RunId(run), steps, first_ns * FS, growth_ns * FS, ended, names)


def transfer(
    number: int, first_layer: int, layers: int, *, last: bool, blocks: int = 2, size_bytes: int = 920
) -> StartTransfer:
    pair = ((0, blocks),)
    return StartTransfer(
        transfer=TransferId(number),
        request=RequestId(0),
        kind="pull",
        source=P,
        target=D,
        source_blocks=pair,
        target_blocks=pair,
        first_layer=first_layer,
        layers=layers,
        size_bytes=size_bytes,
        operations=5,
        last=last,
    )


def stop(request: int) -> FinishRequest:
    return FinishRequest(RequestId(request), "stop")


PULL = (
    at(100, [arrived(0)]),
    at(150, [WAKE], [assign(P, 0), prefill(P, 1, 0)]),
    at(350, [prefill_done(P, 1)]),
    at(400, [WAKE], [assign(D, 0), transfer(1, 0, 4, last=True)]),
    at(500, [TransferDone(TransferId(1))]),
    at(510, [TransferReleased(TransferId(1))], [release(P, 0)]),
    at(530, [WAKE], [decode(D, 2, [0])]),
    at(560, [advanced(D, 2, steps=2, first_ns=10, growth_ns=10, finished=[0])], [release(D, 0), stop(0)]),
)
"""Prefill 150-350, decode memory at 400, READ 400-500, steps that end at 540 and 560: 3 tokens, at 350, 540, 560."""

PUSH = (
    at(100, [arrived(0)], [assign(D, 0)]),
    at(150, [WAKE], [assign(P, 0), prefill(P, 1, 0)]),
    at(250, [LayersReady(P, RunId(1), 2)], [transfer(1, 0, 2, last=False)]),
    at(300, [TransferDone(TransferId(1)), TransferReleased(TransferId(1))]),
    at(350, [prefill_done(P, 1)], [transfer(2, 2, 2, last=True)]),
    at(420, [TransferDone(TransferId(2))], [decode(D, 2, [0])]),
    at(430, [TransferReleased(TransferId(2))], [release(P, 0)]),
    at(450, [advanced(D, 2, steps=2, first_ns=10, growth_ns=10, finished=[0])], [release(D, 0), stop(0)]),
)
"""Decode memory at 100, prefill 150-350, WRITEs 250-300 and 350-420, steps that end at 430 and 450."""

STREAMED = (
    at(100, [arrived(0)]),
    at(150, [WAKE], [assign(P, 0), prefill(P, 1, 0), assign(D, 0)]),
    *PUSH[2:],
)
"""As ``PUSH``, but decode memory is taken when the prefill starts, at 150."""

MESSAGE = (
    *PULL[:4],
    at(480, [TransferReleased(TransferId(1))], [release(P, 0)]),
    at(500, [TransferDone(TransferId(1))]),
    *PULL[6:],
)
"""As ``PULL``, but the source is free at 480, when the send has ended, and the target has the KV at 500."""

COLOCATED = (
    at(0, [arrived(0)], [assign(0, 0, 1), prefill(0, 1, 0, tokens=4, completes=False)]),
    at(100, [prefill_done(0, 1)], [assign(0, 0, 1), prefill(0, 2, 0, tokens=2, start_token=4)]),
    at(150, [prefill_done(0, 2), arrived(1, 4)], [assign(0, 1, 1), prefill(0, 3, 1, tokens=4, decoding=[0])]),
    at(250, [prefill_done(0, 3)], [decode(0, 4, [0, 1])]),
    at(290, [advanced(0, 4, steps=2, first_ns=20, finished=[0])], [release(0, 0), stop(0), decode(0, 5, [1])]),
    at(305, [advanced(0, 5, steps=1, first_ns=15, finished=[1])], [release(0, 1), stop(1)]),
)
"""Request 0 is prefilled in two chunks, 0-100 and 100-150, and has tokens at 150, 250, 270, 290; request 1 is prefilled
in the step 150-250 that gives request 0 a token as well, and has tokens at 250, 270, 290, 305."""
