"""Memory of a GPU without torch, for those who only want to see bytes move: the benchmark and the tests."""

import numpy as np
from numpy.typing import NDArray

from backends.transport.cuda_ipc.driver import Driver


class GpuPool:
    """An allocation of its own, which a transport can ``register``. ``close`` it when no peer has it open any more."""

    is_cuda = True

    def __init__(self, driver: Driver, size_bytes: int, pci_address: str = "") -> None:
        self.nbytes = size_bytes
        self._driver = driver
        self._device = driver.device_at(pci_address) if pci_address else driver.device(0)
        self._context = driver.retain(self._device)
        with driver.current(self._context):
            self._address = driver.allocate(size_bytes)
            self._stream = driver.stream()

    def data_ptr(self) -> int:
        """See ``TensorMemory``."""
        return self._address

    def is_contiguous(self) -> bool:
        """See ``TensorMemory``."""
        return True

    def write(self, content: NDArray[np.uint8], offset: int = 0) -> None:
        """Bring bytes there, and wait until they are."""
        assert offset + content.nbytes <= self.nbytes, f"{content.nbytes} bytes at {offset} of {self.nbytes}"
        self._copy(self._address + offset, content.ctypes.data, content.nbytes)

    def read(self, offset: int = 0, size_bytes: int | None = None) -> NDArray[np.uint8]:
        """The bytes that are there, all from ``offset`` on unless it is said how many."""
        content = np.empty(self.nbytes - offset if size_bytes is None else size_bytes, dtype=np.uint8)
        assert offset + content.nbytes <= self.nbytes, f"{content.nbytes} bytes at {offset} of {self.nbytes}"
        self._copy(content.ctypes.data, self._address + offset, content.nbytes)
        return content

    def close(self) -> None:
        """Free it."""
        with self._driver.current(self._context):
            self._driver.destroy_stream(self._stream)
            self._driver.free(self._address)
        self._driver.release(self._device)

    def _copy(self, target: int, source: int, size_bytes: int) -> None:
        with self._driver.current(self._context):
            self._driver.copy(target, source, size_bytes, self._stream)
            self._driver.drain(self._stream)
