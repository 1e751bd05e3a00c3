"""What the two ends of a link tell each other to connect one queue pair, and after a transfer.

On a connection of its own, which begins with the proof of the token (``backends.transport.handshake``), the initiator
says ``Hello`` and the owner answers ``Welcome`` or ``Refusal``; once for each queue pair, and again for one that a
failed work request has ended. Messages are msgpack with a length before them; nothing in them is believed beyond its
type and bounds. This module must not know pyverbs.
"""

import socket
import struct
from typing import Annotated, TypeAlias, TypeVar

import msgspec

QUEUES = 1
"""Purpose of the connection on which queue pairs are made."""

COMPLETE = 2
"""Kind of the frame on the control connection that announces a ``RECEIPT``; the notification's frame follows it."""

ANNOUNCEMENT = struct.Struct("!QQQ")
"""Payload of COMPLETE: number of the owner's end (from ``Welcome``), number of the transfer, its bytes."""

RECEIPT = struct.Struct("!QQ")
"""What is sent through the queue pair itself, behind the READs and WRITEs of a transfer: its number and its bytes."""

_MESSAGE_BYTES_MAX = 64 * 1024
_LENGTH = struct.Struct("!I")

_Number = Annotated[int, msgspec.Meta(ge=0, lt=2**24)]
_Mtu = Annotated[int, msgspec.Meta(ge=1, le=5)]
_Reads = Annotated[int, msgspec.Meta(ge=1, le=255)]
_Lid = Annotated[int, msgspec.Meta(ge=0, lt=2**16)]
_Word = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # addresses of user space lie far below
_Key = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
_Gid = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class QueuePairAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One end of a queue pair. ``mtu`` is ``enum ibv_mtu``; ``packet`` the number of the first packet that it sends;
    ``reads`` how many READs the initiator wants in flight, or the owner grants."""

    number: _Number
    packet: _Number
    gid: _Gid
    lid: _Lid
    mtu: _Mtu
    reads: _Reads


class RegionKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A region that is registered now: ``base`` is what the device calls the address of its first byte."""

    number: _Word
    base: _Word
    key: _Key


class Hello(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The initiator's queue pair number ``index`` wants a partner, in place of the one that it had."""

    index: Annotated[int, msgspec.Meta(ge=0, lt=64)]
    address: QueuePairAddress


class Welcome(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The owner's queue pair is connected, and these are the keys that hold on it. ``end`` names the owner's end in
    COMPLETE; it keeps ``receipts`` places for receipts."""

    address: QueuePairAddress
    regions: Annotated[tuple[RegionKey, ...], msgspec.Meta(max_length=1024)]
    end: _Word
    receipts: Annotated[int, msgspec.Meta(ge=1, le=4096)]


class Refusal(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The owner cannot."""

    reason: Annotated[str, msgspec.Meta(max_length=1000)]


Answer: TypeAlias = Welcome | Refusal

_T = TypeVar("_T")
_ENCODER = msgspec.msgpack.Encoder()
_HELLO = msgspec.msgpack.Decoder(Hello)
_ANSWER: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Welcome | Refusal)


def send(connection: socket.socket, message: Hello | Answer) -> None:
    """Send one message. Raises OSError."""
    content = _ENCODER.encode(message)
    connection.sendall(_LENGTH.pack(len(content)) + content)


def receive_hello(connection: socket.socket) -> Hello | None:
    """The initiator's next message, or None at the end. Raises OSError if it is none."""
    content = _receive(connection)
    return None if content is None else _decoded(content, _HELLO)


def receive_answer(connection: socket.socket) -> Welcome:
    """The owner's answer. Raises ConnectionRefusedError with its reason, OSError if there is none."""
    content = _receive(connection)
    if content is None:
        raise ConnectionResetError("it has closed while a queue pair was connected")
    answer = _decoded(content, _ANSWER)
    if isinstance(answer, Refusal):
        raise ConnectionRefusedError(f"it refuses a queue pair: {answer.reason}")
    return answer


def _decoded(content: bytes, decoder: msgspec.msgpack.Decoder[_T]) -> _T:
    try:
        return decoder.decode(content)
    except msgspec.MsgspecError as error:
        raise ConnectionRefusedError(f"it describes a queue pair wrongly: {error}") from None


def _receive(connection: socket.socket) -> bytes | None:
    head = _exactly(connection, _LENGTH.size)
    if not head:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > _MESSAGE_BYTES_MAX:
        raise ConnectionRefusedError(f"it describes a queue pair in {length} bytes")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, size_bytes: int) -> bytes:
    received = b""
    while len(received) < size_bytes:
        piece = connection.recv(size_bytes - len(received))
        if not piece:
            if received:
                raise ConnectionResetError("it has closed in the middle of a message")
            return b""
        received += piece
    return received
