"""Which of several requests comes to its end first, counted in steps.

Requests leave at any time, so the heap holds entries of some that have left; each is dropped when it comes first. This
module must not know what ends, or when steps happen.
"""

from heapq import heappop, heappush
from typing import Final

from kvsim.core.messages import RequestId

NEVER: Final = 1 << 60
"""The step at which the first of no requests ends."""

_UNKNOWN: Final = -1


class StepEnds:
    """The step at which each request ends."""

    def __init__(self) -> None:
        self._ends: dict[RequestId, int] = {}
        self._heap: list[tuple[int, RequestId]] = []
        self._first = _UNKNOWN  # looked for once: it is asked for several times between two changes

    def add(self, request: RequestId, step: int) -> None:
        """The request ends at this step unless it is removed before."""
        self._ends[request] = step
        heappush(self._heap, (step, request))
        self._first = _UNKNOWN

    def remove(self, request: RequestId) -> None:
        """The request has left."""
        del self._ends[request]
        self._first = _UNKNOWN

    def first_step(self) -> int:
        """The step at which the first request ends, or ``NEVER``."""
        while self._first == _UNKNOWN:
            if not self._heap:
                return NEVER
            step, request = self._heap[0]
            if self._ends.get(request, _UNKNOWN) == step:
                self._first = step
            else:
                heappop(self._heap)
        return self._first

    def ending(self, step: int) -> list[RequestId]:
        """Those that end at ``step``, lowest id first. None may end before it."""
        first = self.first_step()
        assert first >= step, f"somebody ended at step {first}, and it is step {step}"
        if first != step:
            return []
        heap = self._heap
        if step not in [end for end, _ in heap[1:3]]:  # the next in the heap is one of these
            return [heap[0][1]]
        return sorted([request for request, end in self._ends.items() if end == step])
