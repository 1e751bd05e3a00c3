"""Chains of work requests as one array: filling a column of it costs the same for one request as for a hundred.

The layout is that of ``struct ibv_send_wr`` and ``struct ibv_sge`` of libibverbs' public interface
(infiniband/verbs.h, 64-bit). A device copies requests when they are posted, so one array serves all chains of a
thread, and nothing is allocated per request. This module must not know pyverbs, so that it is tested without a device.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.transport.address_map import Addresses, Sizes

WRITE: Final = 0
SEND: Final = 2
READ: Final = 4
"""``enum ibv_wr_opcode``"""

SIGNALED: Final = 2
"""``enum ibv_send_flags``"""

REQUEST = np.dtype(
    {
        "names": ["number", "next", "elements", "element_count", "opcode", "flags", "immediate", "remote", "key"],
        "formats": ["<u8", "<u8", "<u8", "<i4", "<i4", "<u4", "<u4", "<u8", "<u4"],
        "offsets": [0, 8, 16, 24, 28, 32, 36, 40, 48],
        "itemsize": 128,
    }
)
"""struct ibv_send_wr, as far as READ, WRITE and SEND need it."""

ELEMENT = np.dtype([("address", "<u8"), ("size_bytes", "<u4"), ("key", "<u4")])
"""struct ibv_sge"""

RECEIVE = np.dtype(
    {
        "names": ["number", "next", "elements", "element_count"],
        "formats": ["<u8", "<u8", "<u8", "<i4"],
        "offsets": [0, 8, 16, 24],
        "itemsize": 32,
    }
)
"""struct ibv_recv_wr"""

Keys = NDArray[np.uint32]


class RequestChain:
    """Room for a chain of up to ``requests_max`` work requests of one scatter/gather element each."""

    def __init__(self, requests_max: int) -> None:
        self.requests_max = requests_max
        self._requests = np.zeros(requests_max, dtype=REQUEST)
        self._elements = np.zeros(requests_max, dtype=ELEMENT)
        self._first = self._requests.ctypes.data
        steps = np.arange(requests_max, dtype=np.uint64)
        self._requests["elements"] = np.uint64(self._elements.ctypes.data) + steps * np.uint64(ELEMENT.itemsize)
        self._requests["element_count"] = 1
        self._next = np.uint64(self._first) + (steps + np.uint64(1)) * np.uint64(REQUEST.itemsize)
        self._requests["next"] = self._next
        self._last = 0
        # columns, looked up once
        self._number, self._opcode = self._requests["number"], self._requests["opcode"]
        self._remote, self._key = self._requests["remote"], self._requests["key"]
        self._local, self._local_key = self._elements["address"], self._elements["key"]
        self._size = self._elements["size_bytes"]

    def fill(
        self,
        opcode: int,
        number: int,
        local: Addresses,
        local_keys: Keys | int,
        remote: Addresses,
        remote_keys: Keys | int,
        sizes_bytes: Sizes,
    ) -> int:
        """Make a chain of these ranges; its address. Only the last request is signalled; all bear ``number``, so that
        a failed one can be told wherever in the chain it is."""
        count = len(local)
        assert 0 < count <= self.requests_max, f"a chain of {count} requests, room for {self.requests_max}"
        self._requests["next"][self._last] = self._next[self._last]
        self._requests["flags"][self._last] = 0
        self._number[:count] = number
        self._opcode[:count] = opcode
        self._remote[:count] = remote
        self._key[:count] = remote_keys
        self._local[:count] = local
        self._local_key[:count] = local_keys
        self._size[:count] = sizes_bytes
        self._last = count - 1
        self._requests["next"][self._last] = 0
        self._requests["flags"][self._last] = SIGNALED
        return self._first


class ReceiveChain:
    """Receive requests for messages of ``size_bytes`` at ``address``, ``address + size_bytes``, .. numbered from 0."""

    def __init__(self, count: int, address: int, size_bytes: int, key: int) -> None:
        self._requests = np.zeros(count, dtype=RECEIVE)
        self._elements = np.zeros(count, dtype=ELEMENT)
        steps = np.arange(count, dtype=np.uint64)
        self._elements["address"] = np.uint64(address) + steps * np.uint64(size_bytes)
        self._elements["size_bytes"] = size_bytes
        self._elements["key"] = key
        self._requests["number"] = steps
        self._requests["elements"] = np.uint64(self._elements.ctypes.data) + steps * np.uint64(ELEMENT.itemsize)
        self._requests["element_count"] = 1

    def one(self, number: int) -> int:
        """The address of this request, for posting it alone."""
        return int(self._requests.ctypes.data) + number * RECEIVE.itemsize
