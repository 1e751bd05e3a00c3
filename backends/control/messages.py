"""Everything that the driver and a worker say to each other once the handshake is over.

The driver says ``DriverMessage``, a worker says ``WorkerMessage``; both are plain data, encoded as msgpack, and nothing
is ever unpickled. Commands and events of the scheduler travel unchanged inside ``Order`` and ``Report``; beside them
goes what a scheduler must not know: token ids, sampling, region descriptions. A sender's messages arrive in the order
in which they were sent, each once.

The annotated types refuse values out of range while decoding. What can be checked only with a run, a pool or a model at
hand is in ``backends.control.checks``. This module must not know sockets, secrets, tensors or a transport's layout.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec

from kvsim.core.messages import Command, Event, RequestId, TransferId, WorkerId

TEXT_LENGTH_MAX = 4096
"""Characters of any text meant for people."""
DESCRIPTION_BYTES_MAX = 1 << 20
"""Bytes of one transport's description of its regions."""
TRANSFERS_MAX = 1 << 16
"""Transfers of one worker at a time: more than it has requests."""
ID_END = 1 << 63
"""Ids are below this: they fit a signed 64-bit integer wherever they go."""

TokenId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]
DurationNs: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 60)]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=TEXT_LENGTH_MAX)]
Description: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=DESCRIPTION_BYTES_MAX)]
"""A transport's ``PeerDescription``, encoded by that transport. It holds region keys: never log it."""
Tokens: TypeAlias = dict[RequestId, tuple[TokenId, ...]]
Capability: TypeAlias = Literal["read", "write", "two_sided", "owner_runs_code"]
"""``read``: one-sided pull. ``write``: one-sided push. ``two_sided``: send and receive. ``owner_runs_code``: the owner
of a region must serve a peer's one-sided operations by itself."""


class ControlMessage(msgspec.Struct, frozen=True, tag=True, gc=False, forbid_unknown_fields=True):
    """Base of all messages: immutable, compared by value, named by its class on the wire."""


# --- parts of messages -------------------------------------------------------------------------------------------


class Sampling(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """How output tokens are drawn. Temperature 0 is greedy; ``top_k`` 0 and ``top_p`` 1 leave all tokens."""

    temperature: Annotated[float, msgspec.Meta(ge=0.0, le=100.0)] = 0.0
    top_p: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0
    top_k: Count = 0
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0


class RequestTerms(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """What a worker must know of a request to draw its tokens and to see its last one.

    ``prompt_tokens`` is the length of the client's prompt, so that the worker knows the place of a token in the output:
    draws depend on the seed and that place only, not on the worker that computes them. The output ends ("stop") with a
    token of ``stop_tokens``; where ``output_tokens`` is given, stop tokens are ignored and it ends with exactly that
    many. Limits of the scheduler (``output_tokens_max``) are not the worker's business.
    """

    request: RequestId
    prompt_tokens: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    sampling: Sampling = Sampling()
    stop_tokens: tuple[TokenId, ...] = ()
    output_tokens: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)] | None = None


