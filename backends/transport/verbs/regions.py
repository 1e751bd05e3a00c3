"""Our registered regions as the device knows them: memory regions, and memory windows for each peer.

A region's key opens it to whoever has a connected queue pair, so where the device has memory windows of type 2 no peer
gets it: each of its queue pairs gets keys that hold on that queue pair alone and die with it. This module must not know
when peers come and go.
"""

import errno
import os
import resource
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.transport.memory import Memory
from backends.transport.port import Access, TransportError
from backends.transport.verbs import gpu
from backends.transport.verbs.device import Device
from backends.transport.verbs.requests import Keys
from backends.transport.verbs.schedule import KnownRegions
from kvsim.units import format_bytes

_REMOTE_FLAGS: dict[Access, tuple[str, ...]] = {
    "read": ("IBV_ACCESS_REMOTE_READ",),
    "write": ("IBV_ACCESS_REMOTE_WRITE",),
    "both": ("IBV_ACCESS_REMOTE_READ", "IBV_ACCESS_REMOTE_WRITE"),
}


@dataclass(frozen=True, slots=True, eq=False)
class RegisteredMemory:
    """A region that the device can reach. ``begin`` is its first address as ranges name it, ``base`` as the device
    does: the address itself, but for memory that came as a dmabuf, where it is the offset in that. ``remote_access``:
    flags of what peers may do."""

    number: int
    begin: int
    memory: Memory
    base: int
    region: Any
    remote_access: int


@dataclass(frozen=True, slots=True, eq=False)
class LocalRegions:
    """Where our ranges lie for the device: a row for each region, and its key for our own work requests."""

    known: KnownRegions
    keys: Keys


class Regions:
    """The regions of one transport, by number. Guarded by the device's lock."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._regions: dict[int, RegisteredMemory] = {}
        self.local = self._local()

    def register(self, number: int, begin: int, memory: Memory, peers_may: Access, *, on_gpu: bool) -> None:
        """Pin memory and let the device reach it. Raises TransportError that says what to do."""
        library = self._device.library
        access = library.flags("IBV_ACCESS_LOCAL_WRITE", "IBV_ACCESS_RELAXED_ORDERING")
        remote = library.flags(*_REMOTE_FLAGS[peers_may])
        access |= library.flags("IBV_ACCESS_MW_BIND") if self._device.limits.windows else remote
        with self._device.lock:
            try:
                region = library.mr(self._device.domain, memory.size_bytes, access, address=memory.address)
                base = memory.address
            except library.error as error:
                if not on_gpu:
                    raise TransportError(refusal(self._device.name, memory.size_bytes, _errno_of(error))) from None
                region, base = gpu.register(self._device, memory, access, _errno_of(error))
            self._regions[number] = RegisteredMemory(number, begin, memory, base, region, remote)
            self.local = self._local()

    def take_out(self, number: int) -> RegisteredMemory | None:
        """Forget a region, so that no key for it is made any more; ``release`` it when no window to it is left."""
        with self._device.lock:
            found = self._regions.pop(number, None)
            self.local = self._local()
        return found

    def release(self, region: RegisteredMemory) -> None:
        """The device reaches this memory no more."""
        with self._device.lock:
            region.region.close()

    def all(self) -> list[RegisteredMemory]:
        """All regions, by number."""
        with self._device.lock:
            return [self._regions[number] for number in sorted(self._regions)]

    def _local(self) -> LocalRegions:
        found = [(region.number, region.begin, region.base) for region in self._regions.values()]
        known = KnownRegions(found)
        keys = [int(self._regions[number].region.lkey) for number in known.numbers]
        return LocalRegions(known, np.array(keys, dtype=np.uint32))


def refusal(device: str, size_bytes: int, number: int) -> str:
    """Why memory was not registered, and what helps."""
    what = f"{device} cannot register {format_bytes(size_bytes)}"
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if number in (errno.ENOMEM, errno.EAGAIN, errno.EPERM) and soft != resource.RLIM_INFINITY and soft < size_bytes:
        return (
            f"{what}: this process may lock {format_bytes(soft)} of memory; lift the limit with 'ulimit -l unlimited' "
            "(systemd: LimitMEMLOCK=infinity; Docker: --ulimit memlock=-1)"
        )
    return f"{what}: {os.strerror(number) if number > 0 else 'unknown error'} (errno {number})"


def _errno_of(error: Exception) -> int:
    return int(getattr(error, "error_code", None) or 0)
