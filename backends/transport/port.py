"""The one port through which KV cache bytes move between processes, whatever carries them.

A process has one ``Transport``. It *registers* the memory that peers may reach (a pool and the KV tensor in it),
*describes* itself to each peer over the control plane, *connects* to descriptions that it was given, and then reads and
writes byte ranges of ``kvsim.core.descriptors.Ranges``. Everything that happens afterwards comes back as events from
``poll``: nothing here calls back, and outside failures are events, not exceptions.

One rule for all transports: **both sides describe themselves to each other and both connect**, in any order. Some need
only the initiator's half, but a caller cannot know which.

This module must not know how bytes move, nor what a request, a block or a scheduler is.
"""

from dataclasses import dataclass
from typing import Literal, NewType, Protocol, TypeAlias

from backends.transport.description import PeerDescription
from kvsim.core.descriptors import Ranges
from kvsim.core.kv_tensor import KvTensor
from kvsim.errors import KvsimError

__all__ = [
    "NOTIFICATION_BYTES_MAX",
    "Access",
    "Capabilities",
    "Completion",
    "Notification",
    "Outcome",
    "Peer",
    "PeerDescription",
    "PeerLost",
    "PeerReady",
    "Region",
    "TensorMemory",
    "TransferHandle",
    "Transport",
    "TransportError",
    "TransportEvent",
]

TransferHandle = NewType("TransferHandle", int)
"""Names one transfer of one ``Transport``; counts up from 1 and is never reused."""

Outcome: TypeAlias = Literal["done", "failed", "cancelled"]

KeyScope: TypeAlias = Literal["connection", "peer", "region", "allocation"]

Access: TypeAlias = Literal["read", "write", "both"]
"""What peers may do with a region from their side."""


NOTIFICATION_BYTES_MAX = 64 * 1024
"""Longest payload of ``notify`` and of the ``notification`` of a transfer."""


class TransportError(KvsimError):
    """What was asked for cannot be: a forged or foreign description, ranges outside registered regions, a missing
    capability, a transport that is closed. Raised before anything has been done. A peer that goes away or refuses
    later is an event, never this."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a transport can do. Callers choose by these and never try and see.

    ``name``: of the transport, as in scenarios and on the command line.
    ``read``, ``write``: one-sided; the peer's caller does nothing.
    ``two_sided``: ``send`` and ``receive``; both callers do their half.
    ``owner_runs_code``: a thread of the owner takes part in each one-sided transfer, so a stopped owner stalls it.
    ``same_host``: peers must be processes of one host.
    ``any_memory``: ``register`` takes memory of the CPU from elsewhere, not only from ``allocate``.
    ``device_memory``: ``register`` takes memory of a GPU.
    ``key_scope``: what a key that has leaked opens: nothing, since access goes with the proven connection
    ("connection"); the region, on queue pairs of the one peer that it was given to ("peer"); the region, for every peer
    that is connected ("region"); all of the allocation in which the region lies, for every process of the host
    ("allocation").
    ``revocable``: after ``unregister`` or ``disconnect`` a peer that ignores the rules cannot reach the memory either.
    ``access_enforced``: nor can it, before that, WRITE to a region that was registered for reading, or the reverse.

    No transport has rights per request: what a peer may do with a region it may do with all of it, at any time from
    its connection until one of those two calls. That a READ came too late for its request is seen afterwards, by the
    generation of the blocks (``backends.worker.stamps``), and not prevented.
    """

    name: str
    read: bool
    write: bool
    two_sided: bool
    owner_runs_code: bool
    same_host: bool
    any_memory: bool
    device_memory: bool
    revocable: bool
    access_enforced: bool
    key_scope: KeyScope = "connection"


