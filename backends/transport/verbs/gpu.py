"""What the CUDA driver is asked: where a GPU sits, and its memory as a dmabuf, for cards without a peer-memory module.

Sources: CUDA driver API, cuDeviceGetPCIBusId, cuMemGetHandleForAddressRange (CUDA 11.7 on; address and size must be
multiples of the page size) and CU_POINTER_ATTRIBUTE_SYNC_MEMOPS (work on the memory is finished before a card reads it,
GPUDirect RDMA documentation); Linux 5.12 and rdma-core 34 for the card's side. This module must not know transfers.
"""

import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backends.transport.cuda_library import load
from backends.transport.memory import Memory
from backends.transport.port import TransportError
from kvsim.units import format_bytes

if TYPE_CHECKING:
    from backends.transport.verbs.device import Device

PAGE_BYTES = 64 * 1024
"""Pages of GPU memory; multiples of them are multiples of the host's."""

_DMA_BUF_FD = 1  # CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD
_SYNC_MEMOPS = 6  # CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
_DMA_BUF_SUPPORTED = 124  # CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED


@dataclass(frozen=True, slots=True)
class CudaGpu:
    """A GPU that this process sees: where it sits, and whether its driver exports its memory as a dmabuf."""

    pci_address: str
    dmabuf: bool


@dataclass(frozen=True, slots=True)
class Driver:
    """The CUDA driver: its version, major and minor, and the GPUs that it shows to this process."""

    version: tuple[int, int]
    gpus: tuple[CudaGpu, ...]


@dataclass(frozen=True, slots=True)
class Export:
    """A dmabuf: the region begins ``offset`` bytes after its first byte. The caller closes the file descriptor."""

    fd: int
    offset: int


def register(device: "Device", memory: Memory, access: int, peer_memory_errno: int) -> tuple[Any, int]:
    """Register GPU memory that could not be registered by its address: the region, and what the device calls the
    address of its first byte. Raises TransportError that says what is missing."""
    what = (
        f"{device.name} cannot register {format_bytes(memory.size_bytes)} of GPU memory: not by its address "
        f"({os.strerror(peer_memory_errno)}; that takes 'modprobe nvidia-peermem')"
    )
    if device.library.dmabuf_mr is None:
        raise TransportError(f"{what}, and this pyverbs has no dmabuf regions")
    try:
        found = export(memory.address, memory.size_bytes)
    except TransportError as error:
        raise TransportError(f"{what}, and not as a dmabuf: {error}") from None
    try:
        region = device.library.dmabuf_mr(
            device.domain, memory.size_bytes, access, dmabuf=found.fd, offset=found.offset
        )
    except device.library.error as error:
        raise TransportError(
            f"{what}, and not as a dmabuf: {error}; that takes Linux 5.12 and a driver that implements it, such as mlx5"
        ) from None
    finally:
        os.close(found.fd)
    return region, found.offset  # pyverbs makes the offset the region's address


def pci_address(ordinal: int) -> str:
    """Where this process's GPU of this number sits, as Linux writes it ("0000:3b:00.0"). Raises TransportError."""
    cuda = load()
    text = ctypes.create_string_buffer(32)
    device = ctypes.c_int()
    for result in (
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), ctypes.c_int(ordinal)),
        cuda.cuDeviceGetPCIBusId(text, ctypes.c_int(len(text)), device),
    ):
        if result:
            raise TransportError(f"the CUDA driver does not tell where GPU {ordinal} sits (error {result})")
    return text.value.decode("ascii").lower()


def driver() -> Driver:
    """The driver and its GPUs. Raises TransportError where there is none, or it does not start."""
    cuda = load()
    version, count, supported, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    for result in (
        cuda.cuInit(0),
        cuda.cuDriverGetVersion(ctypes.byref(version)),
        cuda.cuDeviceGetCount(ctypes.byref(count)),
    ):
        if result:
            raise TransportError(f"the CUDA driver does not start (error {result})")
    found = []
    for ordinal in range(count.value):
        cuda.cuDeviceGet(ctypes.byref(device), ctypes.c_int(ordinal))
        result = cuda.cuDeviceGetAttribute(ctypes.byref(supported), ctypes.c_int(_DMA_BUF_SUPPORTED), device)
        found.append(CudaGpu(pci_address(ordinal), not result and bool(supported.value)))
    return Driver((version.value // 1000, version.value % 1000 // 10), tuple(found))


def export(address: int, size_bytes: int) -> Export:
    """Export the pages around this range of GPU memory. Raises TransportError."""
    cuda = load()
    if not hasattr(cuda, "cuMemGetHandleForAddressRange"):
        raise TransportError("the CUDA driver is older than 11.7")
    first, length = surrounding_pages(address, size_bytes)
    on = ctypes.c_uint(1)
    cuda.cuPointerSetAttribute(ctypes.byref(on), ctypes.c_int(_SYNC_MEMOPS), ctypes.c_uint64(address))
    fd = ctypes.c_int(-1)
    result = cuda.cuMemGetHandleForAddressRange(
        ctypes.byref(fd), ctypes.c_uint64(first), ctypes.c_size_t(length), ctypes.c_int(_DMA_BUF_FD), ctypes.c_uint64(0)
    )
    if result:
        raise TransportError(
            f"the CUDA driver exports no dmabuf (error {result}); it takes the open kernel modules of the driver"
        )
    return Export(fd.value, address - first)


def surrounding_pages(address: int, size_bytes: int) -> tuple[int, int]:
    """Begin and length of the pages that hold this range."""
    first = address // PAGE_BYTES * PAGE_BYTES
    last = -(-(address + size_bytes) // PAGE_BYTES) * PAGE_BYTES
    return first, last - first
