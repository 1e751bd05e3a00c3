"""Carries out ``StartTransfer`` on one worker: tensor descriptors in, one-sided or two-sided operations out.

Who starts what::

    kind     source                                             target
    pull     on COMPLETE: TransferReleased                      READ, then READ of the stamps; COMPLETE; TransferDone
    push     WRITE, its own stamps; notify; TransferReleased    on the notification: TransferDone
    message  send, the stamps last; TransferReleased            receive; TransferDone

The stamps (``backends.worker.stamps``) prove that the blocks still were the request's when their last byte had left.

The side that is notified is told by its peer which transfer it was and passes that on; the driver, who ordered the
transfer, knows whether it can be true. The one thread that calls this is the worker's communication thread. This module
must not know block tables, steps or how a transport moves bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from backends.control.messages import PeerConnected, PeerFailed, Report, TransferFailed, Trouble
from backends.transport.description import PeerDescription
from backends.transport.port import (
    Completion,
    Notification,
    Peer,
    PeerLost,
    PeerReady,
    TransferHandle,
    Transport,
    TransportError,
)
from backends.worker.descriptions import encode_descriptions
from backends.worker.stamps import Stamps, joined, problem_of_stamps, stamp_ranges
from kvsim.core.descriptors import Ranges, transfer_ranges
from kvsim.core.kv_tensor import KvTensor
from kvsim.core.messages import StartTransfer, TransferDone, TransferId, TransferReleased, WorkerId

REASON_CHARACTERS_MAX = 1000
TAG_END = 1 << 31


class Complete(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The notification of a one-sided transfer: its bytes are where they belong. ``kind`` says which side is told;
    ``generation`` is that of the source blocks."""

    transfer: Annotated[TransferId, msgspec.Meta(ge=0)]
    kind: Literal["pull", "push"]
    generation: Annotated[int, msgspec.Meta(ge=0)]


_COMPLETE: Final = msgspec.msgpack.Encoder()

Said: TypeAlias = Report | TransferFailed | PeerConnected | PeerFailed | Trouble


@dataclass(frozen=True, slots=True)
class _InFlight:
    """``moved_ns`` is how long the bytes took, once they are here and their stamps are under way."""

    command: StartTransfer
    we_are_source: bool
    moved_ns: int | None = None


