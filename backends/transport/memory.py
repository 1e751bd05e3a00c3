"""Where a piece of registered memory lies in this process. It must not know peers or transfers."""

import mmap
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from backends.transport.port import TensorMemory, TransportError

_POPULATE_BYTES = 64 * 2**20
_MADV_POPULATE_WRITE = 23  # Linux 5.14; not in the mmap module


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """``[address, address + size_bytes)`` of this process. ``owner`` keeps it alive."""

    address: int
    size_bytes: int
    owner: object


def memory_of(memory: memoryview | TensorMemory) -> Memory:
    """The address of a buffer or a tensor on the CPU. Raises TransportError for memory that cannot be a region."""
    if isinstance(memory, memoryview):
        if memory.readonly or not memory.contiguous or not memory.nbytes:
            raise TransportError("a region must be writable, contiguous and not empty")
        array = np.frombuffer(memory, dtype=np.uint8)
        return Memory(array.ctypes.data, array.nbytes, array)
    if memory.is_cuda:
        raise TransportError("this transport moves memory of the CPU; the tensor lies on a GPU")
    return tensor_memory_of(memory)


def memory_anywhere(memory: memoryview | TensorMemory) -> Memory:
    """As ``memory_of``, and of a tensor on a GPU as well."""
    if isinstance(memory, memoryview) or not memory.is_cuda:
        return memory_of(memory)
    return tensor_memory_of(memory)


def tensor_memory_of(memory: TensorMemory) -> Memory:
    """The address of a tensor on the CPU or a GPU. Raises TransportError if it cannot be a region."""
    if not memory.is_contiguous() or not memory.nbytes:
        raise TransportError("a region must be contiguous and not empty")
    return Memory(memory.data_ptr(), memory.nbytes, memory)


def allocate_private(size_bytes: int) -> memoryview:
    """Zeroed, page-aligned memory of this process alone."""
    if size_bytes < 1:
        raise TransportError(f"cannot allocate {size_bytes} bytes")
    return memoryview(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def populate(mapping: mmap.mmap) -> None:
    """Fill the page table now instead of at the first touch of each page in the middle of a transfer.

    In pieces, since the interpreter lock is held meanwhile. Kernels without it refuse, which costs only time later.
    """
    with suppress(OSError):
        for start in range(0, len(mapping), _POPULATE_BYTES):
            mapping.madvise(_MADV_POPULATE_WRITE, start, min(_POPULATE_BYTES, len(mapping) - start))
