"""Every event that a driver may report and every command that the scheduler may give.

This module is the vocabulary of the contract ``Scheduler.handle(now_ns, events) -> commands``: events are facts ("this
happened at ``now_ns``"), commands are orders that a driver carries out exactly once. Both are plain data, so a run is a
list of ``(now_ns, events, commands)`` that can be stored, compared and replayed.
It must not know what a simulator or a GPU is. Nothing here carries an instant: ``now_ns`` is given beside it.
"""

from typing import Final, Literal, TypeAlias

import msgspec

from kvsim.core.message_base import BlockRuns, Labels, Message, RequestId, RunId, SwitchId, TransferId, WorkerId
from kvsim.core.mode_messages import ChooseMode, EndLease, ModeReason, ServingMode
from kvsim.core.worker_messages import (
    DedicatedRole,
    DismissWorker,
    DrainWorker,
    KeepRole,
    RoleSwitched,
    SwitchRole,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)

__all__ = [  # what this module gives on; what it defines is public as well
    "BlockRuns",
    "ChooseMode",
    "DedicatedRole",
    "DismissWorker",
    "DrainWorker",
    "EndLease",
    "KeepRole",
    "Labels",
    "Message",
    "ModeReason",
    "RequestId",
    "RoleSwitched",
    "RunId",
    "ServingMode",
    "SwitchId",
    "SwitchRole",
    "TransferId",
    "WorkerId",
    "WorkerJoined",
    "WorkerLeaving",
    "WorkerLost",
]

