"""The benchmark's side for transport cuda_ipc: a pool on a GPU, and what the GPU reaches without another process.

It must not know timing or tables.
"""

import numpy as np
from numpy.typing import NDArray

from backends.transport.bench_reference import copy_seconds
from backends.transport.bench_side import Blocks, TransportSide, Within, stamp, wrong_blocks
from backends.transport.cuda_ipc.driver import Driver
from backends.transport.cuda_ipc.gpu import Gpu
from backends.transport.cuda_ipc.pool import GpuPool
from backends.transport.cuda_ipc.transport import CudaIpcTransport


class GpuSide(TransportSide):
    """A ``Side`` over cuda_ipc, on the first GPU that its process sees. ``pool`` is the processor's copy of the pool;
    bytes go to the GPU and back when marks are made and looked for, untimed."""

    def __init__(self, name: str, pool_bytes: int) -> None:
        self._driver = Driver()
        self._memory = GpuPool(self._driver, pool_bytes)
        self._within: GpuCopies | None = None
        pool = np.zeros(pool_bytes, dtype=np.uint8)
        self._memory.write(pool)
        super().__init__(CudaIpcTransport(name, driver=self._driver), name, pool, self._memory)

    def stamp(self, ids: NDArray[np.int64], block_bytes: int, number: int) -> None:
        """See ``Side``."""
        stamp(self.pool, ids, block_bytes, number)
        self._memory.write(self.pool)

    def wrong_blocks(self, ids: NDArray[np.int64], block_bytes: int, number: int) -> int:
        """See ``Side``."""
        self.pool[:] = self._memory.read()
        return wrong_blocks(self.pool, ids, block_bytes, number)

    def within(self) -> Within:
        """See ``Side``."""
        if self._within is None:
            self._within = GpuCopies(self._driver, self._memory)
        return self._within

    def close(self) -> None:
        """See ``Side``."""
        if self._within is not None:
            self._within.close()
        super().close()
        self._memory.close()


class GpuCopies:
    """The same blocks from the pool to a second one on the same GPU, by the same calls, without a transport."""

    def __init__(self, driver: Driver, source: GpuPool) -> None:
        self._gpu = Gpu(driver)
        self._source, self._target = source, GpuPool(driver, source.nbytes)
        for pool in (self._source, self._target):
            self._gpu.spans.add(pool.data_ptr(), pool.nbytes)

    def seconds(self, blocks: Blocks) -> float:
        """Copy these blocks."""
        return copy_seconds(self._gpu.copy, blocks, self._source.data_ptr(), self._target.data_ptr())

    def close(self) -> None:
        """Free it."""
        self._target.close()
        self._gpu.close()