class TensorMemory(Protocol):
    """What ``register`` needs of a torch tensor, so that this package works without torch.

    The tensor must be contiguous in the sense of "its bytes are ``[data_ptr, data_ptr + nbytes)``".
    """

    @property
    def nbytes(self) -> int: ...

    @property
    def is_cuda(self) -> bool: ...

    def data_ptr(self) -> int: ...

    def is_contiguous(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Region:
    """Memory that is registered. ``tensor`` has the ``base_address`` and ``key`` that ranges and peers must use."""

    number: int
    address: int
    size_bytes: int
    tensor: KvTensor
    peers_may: Access = "both"


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer to which ``connect`` was called: its name and its tensors, in the order in which it registered them.

    A value without state: whether the peer is there is told by ``PeerReady`` and ``PeerLost``.
    """

    name: str
    tensors: tuple[KvTensor, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of one transfer; every handle gets exactly one.

    ``done``: the bytes are in place and the target may be read. ``failed`` and ``cancelled``: nobody touches the
    initiator's memory on behalf of this transfer any more; the target holds an unknown part of the bytes. ``reason``
    says why in words for a log (empty when done). ``size_bytes`` is what was asked for; ``duration_ns`` is counted from
    the call that made the handle.
    """

    handle: TransferHandle
    outcome: Outcome
    reason: str
    size_bytes: int
    duration_ns: int


@dataclass(frozen=True, slots=True)
class Notification:
    """``payload`` came from the peer of this name (proven by its token), in the order in which it sent them."""

    peer: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class PeerReady:
    """``connect`` has succeeded. Transfers may be started before: they wait for this."""

    peer: str


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The peer has died, closed, hangs, or could not be reached. Its transfers have failed before this in the list.

    Told once for each ``connect``, and not after ``disconnect``. To reach it again, exchange new descriptions.
    """

    peer: str
    reason: str


TransportEvent: TypeAlias = Completion | Notification | PeerReady | PeerLost


class Transport(Protocol):
    """One process's end of a way to move bytes. Not to be shared between threads, except ``close`` and ``cancel``.

    Copying is done by threads that the transport owns, with the interpreter lock released; they sleep in the kernel
    while there is nothing to do. Every call returns soon: it never waits for a peer.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this transport can do; constant."""
        ...

    @property
    def name(self) -> str:
        """What peers call this end; unique among the peers of a cluster, given when the transport was made."""
        ...

    # --- memory ----------------------------------------------------------------------------------------------------

    def allocate(self, size_bytes: int) -> memoryview:
        """Zeroed, page-aligned, writable memory of the kind that this transport moves best (``torch.frombuffer``
        makes a tensor of it). It lives as long as anything refers to it, also after ``close``."""
        ...

    def register(self, memory: memoryview | TensorMemory, tensor: KvTensor, peers_may: Access = "both") -> Region:
        """Let peers reach ``memory``. On entry ``tensor.base_address`` is the offset in bytes of the tensor's first
        element from the start of ``memory`` (usually 0); use the tensor of the result from then on.

        ``peers_may``: what they may do with it, where ``access_enforced``; other transfers of theirs fail. Peers learn
        the regions that exist when ``describe`` is called. ``memory`` stays referenced until
        ``unregister``. Raises TransportError if the tensor does not fit, or the memory is of a kind that the
        capabilities exclude.
        """
        ...

    def unregister(self, region: Region) -> None:
        """Take back a region: our transfers that use it are cancelled, transfers of peers into it fail from now on.
        Its addresses are never given out again, so that stale descriptions cannot hit other memory."""
        ...

    # --- peers -----------------------------------------------------------------------------------------------------

    def describe(self, audience: str) -> PeerDescription:
        """What the peer named ``audience`` needs to reach our regions. Holds a secret token made for that peer alone:
        send it only over an authenticated channel and never log it. Describing anew invalidates the former token, but
        not connections that exist."""
        ...

    def connect(self, description: PeerDescription) -> Peer:
        """Reach the peer that made ``description``. Returns at once; ``PeerReady`` or ``PeerLost`` follows.

        Every value of the description is checked before use: TransportError says which one is wrong. Also raised for a
        description made for somebody else, and while a connection to that peer exists (disconnect first).
        """
        ...

    def disconnect(self, peer_name: str) -> None:
        """Forget a peer: its transfers fail, its token and its connections to us end. Idempotent; unknown names are
        ignored. Where ``revocable``, the peer cannot touch our memory once this has returned."""
        ...

    # --- transfers -------------------------------------------------------------------------------------------------

    def read(self, peer: Peer, ranges: Ranges, notification: bytes = b"") -> TransferHandle:
        """One-sided pull: ``source_address`` lies in the peer's regions, ``target_address`` in ours.

        ``notification``, unless empty, is delivered to the peer once the bytes are here, and not if this fails.
        Each range must lie within one region on either side. No ranges at all are done at once. Ranges of one transfer
        may be moved in any order, transfers among each other too.
        """
        ...

    def write(self, peer: Peer, ranges: Ranges, notification: bytes = b"") -> TransferHandle:
        """One-sided push: ``source_address`` lies in our regions, ``target_address`` in the peer's. It is done when the
        bytes are in place there; ``notification`` as in ``read``."""
        ...

    def send(self, peer: Peer, ranges: Ranges, tag: int) -> TransferHandle:
        """Our half of a two-sided transfer: gather from ``source_address`` (ours) in the order of ``ranges`` and send
        it packed. The peer calls ``receive`` with the same ranges and tag; 0 <= tag < 2**31, one use at a time."""
        ...

    def receive(self, peer: Peer, ranges: Ranges, tag: int) -> TransferHandle:
        """The other half of ``send``: scatter to ``target_address`` (ours)."""
        ...

    def cancel(self, handle: TransferHandle) -> None:
        """Stop a transfer soon. Its completion still comes: ``cancelled``, or ``done`` if it was too late. Handles that
        are finished or unknown are ignored."""
        ...

    def notify(self, peer: Peer, payload: bytes) -> None:
        """Send a short message. It arrives after the bytes of every transfer whose completion ``poll`` has returned,
        and after earlier notifications. To a lost peer it is dropped: ``PeerLost`` has told or will tell."""
        ...

    # --- events ----------------------------------------------------------------------------------------------------

    def poll(self) -> list[TransportEvent]:
        """All events since the last call, oldest first; never waits. Works after ``close`` too, for what is left."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep until ``poll`` would return something, at most this long; whether it would."""
        ...

    def fileno(self) -> int:
        """A file descriptor that is readable while ``poll`` would return something, for select, epoll or a ZeroMQ
        poller."""
        ...

    def close(self) -> None:
        """Cancel all transfers, leave all peers, end all threads. No registered memory is touched after it returns.
        Idempotent."""
        ...
