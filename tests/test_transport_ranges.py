"""Addresses, batches and copies: what every byte of a transfer passes through."""

import socket
import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from backends.transport import copying
from backends.transport.address_map import AddressMap, OutOfRegionsError, Piece, arrays_of
from backends.transport.batches import batch_bounds, split_long
from kvsim.core.descriptors import Ranges

if copying.NATIVE:
    from backends.transport import _copy

PIECES = (Piece(1, 1000, 100, 50), Piece(2, 1100, 50, 9000), Piece(7, 5000, 10, 5000))


def u64(*values: int) -> NDArray[np.uint64]:
    return np.array(values, dtype=np.uint64)


def i64(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


# --- addresses -----------------------------------------------------------------------------------------------------


def test_ranges_are_found_in_their_regions_and_moved_to_where_these_lie() -> None:
    located, numbers = AddressMap(PIECES).locate(u64(1000, 1099, 5000, 1149), i64(100, 1, 10, 1))
    assert located.tolist() == [50, 149, 5000, 9049]
    assert numbers == (1, 2, 7)


def test_ranges_of_one_region_are_found_without_looking_at_the_others() -> None:
    located, numbers = AddressMap(PIECES).locate(u64(1010, 1020), i64(10, 80))
    assert (located.tolist(), numbers) == ([60, 70], (1,))


ANY_RANGE = st.tuples(
    st.integers(0, 2**64 - 1) | st.integers(990, 1160),
    st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 101),
)


@given(st.lists(ANY_RANGE, min_size=1, max_size=5))
def test_a_look_up_accepts_exactly_what_lies_within_one_region(ranges: list[tuple[int, int]]) -> None:
    inside = all(
        any(
            piece.begin <= address and size >= 1 and address + size <= piece.begin + piece.size_bytes
            for piece in PIECES
        )
        for address, size in ranges
    )
    addresses, sizes = u64(*[address for address, _ in ranges]), i64(*[size for _, size in ranges])
    if inside:
        AddressMap(PIECES).locate(addresses, sizes)
    else:
        with pytest.raises(OutOfRegionsError, match="range"):
            AddressMap(PIECES).locate(addresses, sizes)


def test_an_empty_map_finds_nothing_and_no_ranges_are_found_anywhere() -> None:
    with pytest.raises(OutOfRegionsError, match="no regions"):
        AddressMap(()).locate(u64(1), i64(1))
    assert AddressMap(()).locate(u64(), i64())[1] == ()


@pytest.mark.parametrize(
    "ranges",
    [
        Ranges(u64(1, 2), u64(1), i64(1, 2)),
        Ranges(u64(1).astype(np.int32), u64(1), i64(1)),
        Ranges(u64(1).reshape(1, 1), u64(1).reshape(1, 1), i64(1).reshape(1, 1)),
    ],
    ids=["lengths", "type", "shape"],
)
def test_arrays_that_are_no_ranges_are_refused(ranges: Ranges) -> None:
    with pytest.raises(ValueError, match="expected"):
        arrays_of(ranges)


# --- batches -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 100), max_size=20), st.integers(1, 40))
def test_splitting_keeps_every_byte_and_its_partner(sizes: list[int], bytes_max: int) -> None:
    ends = np.cumsum([0, *sizes])[:-1]
    first, second, parts = split_long(ends.astype(np.uint64), (ends + 10**6).astype(np.uint64), i64(*sizes), bytes_max)
    assert int(parts.sum()) == sum(sizes)
    assert not len(parts) or int(parts.max()) <= bytes_max
    touched = [int(at) + byte for at, size in zip(first, parts, strict=True) for byte in range(size)]
    assert touched == list(range(sum(sizes)))
    assert (second - first).tolist() == [10**6] * len(parts)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=30), st.integers(10, 40), st.integers(1, 6))
def test_batches_are_within_limits_and_could_not_be_larger(sizes: list[int], bytes_max: int, ranges_max: int) -> None:
    bounds = batch_bounds(i64(*sizes), bytes_max, ranges_max)
    assert (bounds[0], bounds[-1]) == (0, len(sizes))
    for begin, end in pairwise(bounds):
        assert 0 < end - begin <= ranges_max
        assert sum(sizes[begin:end]) <= bytes_max
        full = end == len(sizes) or end - begin == ranges_max or sum(sizes[begin : end + 1]) > bytes_max
        assert full


# --- copies --------------------------------------------------------------------------------------------------------

