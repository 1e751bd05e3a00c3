"""Addresses as peers see them, checked against regions and turned into addresses of this process.

Every range that comes from a caller or a peer passes ``AddressMap.locate`` before a byte is touched. Pure arithmetic;
it must not know memory, sockets or who asks.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvsim.core.descriptors import Ranges

Addresses = NDArray[np.uint64]
Sizes = NDArray[np.int64]


class OutOfRegionsError(ValueError):
    """Ranges that do not lie within regions; the text names the first one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A region: what peers call ``[begin, begin + size_bytes)`` lies at ``memory_address`` here."""

    number: int
    begin: int
    size_bytes: int
    memory_address: int


class AddressMap:
    """Disjoint regions, looked up for many ranges at once. Immutable."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = tuple(sorted(pieces, key=lambda piece: piece.begin))
        self._begins = np.array([piece.begin for piece in self.pieces], dtype=np.uint64)
        self._ends = np.array([piece.begin + piece.size_bytes for piece in self.pieces], dtype=np.uint64)
        # modulo 2**64, so that a piece may lie below its begin: adding wraps round to the right address
        shifts = [(piece.memory_address - piece.begin) % 2**64 for piece in self.pieces]
        self._shifts = np.array(shifts, dtype=np.uint64)

    def locate(self, addresses: Addresses, sizes_bytes: Sizes) -> tuple[Addresses, tuple[int, ...]]:
        """Where these ranges lie in this process, and the numbers of the regions that they touch, by address.

        Each range must have 1 byte at least and lie within one region, else OutOfRegionsError.
        """
        if not len(addresses):
            return addresses, ()
        if not self.pieces:
            raise OutOfRegionsError("there are no regions")
        one = self._common_piece(addresses, sizes_bytes)
        if one is not None:
            return addresses + self._shifts[one], (self.pieces[one].number,)
        index = np.searchsorted(self._begins, addresses, side="right") - 1
        inside = index >= 0
        index = np.maximum(index, 0)
        space = self._ends[index] - addresses  # huge for addresses behind the end
        space = np.where(addresses < self._ends[index], space, np.uint64(0))
        fits = inside & (sizes_bytes > 0) & (sizes_bytes.astype(np.uint64) <= space)
        if not fits.all():
            first = int(np.argmin(fits))
            raise OutOfRegionsError(
                f"range {first} of {len(addresses)}, {sizes_bytes[first]} bytes at {addresses[first]:#x}, lies outside "
                "the registered regions"
            )
        return addresses + self._shifts[index], tuple(self.pieces[at].number for at in np.unique(index))

    def _common_piece(self, addresses: Addresses, sizes_bytes: Sizes) -> int | None:
        """The index of the piece in which all ranges lie, if there is one: the usual case, and much cheaper to check
        than each range by itself."""
        lowest, highest = int(addresses.min()), int(addresses.max())
        at = bisect_right(self.pieces, lowest, key=lambda piece: piece.begin) - 1
        if at < 0:
            return None
        piece = self.pieces[at]
        end = piece.begin + piece.size_bytes
        longest = int(sizes_bytes.max())
        if int(sizes_bytes.min()) < 1 or longest > piece.size_bytes:
            return None
        # below 2**64, since ends lie below 2**63 + 2**44: the sum does not wrap round
        inside = highest + longest <= end or (
            highest < end and int((addresses + sizes_bytes.view(np.uint64)).max()) <= end
        )
        return at if inside else None


def arrays_of(ranges: Ranges) -> tuple[Addresses, Addresses, Sizes]:
    """Source addresses, target addresses and sizes as contiguous arrays of one length. ValueError if they are not."""
    source = np.ascontiguousarray(ranges.source_address)
    target = np.ascontiguousarray(ranges.target_address)
    sizes_bytes = np.ascontiguousarray(ranges.size_bytes)
    if source.dtype != np.uint64 or target.dtype != np.uint64 or sizes_bytes.dtype != np.int64:
        raise ValueError(
            f"ranges of {source.dtype}, {target.dtype}, {sizes_bytes.dtype}: uint64, uint64, int64 expected"
        )
    if not source.ndim == target.ndim == sizes_bytes.ndim == 1 or not len(source) == len(target) == len(sizes_bytes):
        raise ValueError(f"ranges of shapes {source.shape}, {target.shape}, {sizes_bytes.shape}: one length expected")
    return source, target, sizes_bytes