FEMTOSECONDS_PER_NS: Final = 1_000_000


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the client said, with labels for placement rules. The true output length is not here: nobody knows it."""

    id: RequestId
    prompt_tokens: int
    output_tokens_max: int
    labels: Labels = ()


class Chunk(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """``tokens`` prompt tokens of a request from position ``start_token`` on, computed in one step."""

    request: RequestId
    start_token: int
    tokens: int


# --- events: facts that a driver reports ---------------------------------------------------------------------------


class RequestArrived(Message, frozen=True, gc=False):
    """A client sent a request."""

    request: Request


class LayersReady(Message, frozen=True, gc=False):
    """The KV of layers ``[0, layers)`` of every chunk of this prefill run is in the worker's blocks.

    Reported only where ``RunPrefill.announce_layers`` asks for it, and never for the last layer:
    ``PrefillDone`` says that.
    """

    worker: WorkerId
    run: RunId
    layers: int


class PrefillDone(Message, frozen=True, gc=False):
    """The one step of a ``RunPrefill`` is over: its KV is complete, and each request whose context is complete
    (see ``RunPrefill.completes``) as well as each request in ``RunPrefill.decoding`` has one more output token.

    ``finished`` are those of them whose token was their last, in batch order.
    """

    worker: WorkerId
    run: RunId
    finished: tuple[RequestId, ...] = ()


class DecodeAdvanced(Message, frozen=True, gc=False):
    """``steps`` more steps of a ``RunDecode`` are over; every request of its batch has ``steps`` more tokens.

    In a run the contexts grow by one token a step, so a step's cost grows linearly: the n-th of these steps ended
    ``(carry_fs + n * first_step_fs + step_growth_fs * n * (n - 1) / 2) // 10**6`` nanoseconds after the first began;
    ``carry_fs`` is what earlier steps left below a nanosecond. A real worker reports each step by itself, with growth
    and carry 0. Several reports of one run add up: (a) then (b) means the same as (a + b).
    A run ends at the first step in which a request finishes, at ``steps_max``, or at the first step boundary after
    ``CutDecode``; the last report says ``ended`` and names the finished requests in batch order.
    """

    worker: WorkerId
    run: RunId
    steps: int
    first_step_fs: int
    step_growth_fs: int
    ended: bool
    finished: tuple[RequestId, ...] = ()
    carry_fs: int = 0


class TransferDone(Message, frozen=True, gc=False):
    """The target may read the blocks of this transfer (its notification included).

    ``generation`` is what was found at the source blocks after the last byte had left them: what ``StartTransfer`` has
    if they were still the request's, 0 if they had several or none. A transfer with anything else has failed.
    """

    transfer: TransferId
    generation: int = 0


class TransferReleased(Message, frozen=True, gc=False):
    """Nobody reads the source blocks of this transfer any more: COMPLETE (pull), the last acknowledgement (push) or
    the end of the send (message) has reached the source. May come before or after ``TransferDone``."""

    transfer: TransferId


class TransferFailed(Message, frozen=True, gc=False):
    """This transfer ended without success: neither side reads or writes its blocks any more, and what is in the target
    blocks is undefined. Said instead of ``TransferDone`` and ``TransferReleased``, also between the two."""

    transfer: TransferId


class LeasesRenewed(Message, frozen=True, gc=False):
    """This worker is alive and at work on these transfers. KV that they move, or that waits at its source for memory on
    this worker, is kept for another ``PolicySpec.kv_lease_ns``."""

    worker: WorkerId
    transfers: tuple[TransferId, ...]


class RequestCancelled(Message, frozen=True, gc=False):
    """The client wants no more of this request."""

    request: RequestId


class DeadlineReached(Message, frozen=True, gc=False):
    """The instant that ``Scheduler.deadline_ns`` named has come. A spurious one is harmless."""


Event: TypeAlias = (
    RequestArrived
    | LayersReady
    | PrefillDone
    | DecodeAdvanced
    | TransferDone
    | TransferReleased
    | TransferFailed
    | LeasesRenewed
    | RequestCancelled
    | WorkerLost
    | WorkerJoined
    | WorkerLeaving
    | RoleSwitched
    | DeadlineReached
)


# --- commands: orders that a driver carries out --------------------------------------------------------------------

TransferKind: TypeAlias = Literal["push", "pull", "message"]
"""Who moves the bytes: the source by one-sided WRITE, the target by one-sided READ, or both by send and receive."""

FinishReason: TypeAlias = Literal["stop", "length", "too_long", "timeout", "cancelled", "shed", "failed", "forbidden"]
"""``stop``: the model ended it. ``length``: its token limit was reached. ``cancelled``: its client gave it up.
``failed``: its KV reached no decode worker, whatever was tried. Without output: ``too_long``: it fits no pool;
``timeout``: it waited too long; ``shed``: too many waited already; ``forbidden``: rules leave no worker."""


class AssignBlocks(Message, frozen=True, gc=False):
    """From now on these blocks of this worker belong to the request, behind those that it has there already.

    ``generation`` marks them: the same for all that a request is given on a worker between two releases, and never used
    again. A block that is free, or that a run grew into, has none.
    """

    worker: WorkerId
    request: RequestId
    blocks: BlockRuns
    generation: int = 0


class ReleaseBlocks(Message, frozen=True, gc=False):
    """All blocks that the request has on this worker are free again."""

    worker: WorkerId
    request: RequestId


class RunPrefill(Message, frozen=True, gc=False):
    """Compute one step over ``chunks`` of prompts, and one token more for each request in ``decoding`` (colocated
    workers only). ``completes`` are the requests whose context is complete after their chunk: the step gives each of
    them an output token (the first one, or the next one after a preemption).

    With ``announce_layers`` = N > 0 the worker reports ``LayersReady`` after every N layers.
    Contexts in ``decoding`` that cross a block boundary take their new block from ``spare_blocks``, in batch order.
    """

    worker: WorkerId
    run: RunId
    chunks: tuple[Chunk, ...]
    completes: tuple[RequestId, ...]
    decoding: tuple[RequestId, ...] = ()
    spare_blocks: BlockRuns = ()
    announce_layers: int = 0


class RunDecode(Message, frozen=True, gc=False):
    """Compute up to ``steps_max`` steps of one token for each request of ``batch``: the scheduler need not be asked
    before. Contexts that cross a block boundary take their new block from ``spare_blocks``, ordered by step and then
    by place in the batch; what is left of them when the run ends is free again.
    """

    worker: WorkerId
    run: RunId
    batch: tuple[RequestId, ...]
    steps_max: int
    spare_blocks: BlockRuns = ()


class CutDecode(Message, frozen=True, gc=False):
    """End this decode run at its next step boundary. Ignored if the run has ended already."""

    worker: WorkerId
    run: RunId


class StartTransfer(Message, frozen=True, gc=False):
    """Move the KV of layers ``[first_layer, first_layer + layers)`` of a request's blocks from source to target.

    ``source_blocks`` and ``target_blocks`` pair up in order: block by block, or, where one side's are longer, by their
    slots as far as both reach. ``size_bytes`` and ``operations`` (one-sided operations after coalescing, over all pairs
    of tensor-parallel ranks; packed messages for kind ``message``) follow from ``kvsim.core.descriptors``.
    ``last`` marks the last transfer of the request: COMPLETE goes with it. ``generation`` is that of the source blocks:
    see ``TransferDone``. ``path`` is 0 for the usual way; the others, below ``WorkerSpec.paths`` of both, are tried
    when it fails.
    """

    transfer: TransferId
    request: RequestId
    kind: TransferKind
    source: WorkerId
    target: WorkerId
    source_blocks: BlockRuns
    target_blocks: BlockRuns
    first_layer: int
    layers: int
    size_bytes: int
    operations: int
    last: bool
    generation: int = 0
    path: int = 0


class StopTransfer(Message, frozen=True, gc=False):
    """Touch the blocks of this transfer no more, soon. Its end is reported all the same: as failed, or as done and
    released if it was too late, unless one of its workers is lost. Its source blocks may be released before that, and
    its target blocks are not. May be said again while no end is known; ignored if the transfer has ended."""

    transfer: TransferId


class FinishRequest(Message, frozen=True, gc=False):
    """Nothing more comes for this request."""

    request: RequestId
    why: FinishReason


Command: TypeAlias = (
    AssignBlocks
    | ReleaseBlocks
    | RunPrefill
    | RunDecode
    | CutDecode
    | StartTransfer
    | ChooseMode
    | EndLease
    | StopTransfer
    | FinishRequest
    | DismissWorker
    | DrainWorker
    | KeepRole
    | SwitchRole
)


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One call of ``handle``. Replay needs a list of these and the ``ClusterSpec``, and nothing else."""

    now_ns: int
    events: tuple[Event, ...]
    commands: tuple[Command, ...]