COPIES = [copying.copy_in_python, *([_copy.copy] if copying.NATIVE else [])]


@pytest.mark.parametrize("copy", COPIES, ids=lambda copy: copy.__module__.rpartition(".")[2])
def test_a_copy_moves_each_range_and_nothing_else(copy) -> None:  # type: ignore[no-untyped-def]
    source = np.random.default_rng(1).integers(0, 256, 10_000, dtype=np.uint8)
    target = np.zeros(10_000, dtype=np.uint8)
    at_source, at_target, sizes = i64(0, 5000, 17), i64(9000, 1, 4000), i64(1000, 3000, 1)
    moved = copy(
        (at_target + target.ctypes.data).astype(np.uint64), (at_source + source.ctypes.data).astype(np.uint64),
        sizes, bytearray(1),
    )  # fmt: skip
    expected = np.zeros(10_000, dtype=np.uint8)
    for begin, end, size in zip(at_source, at_target, sizes, strict=True):
        expected[end : end + size] = source[begin : begin + size]
    assert moved == 3
    assert np.array_equal(target, expected)


@pytest.mark.parametrize("copy", COPIES, ids=lambda copy: copy.__module__.rpartition(".")[2])
def test_a_copy_that_is_told_to_stop_moves_nothing_more(copy) -> None:  # type: ignore[no-untyped-def]
    source, target = np.ones(10, dtype=np.uint8), np.zeros(10, dtype=np.uint8)
    assert copy(u64(target.ctypes.data), u64(source.ctypes.data), i64(10), bytearray(b"\1")) == 0
    assert not target.any()


@pytest.mark.skipif(not copying.NATIVE, reason="the extension was not built")
def test_the_native_calls_refuse_arrays_that_do_not_agree() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        _copy.copy(u64(1, 2), u64(1), i64(1), bytearray(1))
    with pytest.raises(ValueError, match="a byte to stop by"):
        _copy.copy(u64(), u64(), i64(), bytearray())
    with pytest.raises(ValueError, match="equal lengths"):
        _copy.send(1, u64(1), i64(1, 2), 0)


STREAMS = [
    (copying.send_in_python, copying.receive_in_python),
    *([(copying.send, copying.receive)] if copying.NATIVE else []),
]


@pytest.mark.parametrize(("send", "receive"), STREAMS, ids=["python", "native"][: len(STREAMS)])
def test_a_gathered_stream_is_scattered_at_the_other_end(send, receive) -> None:  # type: ignore[no-untyped-def]
    """More ranges than one call takes and more bytes than a socket buffer holds, cut differently at each end."""
    source = np.random.default_rng(2).integers(0, 256, 6_000_000, dtype=np.uint8)
    target = np.zeros_like(source)
    cuts = [
        sorted({0, 6_000_000, *np.random.default_rng(seed).integers(0, 6_000_000, 3000).tolist()}) for seed in (1, 2)
    ]
    ends = socket.socketpair()
    with ends[0], ends[1]:

        def transmit() -> None:
            send(ends[0], *_pieces(source, cuts[0]), 30_000)

        sender = threading.Thread(target=transmit)
        sender.start()
        receive(ends[1], *_pieces(target, cuts[1]), 30_000)
        sender.join()
    assert np.array_equal(target, source)


@pytest.mark.parametrize(("send", "receive"), STREAMS, ids=["python", "native"][: len(STREAMS)])
def test_a_stream_that_ends_or_stands_still_is_an_error(send, receive) -> None:  # type: ignore[no-untyped-def]
    memory = np.zeros(8_000_000, dtype=np.uint8)
    whole = u64(memory.ctypes.data), i64(len(memory))
    ends = socket.socketpair()
    with ends[0], ends[1]:
        with pytest.raises(TimeoutError):
            receive(ends[0], *whole, 10)
        with pytest.raises(TimeoutError):
            send(ends[0], *whole, 10)
        ends[1].close()
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            send(ends[0], *whole, 10)
    ends = socket.socketpair()
    with ends[0], ends[1]:
        ends[1].sendall(bytes(1000))
        ends[1].close()
        with pytest.raises(ConnectionResetError):
            receive(ends[0], *whole, 1000)


def _pieces(memory: NDArray[np.uint8], cuts: list[int]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    begins = np.array(cuts[:-1], dtype=np.uint64) + np.uint64(memory.ctypes.data)
    return begins, np.diff(np.array(cuts)).astype(np.int64)
