"""The requests that decode on one simulated worker: when each ends, and over how much context they attend.

It knows the truth that the scheduler must not: how long each output really is. Steps are counted from the worker's
start, so what a step does to a batch is one addition, however many requests it has. It must not know time.
"""

from kvsim.core.messages import RequestId, RunPrefill
from kvsim.core.step_ends import StepEnds
from kvsim.sim.truth import Truth


class DecodingRequests:
    """``context_tokens`` is what all of them attend to in the step before the next, the next one's tokens left out;
    ``context_tokens_peak`` the most that it ever was."""

    def __init__(self, truth: Truth) -> None:
        self.context_tokens = 0
        self.context_tokens_peak = 0
        self._truth = truth
        self._steps_total = 0
        self._ends = StepEnds()
        self._joined: dict[RequestId, int] = {}

    def join(self, batch: tuple[RequestId, ...]) -> None:
        """Take in those who are new in the batch. They stand at its end, so the walk stops at the first known one."""
        for request in reversed(batch):
            if request in self._joined:
                break
            self._joined[request] = self._steps_total
            self.context_tokens += self._truth.context_tokens(request)
            self._ends.add(request, self._steps_total + self._truth.tokens_left(request))

    def release(self, request: RequestId) -> None:
        """The request has lost its blocks here: if it was decoding, it no longer is."""
        joined = self._joined.pop(request, None)
        if joined is not None:
            self._ends.remove(request)
            self.context_tokens -= self._truth.context_tokens(request) + self._steps_total - joined
            self._truth.add_tokens(request, self._steps_total - joined)

    def release_all(self) -> None:
        """Nothing is left here of any request."""
        for request in list(self._joined):
            self.release(request)

    def steps_left(self) -> int:
        """Steps until the first request of the batch finishes."""
        return self._ends.first_step() - self._steps_total

    def advance(self, steps: int) -> None:
        """Every request has so many more tokens."""
        self._steps_total += steps
        self.context_tokens += steps * len(self._joined)
        self.context_tokens_peak = max(self.context_tokens_peak, self.context_tokens)

    def finished(self, batch: tuple[RequestId, ...]) -> tuple[RequestId, ...]:
        """Those of the batch that finish now, in batch order; they leave when the scheduler releases their blocks."""
        ending = self._ends.ending(self._steps_total)
        if len(ending) < 2:
            return tuple(ending)
        members = frozenset(ending)
        return tuple([request for request in batch if request in members])

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
