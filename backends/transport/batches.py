"""A list of ranges cut into batches: what one native call copies, or one request carries.

Pure arithmetic; it must not know what happens to a batch.
"""

import numpy as np

from backends.transport.address_map import Addresses, Sizes


def split_long(
    first: Addresses, second: Addresses, sizes_bytes: Sizes, bytes_max: int
) -> tuple[Addresses, Addresses, Sizes]:
    """The same bytes in ranges of ``bytes_max`` at most: longer ones are cut, the others stay as they are."""
    if not len(sizes_bytes) or int(sizes_bytes.max()) <= bytes_max:
        return first, second, sizes_bytes
    parts = -(-sizes_bytes // bytes_max)
    part = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)  # 0, 1, .. within each range
    offsets = part * bytes_max
    sizes = np.minimum(np.repeat(sizes_bytes, parts) - offsets, bytes_max)
    return (
        np.repeat(first, parts) + offsets.astype(np.uint64),
        np.repeat(second, parts) + offsets.astype(np.uint64),
        sizes,
    )


def batch_bounds(sizes_bytes: Sizes, bytes_max: int, ranges_max: int) -> list[int]:
    """Cut points ``0 = b0 < b1 < .. = len``: batch i is ``[b_i, b_i+1)`` and holds at most ``bytes_max`` bytes and
    ``ranges_max`` ranges. No range may be longer than ``bytes_max``. Greedy, so no batch could take one range more.
    At least one range."""
    ends = np.cumsum(sizes_bytes)
    if len(ends) <= ranges_max and int(ends[-1]) <= bytes_max:
        return [0, len(ends)]
    bounds = [0]
    while bounds[-1] < len(sizes_bytes):
        begin = bounds[-1]
        moved = int(ends[begin - 1]) if begin else 0
        fitting = int(np.searchsorted(ends, moved + bytes_max, side="right"))
        assert fitting > begin, f"a range of {sizes_bytes[begin]} bytes in batches of {bytes_max}"
        bounds.append(min(fitting, begin + ranges_max))
    return bounds
