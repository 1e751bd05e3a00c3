"""The frames of the handshake, and how messages become bytes and back. The only decoder of what a stranger sends.

A frame of the handshake is ``b"kvsim" || version (2 bytes, big-endian) || msgpack``: the version can be read in every
version, and nothing behind it is looked at before it is found equal. Whatever the bytes are, decoding either gives a
message or raises ``Refusal``.
"""

from typing import Annotated, TypeVar

import msgspec

from backends.control.compatibility import Compatibility
from backends.control.errors import Refusal, RefusalKind
from backends.control.messages import ID_END, ControlMessage, DriverMessage, DurationNs, Text, WorkerMessage
from kvsim.core.messages import WorkerId

PROTOCOL_VERSION = 1
MAGIC = b"kvsim"
NONCE_BYTES = 32
HANDSHAKE_BYTES_MAX = 4096 + 4 * 4096
"""A handshake frame is at most as long as a refusal with the longest text (4 bytes a character) and its envelope."""
MESSAGE_BYTES_MAX = 16 << 20
"""Any message at all: three million token ids, or the largest description with room to spare."""

_Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_AnyMessage = TypeVar("_AnyMessage", bound=ControlMessage)
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that it cannot read; ValidationError is a DecodeError."""


class Hello(ControlMessage, frozen=True, gc=False):
    """Worker to driver. The facts explain a hash that differs and are used for nothing else."""

    worker: WorkerId
    nonce: _Bytes32
    compatibility_hash: _Bytes32
    compatibility: Compatibility


class Challenge(ControlMessage, frozen=True, gc=False):
    """Driver to worker."""

    nonce: _Bytes32
    compatibility_hash: _Bytes32


class Proof(ControlMessage, frozen=True, gc=False):
    """Worker to driver."""

    proof: _Bytes32


class Welcome(ControlMessage, frozen=True, gc=False):
    """Driver to worker: the session begins. The worker beats at least every ``heartbeat_interval_ns``."""

    proof: _Bytes32
    heartbeat_interval_ns: DurationNs


class Refused(ControlMessage, frozen=True, gc=False):
    """Driver to worker, instead of any other answer, also within a session that is over for the driver."""

    kind: RefusalKind
    text: Text


_Handshake = Hello | Challenge | Proof | Welcome | Refused
_encode = msgspec.msgpack.Encoder().encode
_handshakes: msgspec.msgpack.Decoder[_Handshake] = msgspec.msgpack.Decoder(_Handshake)
_driver_messages: msgspec.msgpack.Decoder[DriverMessage] = msgspec.msgpack.Decoder(DriverMessage)
_worker_messages: msgspec.msgpack.Decoder[WorkerMessage] = msgspec.msgpack.Decoder(WorkerMessage)


def encode_handshake(message: _Handshake, version: int = PROTOCOL_VERSION) -> bytes:
    """The frame of a message of the handshake."""
    return MAGIC + version.to_bytes(2, "big") + _encode(message)


def decode_handshake(frame: bytes, expected: type[_AnyMessage], version: int = PROTOCOL_VERSION) -> _AnyMessage:
    """The message of this class in a frame of the handshake.

    Raises Refusal: for anything else, and with the driver's own reason if it is a ``Refused``.
    """
    message = _read_handshake(frame, version)
    if isinstance(message, Refused):
        raise Refusal(message.kind, message.text)
    if not isinstance(message, expected):
        raise Refusal("garbage", f"a {type(message).__name__} instead of a {expected.__name__}")
    if isinstance(message, Hello) and not 0 <= message.worker < ID_END:
        raise Refusal("range", f"there can be no worker {message.worker}")
    return message


def refusal_in(frame: bytes, version: int = PROTOCOL_VERSION) -> Refusal | None:
    """The driver's reason, if the frame is a ``Refused``."""
    try:
        message = _read_handshake(frame, version)
    except Refusal:
        return None
    return Refusal(message.kind, message.text) if isinstance(message, Refused) else None


def _read_handshake(frame: bytes, version: int) -> _Handshake:
    if len(frame) > HANDSHAKE_BYTES_MAX:
        raise Refusal("size", f"a frame of {len(frame)} bytes in the handshake")
    start = len(MAGIC) + 2
    if frame[: len(MAGIC)] != MAGIC or len(frame) < start:
        raise Refusal("garbage", f"a frame of {len(frame)} bytes that is none of this protocol")
    theirs = int.from_bytes(frame[len(MAGIC) : start], "big")
    if theirs != version:
        raise Refusal(
            "version", f"the peer speaks control protocol {theirs}, this side {version}; install the same kvsim"
        )
    try:
        return _handshakes.decode(memoryview(frame)[start:])
    except _UNDECODABLE as error:
        raise Refusal("garbage", f"a damaged frame in the handshake: {error}") from error


def encode_message(message: DriverMessage | WorkerMessage) -> bytes:
    """The payload of a message of the session."""
    payload = _encode(message)
    assert len(payload) <= MESSAGE_BYTES_MAX // 2, f"a {type(message).__name__} of {len(payload)} bytes"
    return payload


def decode_driver_message(payload: bytes) -> DriverMessage:
    """What the driver says. Raises Refusal if it is no such message."""
    try:
        return _driver_messages.decode(payload)
    except _UNDECODABLE as error:
        raise Refusal("garbage", f"no message of a driver: {error}") from error


def decode_worker_message(payload: bytes) -> WorkerMessage:
    """What a worker says. Raises Refusal if it is no such message."""
    try:
        return _worker_messages.decode(payload)
    except _UNDECODABLE as error:
        raise Refusal("garbage", f"no message of a worker: {error}") from error
