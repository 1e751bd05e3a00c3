"""What transfers are held against: one thread that copies the same blocks, and one plain socket with as many bytes."""

import mmap
import socket
import time

import numpy as np

from backends.transport.bench_pair import Pair
from backends.transport.bench_side import Blocks
from backends.transport.copier import Copy
from backends.transport.copying import copy


def copy_seconds(copies: Copy, blocks: Blocks, source_address: int, target_address: int) -> float:
    """How long these copies take from the owner's blocks of a pool at one address to the initiator's at the other."""
    sources, targets = (
        ids.astype(np.uint64) * np.uint64(blocks.block_bytes) + np.uint64(address)
        for ids, address in ((blocks.owner, source_address), (blocks.initiator, target_address))
    )
    sizes = np.full(len(sources), blocks.block_bytes, dtype=np.int64)
    began_s = time.perf_counter()
    copies(targets, sources, sizes, bytearray(1))
    return time.perf_counter() - began_s


class Memcpy:
    """What one thread reaches with the same blocks inside one process: two pools of ordinary memory."""

    def __init__(self, pool_bytes: int) -> None:
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        pools = [np.frombuffer(mmap.mmap(-1, pool_bytes, flags=private), dtype=np.uint8) for _ in range(2)]
        for pool in pools:
            pool[:] = 0
        self._source, self.target = pools

    def seconds(self, blocks: Blocks) -> float:
        """Copy these blocks."""
        return copy_seconds(copy, blocks, self._source.ctypes.data, self.target.ctypes.data)


class Stream:
    """What one plain socket reaches with as many bytes, from contiguous memory to contiguous memory."""

    def __init__(self, pair: Pair, memcpy: Memcpy) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            pair.ask(do="stream", port=listening.getsockname()[1])
            self._connection, _ = listening.accept()
        self._landing = memcpy.target.data

    def seconds(self, total_bytes: int) -> float:
        """Ask for the bytes and receive them."""
        began_s = time.perf_counter()
        self._connection.sendall(total_bytes.to_bytes(8, "little"))
        received = 0
        while received < total_bytes:
            received += self._connection.recv_into(self._landing[received:total_bytes])
        return time.perf_counter() - began_s

    def close(self) -> None:
        """End it."""
        self._connection.close()