class DecodeStart(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """Where a request stands when it joins the decode batch of a worker that did not compute its newest token.

    The KV of positions ``[0, context_tokens)`` is in the request's blocks. ``last_token`` is its newest token: the
    first step computes it at position ``context_tokens`` and draws the next one.
    """

    request: RequestId
    context_tokens: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    last_token: TokenId


# --- driver to worker --------------------------------------------------------------------------------------------


class Order(ControlMessage, frozen=True, gc=False):
    """Carry out one command of the scheduler, exactly once, in the order in which orders arrive.

    A worker is sent AssignBlocks, ReleaseBlocks, RunPrefill, RunDecode and CutDecode that name it, and StartTransfer
    where it is the one that moves the bytes (``pull``: the target, ``push``: the source, ``message``: both).
    FinishRequest stays with the driver.

    ``terms`` describes each request of a RunPrefill or RunDecode that the worker has not heard of since its start or
    since it last got ReleaseBlocks for it. ``tokens``, with RunPrefill, holds the token ids of each chunk: positions
    ``[start_token, start_token + tokens)`` of prompt and output so far. ``starts``, with RunDecode or with RunPrefill
    for those in ``decoding``, holds a ``DecodeStart`` for each request whose newest token this worker did not compute.
    """

    command: Command
    terms: tuple[RequestTerms, ...] = ()
    tokens: Tokens = {}
    starts: tuple[DecodeStart, ...] = ()


class ConnectPeer(ControlMessage, frozen=True, gc=False):
    """Connect the transport to this worker's regions. Answered by ``PeerConnected`` or ``PeerFailed``.

    Sent before the first StartTransfer between the two, to both of them.
    """

    worker: WorkerId
    description: Description


class DisconnectPeer(ControlMessage, frozen=True, gc=False):
    """Forget this worker: it has left or is lost. Transfers with it end as ``TransferFailed``. Not answered."""

    worker: WorkerId


class CancelTransfer(ControlMessage, frozen=True, gc=False):
    """Touch the blocks of this transfer no more. Answered by ``TransferFailed``, after which they may be used anew, or
    by the reports of its end if it was done already. Ignored if the worker does not know it."""

    transfer: TransferId


class Stop(ControlMessage, frozen=True, gc=False):
    """End the process with exit status 0: close the transport, leave no shared memory behind. Not answered."""


DriverMessage: TypeAlias = Order | ConnectPeer | DisconnectPeer | CancelTransfer | Stop


# --- worker to driver --------------------------------------------------------------------------------------------


class Ready(ControlMessage, frozen=True, gc=False):
    """First message after the handshake: model, KV cache and transport are there; orders may come.

    ``kv_blocks`` is the size of the block pool. ``description`` is what the driver sends to peers in ``ConnectPeer``;
    ``transport`` names its kind (``shm``, ``tcp``, ``message``, ...), which must be the same at both ends.
    ``process`` is the operating system's id of the worker process on its ``host``, for people and logs.
    """

    transport: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    description: Description
    capabilities: Annotated[tuple[Capability, ...], msgspec.Meta(max_length=16)]
    kv_blocks: Annotated[int, msgspec.Meta(ge=1, lt=1 << 40)]
    process: Count
    host: Annotated[str, msgspec.Meta(max_length=256)]


class Report(ControlMessage, frozen=True, gc=False):
    """One event of the scheduler that happened on this worker: LayersReady, PrefillDone, DecodeAdvanced (one step
    each), TransferDone (from the target) or TransferReleased (from the source).

    ``tokens`` holds the new output tokens by request: one for each request that the step gave one. ``duration_ns`` is
    how long the step or the transfer took on the worker's monotonic clock; 0 where nothing was timed.
    """

    event: Event
    tokens: Tokens = {}
    duration_ns: DurationNs = 0


class TransferFailed(ControlMessage, frozen=True, gc=False):
    """This worker no longer touches the blocks of this transfer and will report nothing more about it."""

    transfer: TransferId
    reason: Text


class PeerConnected(ControlMessage, frozen=True, gc=False):
    """Transfers with this worker may start."""

    worker: WorkerId


class PeerFailed(ControlMessage, frozen=True, gc=False):
    """This worker cannot be reached, or no longer. Its transfers have been told as ``TransferFailed`` before this."""

    worker: WorkerId
    reason: Text


class Heartbeat(ControlMessage, frozen=True, gc=False):
    """The engine loop is alive. Sent from that loop itself (between steps, between layers of a long step, while idle)
    at least every ``Welcome.heartbeat_interval_ns``, never by a thread of its own: a hung loop must fall silent.

    ``transfers`` are those that the worker has begun and that have not ended."""

    transfers: Annotated[tuple[TransferId, ...], msgspec.Meta(max_length=TRANSFERS_MAX)] = ()


class Trouble(ControlMessage, frozen=True, gc=False):
    """Something is wrong on this worker, in words for the user. With ``fatal`` the worker ends after this message."""

    text: Text
    fatal: bool = False


WorkerMessage: TypeAlias = Ready | Report | TransferFailed | PeerConnected | PeerFailed | Heartbeat | Trouble
