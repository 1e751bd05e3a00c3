"""What goes over a data connection of transport tcp.

A request is a head, the ranges as two arrays (addresses, sizes), and for a WRITE the bytes. The answer is a head and,
for a READ that is granted, the bytes. Integers are little-endian. This module must not know threads or regions.
"""

import socket
import struct
import sys
from typing import Literal, TypeAlias

import numpy as np

from backends.transport.address_map import Addresses, Sizes
from backends.transport.copying import receive

assert sys.byteorder == "little", "the tables of ranges are sent as they lie in memory"

DATA = 1
"""Purpose of data connections."""

READ = 1
WRITE = 2

GRANTED = 0
REFUSED = 1

RANGES_MAX = 16384
"""Ranges of one request."""

BYTES_MAX = 16 * 2**20
"""Bytes of one request: some milliseconds at 25 Gbit/s, the time that a cancel may take to work. Requests are long
because the caches are cold for the interpreter after each."""

Head: TypeAlias = tuple[int, int, int]
"""Of a request: operation, number of ranges, bytes. Of an answer: GRANTED or REFUSED, bytes that follow, 0."""

_HEAD = struct.Struct("<3Q")
_FOREVER_MS = -1


def encoded_head(first: int, second: int = 0, third: int = 0) -> bytes:
    """A head as it is sent."""
    return _HEAD.pack(first, second, third)


def encoded_request(operation: int, addresses: Addresses, sizes: Sizes, size_bytes: int) -> bytes:
    """A request up to where the bytes of a WRITE follow."""
    return encoded_head(operation, len(sizes), size_bytes) + addresses.tobytes() + sizes.tobytes()


class HeadReader:
    """Receives heads of one connection, one after the other, into the same few bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._head = np.zeros(_HEAD.size, dtype=np.uint8)
        self._address, self._size = place_of(self._head)

    def read(self, timeout_ms: int = _FOREVER_MS) -> Head:
        """The next head. Errors: ``copying.receive``."""
        receive(self._connection, self._address, self._size, timeout_ms)
        first, second, third = _HEAD.unpack(self._head.data)
        return first, second, third


def receive_ranges(connection: socket.socket, ranges: int, timeout_ms: int) -> tuple[Addresses, Sizes]:
    """The arrays of a request. Errors: ``copying.receive``."""
    table = np.empty(2 * ranges, dtype=np.uint64)
    receive(connection, *place_of(table), timeout_ms)
    return table[:ranges], table[ranges:].view(np.int64)


def place_of(memory: "np.ndarray[tuple[int], np.dtype[np.uint8]] | Addresses") -> tuple[Addresses, Sizes]:
    """An array as the one range of a list. It does not keep the array alive."""
    return np.array([memory.ctypes.data], dtype=np.uint64), np.array([memory.nbytes], dtype=np.int64)


def problem_of_request(head: Head) -> Literal["", "operation", "number of ranges", "bytes"]:
    """Which field of a request makes no sense, or an empty text. After one that makes none the stream is lost."""
    operation, ranges, size_bytes = head
    if operation not in (READ, WRITE):
        return "operation"
    if not 1 <= ranges <= RANGES_MAX:
        return "number of ranges"
    return "" if 1 <= size_bytes <= BYTES_MAX else "bytes"
