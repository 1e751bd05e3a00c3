"""One GPU as this process uses it: its memory for others, others' memory for it, and copies between them.

A GPU is named by its UUID, since its number depends on CUDA_VISIBLE_DEVICES. Everything happens in the device's primary
context, the one of torch: an allocation of another process may be opened by one context per device only. This module
must not know peers or transfers.
"""

import threading
from collections import deque
from contextlib import suppress
from itertools import pairwise

from backends.transport.address_map import Addresses, Sizes
from backends.transport.batches import batch_bounds
from backends.transport.cuda_ipc.driver import CudaError, Device, Driver, Event
from backends.transport.cuda_ipc.greeting import Export, Identity
from backends.transport.cuda_ipc.remedies import UNREACHABLE
from backends.transport.memory import Memory
from backends.transport.port import TransportError

TURN_BYTES = 256 * 2**20
"""What one transfer may copy while others wait, and the longest batch: some 160 us within an H100, whose memory takes
3.35 TB/s of reads and writes together (NVIDIA's data sheet). Not tuned: no GPU was at hand."""

_BATCH_RANGES = 4096
"""Copies handed to the driver in one call. Between two GPUs it merges them, within one it does not (nccl#1932)."""

_QUEUED_BATCHES = 2
"""While one is copied the next is queued, so that the GPU does not wait for the processor; a cancel takes effect behind
them."""


def missing() -> str:
    """Why transport cuda_ipc cannot be used here, or an empty text."""
    try:
        Driver().device(0)
    except TransportError as error:
        return str(error)
    return ""


