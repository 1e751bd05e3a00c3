"""What transfers are held against: one thread that copies the same blocks, and one plain socket with as many bytes."""

import mmap
import socket
import time

import numpy as np

from backends.transport.bench_pair import Pair
from backends.transport.bench_side import Blocks
from backends.transport.copying import copy


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
        source, target = (
            ids.astype(np.uint64) * np.uint64(blocks.block_bytes) + np.uint64(pool.ctypes.data)
            for ids, pool in ((blocks.owner, self._source), (blocks.initiator, self.target))
        )
        sizes = np.full(len(source), blocks.block_bytes, dtype=np.int64)
        began_s = time.perf_counter()
        copy(target, source, sizes)
        return time.perf_counter() - began_s


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