class Transfers:
    """Transfers of one worker over one transport, and the peers that it is connected to.

    ``tensor`` is the worker's KV cache as it was registered, first of two regions; ``stamps`` is the other; ``say``
    takes what the driver is told.
    """

    def __init__(
        self, worker: WorkerId, transport: Transport, tensor: KvTensor, stamps: Stamps, say: Callable[[Said], None]
    ) -> None:
        self._worker = worker
        self._transport = transport
        self._tensor = tensor
        self._stamps = stamps
        self._say = say
        self._peers: dict[WorkerId, Peer] = {}
        self._workers: dict[str, WorkerId] = {}
        self._in_flight: dict[TransferHandle, _InFlight] = {}
        self._handles: dict[TransferId, TransferHandle] = {}
        self._described: dict[str, bytes] = {}

    # --- peers --------------------------------------------------------------------------------------------------------

    def describe(self, names: Sequence[str]) -> bytes:
        """What each of these peers needs to reach this worker's KV cache: see ``backends.worker.descriptions``.

        The same as the last time for those from whom this worker has not disconnected since: a new description takes
        away the old one's token, and they may be about to connect with it.
        """
        for name in names:
            if name not in self._described:
                self._described[name] = msgspec.msgpack.encode(self._transport.describe(name))
        return encode_descriptions({name: self._described[name] for name in names})

    def connect(self, worker: WorkerId, description: bytes) -> None:
        """Reach a peer. ``PeerConnected`` or ``PeerFailed`` is said, now or later."""
        self.disconnect(worker)
        try:
            decoded = msgspec.msgpack.decode(description, type=PeerDescription)
            peer = self._transport.connect(decoded)
        except (msgspec.DecodeError, TransportError) as error:
            self._say(PeerFailed(worker, _short(error)))
            return
        self._peers[worker] = peer
        self._workers[peer.name] = worker
        problem = self._problem_of(peer)
        if problem:
            self.disconnect(worker)
            self._say(PeerFailed(worker, problem))

    def disconnect(self, worker: WorkerId) -> None:
        """Forget a peer; its transfers fail."""
        peer = self._peers.pop(worker, None)
        if peer is not None:
            del self._workers[peer.name]
            del self._described[peer.name]
            self._transport.disconnect(peer.name)

    # --- transfers ----------------------------------------------------------------------------------------------------

    def start(self, command: StartTransfer) -> None:
        """Begin this worker's part of a transfer. Its end, or that it cannot be, is said later."""
        we_are_source = command.source == self._worker
        other = command.target if we_are_source else command.source
        peer = self._peers.get(other)
        if peer is None:
            self._say(TransferFailed(command.transfer, f"worker {other} is not connected"))
            return
        try:
            handle = self._start(command, peer, we_are_source)
        except (AssertionError, TransportError) as error:  # the descriptors assert what a driver may not order
            self._say(TransferFailed(command.transfer, _short(error)))
            return
        self._in_flight[handle] = _InFlight(command, we_are_source)
        self._handles[command.transfer] = handle

    def cancel(self, transfer: TransferId) -> None:
        """Stop a transfer soon; its end is said all the same."""
        handle = self._handles.get(transfer)
        if handle is not None:
            self._transport.cancel(handle)

    def poll(self) -> None:
        """Take in what has happened on the transport since the last call."""
        for event in self._transport.poll():
            match event:
                case Completion():
                    self._completed(event)
                case Notification(peer, payload):
                    self._notified(peer, payload)
                case PeerReady(name):
                    if name in self._workers:
                        self._say(PeerConnected(self._workers[name]))
                case PeerLost(name, reason):
                    self._lost(name, reason)

    def in_flight(self) -> tuple[TransferId, ...]:
        """Transfers that this worker started and that have not ended. Any thread may ask."""
        return tuple(self._handles)  # one step of the interpreter

    # --- parts --------------------------------------------------------------------------------------------------------

    def _problem_of(self, peer: Peer) -> str:
        """A peer whose tensor differs in more than its pool would give ranges that mean something else."""
        ours = self._tensor
        if len(peer.tensors) != 2:
            return f"peer {peer.name} has {len(peer.tensors)} regions, expected its KV cache and its stamps"
        problem = problem_of_stamps(peer.tensors[1])
        if problem:
            return f"peer {peer.name} has {problem}"
        theirs = peer.tensors[0]
        if theirs.dtype_bytes != ours.dtype_bytes:
            return f"peer {peer.name} has elements of {theirs.dtype_bytes} bytes, this worker of {ours.dtype_bytes}"
        for dimension in ours.dimensions:
            if dimension != "block" and theirs.extent(dimension) != ours.extent(dimension):
                found, expected = theirs.extent(dimension), ours.extent(dimension)
                return f"peer {peer.name} has {found} of dimension {dimension}, this worker {expected}"
        return ""

    def _start(self, command: StartTransfer, peer: Peer, we_are_source: bool) -> TransferHandle:
        ranges = self._ranges(command, peer, we_are_source)
        match command.kind, we_are_source:
            case "pull", False:
                return self._transport.read(peer, ranges)
            case "push", True:
                return self._transport.write(peer, ranges)
            case "message", True:
                ranges = joined(ranges, self._stamp_ranges(command, self._stamps.tensor, peer.tensors[1]))
                return self._transport.send(peer, ranges, command.transfer % TAG_END)
            case "message", False:
                ranges = joined(ranges, self._stamp_ranges(command, peer.tensors[1], self._stamps.tensor))
                return self._transport.receive(peer, ranges, command.transfer % TAG_END)
            case _:
                raise TransportError(
                    f"a {command.kind} is not started by the {'source' if we_are_source else 'target'}"
                )

    def _ranges(self, command: StartTransfer, peer: Peer, we_are_source: bool) -> Ranges:
        source, target = (self._tensor, peer.tensors[0]) if we_are_source else (peer.tensors[0], self._tensor)
        heads = (0, source.extent("head"))
        layers = (command.first_layer, command.layers)
        ranges = transfer_ranges(source, target, command.source_blocks, command.target_blocks, layers, heads, heads)
        size_bytes = int(ranges.size_bytes.sum())
        assert size_bytes == command.size_bytes, f"{size_bytes} bytes to move, {command.size_bytes} ordered"
        if command.kind != "message":  # what the scheduler counted is what goes over the wire
            assert len(ranges) == command.operations, f"{len(ranges)} ranges, {command.operations} ordered"
        return ranges

    def _stamp_ranges(self, command: StartTransfer, source: KvTensor, target: KvTensor) -> Ranges:
        return stamp_ranges(source, target, command.source_blocks, command.target_blocks)

    def _completed(self, event: Completion) -> None:
        in_flight = self._in_flight.pop(event.handle, None)
        if in_flight is None:
            return
        command, transfer = in_flight.command, in_flight.command.transfer
        del self._handles[transfer]
        if event.outcome != "done":
            self._say(TransferFailed(transfer, event.reason[:REASON_CHARACTERS_MAX] or event.outcome))
        elif command.kind == "pull" and in_flight.moved_ns is None:
            self._read_stamps(command, event.duration_ns)
        elif in_flight.we_are_source:
            self._sent(command, event.duration_ns)
        else:
            self._received(command, (in_flight.moved_ns or 0) + event.duration_ns)

    def _read_stamps(self, command: StartTransfer, moved_ns: int) -> None:
        """The bytes are here: whose they are is seen at the source now."""
        peer = self._peers.get(command.source)
        if peer is None:
            self._say(TransferFailed(command.transfer, f"worker {command.source} is not connected any more"))
            return
        try:
            handle = self._transport.read(peer, self._stamp_ranges(command, peer.tensors[1], self._stamps.tensor))
        except (AssertionError, TransportError) as error:
            self._say(TransferFailed(command.transfer, _short(error)))
            return
        self._in_flight[handle] = _InFlight(command, we_are_source=False, moved_ns=moved_ns)
        self._handles[command.transfer] = handle

    def _sent(self, command: StartTransfer, duration_ns: int) -> None:
        """Our blocks have been read. What was WRITTEN from blocks that had changed hands is nobody's; what was sent
        brought its stamps along."""
        transfer = command.transfer
        if command.kind == "push":
            generation = self._stamps.own(command.source_blocks)
            if generation != command.generation:
                self._say(TransferFailed(transfer, f"its blocks are of generation {generation} by now"))
                return
            self._notify(command.target, Complete(transfer, "push", generation))
        self._say(Report(TransferReleased(transfer), duration_ns=duration_ns))

    def _received(self, command: StartTransfer, duration_ns: int) -> None:
        """The bytes are here, and what was found at their source too: whether that is right is seen by the driver."""
        generation = max(0, self._stamps.found(command.target_blocks))
        if command.kind == "pull":
            self._notify(command.source, Complete(command.transfer, "pull", generation))
        self._say(Report(TransferDone(command.transfer, generation), duration_ns=duration_ns))

    def _notify(self, worker: WorkerId, complete: Complete) -> None:
        peer = self._peers.get(worker)
        if peer is not None:  # else the driver is told that it is gone, and what we say says it all
            self._transport.notify(peer, _COMPLETE.encode(complete))

    def _notified(self, peer_name: str, payload: bytes) -> None:
        try:
            complete = msgspec.msgpack.decode(payload, type=Complete)
        except msgspec.DecodeError as error:
            self._say(Trouble(f"peer {peer_name} sent a notification that is none: {_short(error)}"))
            return
        transfer = complete.transfer  # whether it can be true is seen by the driver, who ordered it
        pulled = complete.kind == "pull"
        self._say(Report(TransferReleased(transfer) if pulled else TransferDone(transfer, complete.generation)))

    def _lost(self, name: str, reason: str) -> None:
        worker = self._workers.get(name)
        if worker is not None:
            self.disconnect(worker)
            self._say(PeerFailed(worker, reason[:REASON_CHARACTERS_MAX]))


def _short(error: Exception) -> str:
    return str(error)[:REASON_CHARACTERS_MAX] or type(error).__name__
