"""Messages survive the wire unchanged; bytes that are none, or hold values out of range, are refused."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.control.errors import Refusal
from backends.control.frames import decode_driver_message, decode_worker_message, encode_message
from backends.control.messages import (
    DESCRIPTION_BYTES_MAX,
    TEXT_LENGTH_MAX,
    CancelTransfer,
    ConnectPeer,
    DecodeStart,
    DisconnectPeer,
    DriverMessage,
    Heartbeat,
    Order,
    PeerConnected,
    PeerFailed,
    Ready,
    Report,
    RequestTerms,
    Sampling,
    Stop,
    TransferFailed,
    Trouble,
    WorkerMessage,
)
from kvsim.core.messages import (
    Chunk,
    DecodeAdvanced,
    PrefillDone,
    RequestId,
    RunDecode,
    RunId,
    RunPrefill,
    StartTransfer,
    TransferId,
    WorkerId,
)

W, R, RUN, T = WorkerId(1), RequestId(5), RunId(9), TransferId(2)
TERMS = RequestTerms(R, 3, Sampling(0.7, 0.9, 40, 11), (2,), 12)
DRIVER_MESSAGES: list[DriverMessage] = [
    Order(RunPrefill(W, RUN, (Chunk(R, 0, 3),), (R,)), (TERMS,), {R: (7, 8, 9)}),
    Order(RunDecode(W, RUN, (R,), 4, ((3, 1),)), starts=(DecodeStart(R, 3, 10),)),
    Order(StartTransfer(T, R, "pull", W, WorkerId(2), ((0, 2),), ((4, 2),), 0, 4, 4096, 8, True)),
    ConnectPeer(W, b"\0\1 regions"),
    DisconnectPeer(W),
    CancelTransfer(T),
    Stop(),
]
WORKER_MESSAGES: list[WorkerMessage] = [
    Ready("shm", b"regions", ("read", "write"), 64, 1234, "node-1"),
    Report(PrefillDone(W, RUN, (R,)), {R: (4,)}, 1_000),
    Report(DecodeAdvanced(W, RUN, 1, 5_000_000, 0, False), {R: (4,)}, 5),
    TransferFailed(T, "the source has gone"),
    PeerConnected(W),
    PeerFailed(W, "no such region"),
    Heartbeat(),
    Trouble("out of memory", fatal=True),
]


@pytest.mark.parametrize("message", DRIVER_MESSAGES, ids=lambda message: type(message).__name__)
def test_what_the_driver_says_arrives_unchanged(message: DriverMessage) -> None:
    assert decode_driver_message(encode_message(message)) == message


@pytest.mark.parametrize("message", WORKER_MESSAGES, ids=lambda message: type(message).__name__)
def test_what_a_worker_says_arrives_unchanged(message: WorkerMessage) -> None:
    assert decode_worker_message(encode_message(message)) == message


def test_neither_side_takes_the_other_sides_messages() -> None:
    for message in DRIVER_MESSAGES:
        with pytest.raises(Refusal):
            decode_worker_message(encode_message(message))
    for report in WORKER_MESSAGES:
        with pytest.raises(Refusal):
            decode_driver_message(encode_message(report))


@pytest.mark.parametrize(
    "message",
    [
        Report(PrefillDone(W, RUN), {R: (-1,)}),
        Report(PrefillDone(W, RUN), {R: (1 << 31,)}),
        Report(PrefillDone(W, RUN), duration_ns=-1),
        Trouble("x" * (TEXT_LENGTH_MAX + 1)),
        Ready("", b"", (), 1, 1, ""),
        Ready("shm", bytes(DESCRIPTION_BYTES_MAX + 1), (), 1, 1, ""),
        Ready("shm", b"", (), 0, 1, ""),
        Ready("shm", b"", ("read",) * 17, 1, 1, ""),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_worker_message_with_a_value_out_of_range_is_refused(message: WorkerMessage) -> None:
    with pytest.raises(Refusal) as refused:
        decode_worker_message(encode_message(message))
    assert refused.value.kind == "garbage"


@pytest.mark.parametrize(
    "terms",
    [
        RequestTerms(R, 0),
        RequestTerms(R, 1, Sampling(temperature=-0.1)),
        RequestTerms(R, 1, Sampling(temperature=math.nan)),
        RequestTerms(R, 1, Sampling(top_p=0.0)),
        RequestTerms(R, 1, Sampling(seed=-1)),
        RequestTerms(R, 1, output_tokens=0),
    ],
)
def test_terms_that_cannot_be_are_refused(terms: RequestTerms) -> None:
    with pytest.raises(Refusal):
        decode_driver_message(encode_message(Order(RunDecode(W, RUN, (R,), 1), (terms,))))


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(Refusal):
        decode_worker_message(msgspec.msgpack.encode({"type": "Heartbeat", "and": "more"}))


def test_lengths_that_are_announced_but_not_there_are_refused() -> None:
    for header in (b"\xdd", b"\xdf", b"\xdb", b"\xc6"):  # array, map, text and bytes with 32-bit lengths
        with pytest.raises(Refusal):
            decode_worker_message(header + b"\xff\xff\xff\xff")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(Refusal):
        decode_worker_message(b"\x91" * 200_000)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_but_a_refusal(noise: bytes) -> None:
    for decode in (decode_driver_message, decode_worker_message):
        with pytest.raises(Refusal):
            decode(noise)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.sampled_from(DRIVER_MESSAGES + WORKER_MESSAGES), st.data())
def test_messages_with_something_else_in_a_field_never_raise_anything_but_a_refusal(message: Any, data: Any) -> None:
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    inside = fields
    while True:
        key = data.draw(st.sampled_from(sorted(inside, key=str)))
        if not isinstance(inside[key], dict) or not inside[key] or data.draw(st.booleans()):
            break
        inside = inside[key]
    inside[key] = data.draw(PLAIN)
    decode = decode_driver_message if message in DRIVER_MESSAGES else decode_worker_message
    try:
        decoded = decode(msgspec.msgpack.encode(fields))
    except Refusal:
        return
    assert isinstance(decoded, type(message))
