"""How long one message takes by its size, where that was measured: NCCL, for one, is no latency plus bytes over a rate.

Libraries change protocol, channels and chunks with the size of a message, so its time has knees that no two numbers
describe. It must not know what a message is for.
"""

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MessageTimes:
    """``ns[i]`` for a message of ``size_bytes[i]``. Sizes ascend, times do not descend; as many of both, at least one.

    Straight lines lie between the points. A message below the first takes as long as the first; beyond the last one the
    last line goes on.
    """

    size_bytes: tuple[int, ...]
    ns: tuple[int, ...]

    def of(self, size_bytes: float) -> float:
        """Nanoseconds of a message of this size."""
        sizes, times = self.size_bytes, self.ns
        if size_bytes <= sizes[0] or len(sizes) == 1:
            return float(times[0])
        right = min(bisect_left(sizes, size_bytes), len(sizes) - 1)
        left = right - 1
        slope = (times[right] - times[left]) / (sizes[right] - sizes[left])
        return times[left] + slope * (size_bytes - sizes[left])