class Spans:
    """Pieces of this process's addresses that are memory of GPUs. For all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: tuple[tuple[int, int], ...] = ()

    def add(self, address: int, size_bytes: int) -> None:
        """From now on."""
        with self._lock:
            self._spans = (*self._spans, (address, address + size_bytes))

    def remove(self, address: int, size_bytes: int) -> None:
        """Once for each ``add``."""
        with self._lock:
            spans = list(self._spans)
            spans.remove((address, address + size_bytes))
            self._spans = tuple(spans)

    def touch(self, addresses: Addresses) -> bool:
        """Whether one of these lies there."""
        return any(bool(((addresses >= begin) & (addresses < end)).any()) for begin, end in self._spans)

    def hold(self, addresses: Addresses) -> bool:
        """Whether all of these lie in one of them."""
        lowest, highest = int(addresses.min()), int(addresses.max())
        return any(begin <= lowest and highest < end for begin, end in self._spans)


class Gpu:
    """The GPU that sits at ``pci_address``, or the first one that this process sees. ``spans`` is what callers have
    registered and opened. For all threads but for ``copy``, which one thread calls. ``close`` it."""

    def __init__(self, driver: Driver, pci_address: str = "") -> None:
        self.spans = Spans()
        self._driver = driver
        self._device = driver.device_at(pci_address) if pci_address else driver.device(0)
        self.identity = self._identity_of(self._device)
        self._context = driver.retain(self._device)
        with driver.current(self._context):
            self._stream = driver.stream()
            self._events = [driver.event() for _ in range(_QUEUED_BATCHES)]

    @property
    def name(self) -> str:
        """For messages."""
        return f"GPU {self.identity.pci_address}"

    def close(self) -> None:
        """Let go. Everything that was opened must have been closed."""
        with self._driver.current(self._context):
            for event in self._events:
                self._driver.destroy_event(event)
            self._driver.destroy_stream(self._stream)
        self._driver.release(self._device)

    # --- memory -------------------------------------------------------------------------------------------------------

    def export(self, memory: Memory) -> Export:
        """Memory of this GPU for other processes: they get all of the allocation in which it lies. Raises
        TransportError for memory of another GPU, and where it has no handle."""
        with self._driver.current(self._context):
            device = self._driver.device(self._driver.ordinal_of(memory.address))
            if device != self._device:
                other = self._driver.pci_address(device)
                raise TransportError(f"the tensor lies on GPU {other}, this end moves memory of {self.name}")
            allocation = self._driver.allocation(memory.address)
            if allocation is None:
                raise TransportError(f"the CUDA driver knows no allocation at {memory.address:#x}")
            begin, size_bytes = allocation
            offset = memory.address - begin
            if offset + memory.size_bytes > size_bytes:
                raise TransportError(
                    f"the tensor of {memory.size_bytes} bytes ends {offset + memory.size_bytes - size_bytes} bytes "
                    "behind the allocation in which it begins"
                )
            return Export(self._driver.export(begin), offset, memory.size_bytes, memory.address)

    def refuse_unreachable(self, other: Identity) -> None:
        """Raises TransportError if the driver knows that this GPU cannot access the other one's memory. Of a GPU that
        this process does not see it tells nothing before a handle is opened."""
        for device in self._driver.devices():
            if device == self._device or self._identity_of(device) != other:
                continue
            if not self._driver.can_reach(self._device, device):
                raise TransportError(f"{self.name} cannot access memory of GPU {other.pci_address}: {UNREACHABLE}")

    def open(self, handle: bytes, end: int) -> int:
        """Where an allocation of another process begins here; ``close_allocation`` it. It must have ``end`` bytes at
        least. Raises TransportError."""
        with self._driver.current(self._context):
            begin = self._driver.open(handle)
            size_bytes = self._opened_bytes(begin)
            if size_bytes is not None and end > size_bytes:
                self._driver.close(begin)
                raise TransportError(f"its region ends at byte {end} of an allocation of {size_bytes} bytes")
        return begin

    def close_allocation(self, begin: int) -> None:
        """Let go of an allocation of another process. Nothing may be copied from or to it any more."""
        with self._driver.current(self._context):
            self._driver.close(begin)

    # --- copies -------------------------------------------------------------------------------------------------------

    def copy(self, targets: Addresses, sources: Addresses, sizes_bytes: Sizes, stop: bytearray) -> int:
        """See ``copier.Copy``, for memory of GPUs, one side of which may be the CPU's. No range is longer than
        TURN_BYTES. Sleeps until the copies are over: what they wrote can be read then, by whatever is started later."""
        bounds = batch_bounds(sizes_bytes, TURN_BYTES, _BATCH_RANGES)
        within_gpus = self.spans.hold(targets) and self.spans.hold(sources)
        queued: deque[Event] = deque()
        copied = 0
        with self._driver.current(self._context):
            try:
                for number, (begin, end) in enumerate(pairwise(bounds)):
                    if stop[0]:
                        break
                    if len(queued) == _QUEUED_BATCHES:
                        self._driver.wait(queued.popleft())
                    part = slice(begin, end)
                    if not (
                        within_gpus
                        and self._driver.copy_batch(targets[part], sources[part], sizes_bytes[part], self._stream)
                    ):
                        self._queue_each(targets[part], sources[part], sizes_bytes[part])
                    event = self._events[number % _QUEUED_BATCHES]
                    self._driver.record(event, self._stream)
                    queued.append(event)
                    copied = end
                for event in queued:
                    self._driver.wait(event)
            except TransportError:
                self._settle()
                raise
        return copied

    def _queue_each(self, targets: Addresses, sources: Addresses, sizes_bytes: Sizes) -> None:
        for target, source, size_bytes in zip(targets.tolist(), sources.tolist(), sizes_bytes.tolist(), strict=True):
            self._driver.copy(target, source, size_bytes, self._stream)

    def _opened_bytes(self, begin: int) -> int | None:
        """How much of another process's memory can be reached from there. None where the driver does not tell, which is
        documented for memory of one's own only: it refuses copies that leave it in any case."""
        try:
            allocation = self._driver.allocation(begin)
        except CudaError:
            return None
        # small allocations of a process may share one that is larger, and is what was opened
        return None if allocation is None else allocation[0] + allocation[1] - begin

    def _settle(self) -> None:
        """Wait for what was queued before a call failed."""
        with suppress(CudaError):  # the first error is told; after one that the GPU cannot survive, nothing is copied
            self._driver.drain(self._stream)

    def _identity_of(self, device: Device) -> Identity:
        return Identity(self._driver.uuid(device), self._driver.pci_address(device))
