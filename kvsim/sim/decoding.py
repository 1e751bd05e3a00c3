"""The requests that decode on one simulated worker: when each ends, and over how much context they attend.

It knows the truth that the scheduler must not: how long each output really is. Steps are counted from the worker's
start, so what a step does to a batch is one addition, however many requests it has. It must not know time.
"""

from heapq import heappop, heappush
from typing import Final

from kvsim.core.messages import RequestId, RunPrefill
from kvsim.sim.truth import Truth

UNKNOWN: Final = -1


class DecodingRequests:
    """``context_tokens`` is what all of them attend to in the step before the next, the next one's tokens left out;
    ``context_tokens_peak`` the most that it ever was."""

    def __init__(self, truth: Truth) -> None:
        self.context_tokens = 0
        self.context_tokens_peak = 0
        self._truth = truth
        self._steps_total = 0
        self._ends: dict[RequestId, int] = {}
        self._joined: dict[RequestId, int] = {}
        self._end_heap: list[tuple[int, RequestId]] = []
        self._first_end = UNKNOWN

    def join(self, batch: tuple[RequestId, ...]) -> None:
        """Take in those who are new in the batch. They stand at its end, so the walk stops at the first known one."""
        for request in reversed(batch):
            if request in self._joined:
                break
            self._first_end = UNKNOWN
            self._joined[request] = self._steps_total
            self.context_tokens += self._truth.context_tokens(request)
            end = self._steps_total + self._truth.tokens_left(request)
            self._ends[request] = end
            heappush(self._end_heap, (end, request))

    def release(self, request: RequestId) -> None:
        """The request has lost its blocks here: if it was decoding, it no longer is."""
        joined = self._joined.pop(request, None)
        if joined is not None:
            self._first_end = UNKNOWN
            del self._ends[request]
            self.context_tokens -= self._truth.context_tokens(request) + self._steps_total - joined
            self._truth.add_tokens(request, self._steps_total - joined)

    def release_all(self) -> None:
        """Nothing is left here of any request."""
        for request in list(self._joined):
            self.release(request)

    def steps_left(self) -> int:
        """Steps until the first request of the batch finishes."""
        return self._next_end() - self._steps_total

    def advance(self, steps: int) -> None:
        """Every request has so many more tokens."""
        self._steps_total += steps
        self.context_tokens += steps * len(self._joined)
        self.context_tokens_peak = max(self.context_tokens_peak, self.context_tokens)

    def finished(self, batch: tuple[RequestId, ...]) -> tuple[RequestId, ...]:
        """Those of the batch that finish now, in batch order; they leave when the scheduler releases their blocks."""
        if self._next_end() != self._steps_total:
            return ()
        heap = self._end_heap
        second_end = min([end for end, _ in heap[1:3]], default=UNKNOWN)  # one of these is the next in the heap
        if second_end != self._steps_total:
            return (heap[0][1],)
        return tuple([request for request in batch if self._ends[request] == self._steps_total])

    def end_prefill(self, command: RunPrefill) -> tuple[RequestId, ...]:
        """Book the step of a prefill run: one token for each request that decodes in it, and one for each whose context
        it completes. Returns those that finish."""
        finished: tuple[RequestId, ...] = ()
        if command.decoding:
            self.advance(1)
            finished = self.finished(command.decoding)
        for request in command.completes:
            self._truth.add_tokens(request, 1)
            if self._truth.tokens_left(request) == 0:
                finished = (*finished, request)
        return finished

    def _next_end(self) -> int:
        """The step count at which the first request of the batch finishes. Drops those that left."""
        while self._first_end == UNKNOWN:
            end, request = self._end_heap[0]
            if self._ends.get(request) == end:
                self._first_end = end
            else:
                heappop(self._end_heap)
        return self._first_end
