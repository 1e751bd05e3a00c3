"""Our registered regions: their addresses, who is using them, and how they are taken back.

Region n begins at address ``n << 44``. Numbers are not used again, so an address of a region that is gone never points
into another one. This module must not know sockets or peers.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from backends.transport.address_map import Addresses, AddressMap, OutOfRegionsError, Piece, Sizes
from backends.transport.description import RegionDescription, describe_tensor, tensor_span_bytes
from backends.transport.memory import Memory
from backends.transport.port import Access, Region, TransportError
from kvsim.core.kv_tensor import KvTensor

_ADDRESS_BITS = 44
_REGIONS_EVER = 2 ** (63 - _ADDRESS_BITS)
_GRACE_S = 1.0
"""How long users of a region that is taken back may finish what they are at before their connections are cut."""


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """Somebody who touches regions: ``stop`` asks for an early end, ``cut`` enforces it without waiting for a peer."""

    numbers: tuple[int, ...]
    stop: Callable[[], None]
    cut: Callable[[], None]


class Registry:
    """The regions of one transport. For all threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next_number = 1
        self._regions: dict[int, tuple[Region, Memory]] = {}
        self._map = AddressMap(())
        self._uses: dict[int, Use] = {}
        self._next_use = 0

    def register(self, memory: Memory, tensor: KvTensor, peers_may: Access = "both") -> Region:
        """A new region for this memory; see ``Transport.register``."""
        end_bytes = tensor.base_address + tensor_span_bytes(tensor)
        if tensor.base_address < 0 or end_bytes > memory.size_bytes:
            raise TransportError(
                f"the tensor covers bytes {tensor.base_address} to {end_bytes} of a region of {memory.size_bytes} bytes"
            )
        if memory.size_bytes >= 2**_ADDRESS_BITS or self._next_number >= _REGIONS_EVER:
            raise TransportError(f"a region of {memory.size_bytes} bytes as number {self._next_number} has no address")
        with self._changed:
            number = self._next_number
            self._next_number += 1
            begin = number << _ADDRESS_BITS
            tensor = replace(tensor, base_address=begin + tensor.base_address, key=number)
            region = Region(number, begin, memory.size_bytes, tensor, peers_may)
            self._regions[number] = (region, memory)
            self._rebuild()
        return region

    def unregister(self, region: Region) -> None:
        """Take a region back. When this returns nobody who passed through ``use`` touches its memory."""
        with self._changed:
            if self._regions.pop(region.number, None) is None:
                return
            self._rebuild()
        self._end_uses(region.number)

    def regions(self) -> list[tuple[Region, Memory]]:
        """All regions, in the order in which they were registered."""
        with self._changed:
            return list(self._regions.values())

    def withdrawn(self) -> list[int]:
        """Numbers of the regions that were taken back, ascending."""
        with self._changed:
            return [number for number in range(1, self._next_number) if number not in self._regions]

    def describe(self) -> tuple[RegionDescription, ...]:
        """All regions as peers are told."""
        return tuple(
            RegionDescription(
                region.number, region.address, region.size_bytes, region.tensor.key, describe_tensor(region.tensor)
            )
            for region, _ in self.regions()
        )

    def use(
        self,
        addresses: Addresses,
        sizes_bytes: Sizes,
        stop: Callable[[], None],
        cut: Callable[[], None],
        peer_would: Access | None = None,
    ) -> tuple[Addresses, int]:
        """Where these ranges lie in this process, and a number for ``release``. ``peer_would`` is what a peer would do
        with them, None for ourselves. Raises OutOfRegionsError, also for regions that are not for peers to do that."""
        with self._changed:
            located, numbers = self._map.locate(addresses, sizes_bytes)
            for number in numbers if peer_would is not None else ():
                if self._regions[number][0].peers_may not in ("both", peer_would):
                    raise OutOfRegionsError(f"region {number} is not for peers to {peer_would}")
            self._next_use += 1
            self._uses[self._next_use] = Use(numbers, stop, cut)
            return located, self._next_use

    def release(self, use: int) -> None:
        """This user touches its ranges no more."""
        with self._changed:
            if self._uses.pop(use, None) is not None:
                self._changed.notify_all()

    def _rebuild(self) -> None:
        self._map = AddressMap(
            [
                Piece(number, region.address, memory.size_bytes, memory.address)
                for number, (region, memory) in self._regions.items()
            ]
        )

    def _end_uses(self, number: int) -> None:
        for use in self._uses_of(number):
            use.stop()
        deadline_s = time.monotonic() + _GRACE_S
        with self._changed:
            while self._held(number) and (left_s := deadline_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
        for use in self._uses_of(number):
            use.cut()
        with self._changed:
            self._changed.wait_for(lambda: not self._held(number))

    def _uses_of(self, number: int) -> list[Use]:
        with self._changed:
            return [use for use in self._uses.values() if number in use.numbers]

    def _held(self, number: int) -> bool:
        return any(number in use.numbers for use in self._uses.values())
