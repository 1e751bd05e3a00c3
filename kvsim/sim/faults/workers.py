"""Workers that may be gone, and steps that may be slow.

It must not know why, when, or who is told.
"""

from collections.abc import Sequence
from math import prod

from kvsim.core.messages import RequestId, RunDecode, RunPrefill
from kvsim.sim.step_times import StepTimes
from kvsim.sim.workers import Worker


class PacedSteps:
    """The steps of a worker, longer by all factors that hold at this instant."""

    def __init__(self, steps: StepTimes) -> None:
        self._steps = steps
        self._factors: list[float] = []

    def slow_down(self, factor: float) -> None:
        """From now on steps take ``factor`` times as long as without."""
        self._factors.append(factor)

    def recover(self, factor: float) -> None:
        """The counterpart of ``slow_down``."""
        self._factors.remove(factor)

    def prefill_ns(self, chunks: Sequence[tuple[int, int]], decode_requests: int, decode_context_tokens: int) -> int:
        """As of the worker, longer; rounded to whole nanoseconds."""
        return self._paced(self._steps.prefill_ns(chunks, decode_requests, decode_context_tokens))

    def decode_fs(self, batch_requests: int) -> tuple[int, int]:
        """As of the worker, longer; rounded to whole femtoseconds."""
        base_fs, token_fs = self._steps.decode_fs(batch_requests)
        return self._paced(base_fs), self._paced(token_fs)

    def decode_piece(self, batch_requests: int, context_tokens: int) -> tuple[int, int, int]:
        """As of the worker, longer; rounded to whole femtoseconds."""
        base_fs, token_fs, end_tokens = self._steps.decode_piece(batch_requests, context_tokens)
        return self._paced(base_fs), self._paced(token_fs), end_tokens

    def _paced(self, duration: int) -> int:
        return round(duration * prod(self._factors)) if self._factors else duration


class MortalWorker:
    """A worker whose orders reach nobody while it is not ``alive``."""

    def __init__(self, worker: Worker, *, alive: bool) -> None:
        self.alive = alive
        self.paused = False
        self._worker = worker

    @property
    def context_tokens_peak(self) -> int:
        """As of the worker."""
        return self._worker.context_tokens_peak

    def run_prefill(self, command: RunPrefill) -> None:
        """If it is there."""
        if self.alive:
            self._worker.run_prefill(command)

    def run_decode(self, command: RunDecode) -> None:
        """If it is there."""
        if self.alive:
            self._worker.run_decode(command)

    def cut_decode(self, run: int) -> None:
        """If it is there."""
        if self.alive:
            self._worker.cut_decode(run)

    def release(self, request: RequestId) -> None:
        """If it is there."""
        if self.alive:
            self._worker.release(request)

    def expect_stop(self, at_ns: int) -> None:
        """As of the worker."""
        self._worker.expect_stop(at_ns)

    def pause(self) -> None:
        """It hangs."""
        self.paused = True
        self._worker.pause()

    def resume(self) -> None:
        """It goes on."""
        self.paused = False
        self._worker.resume()

    def change_pace(self) -> None:
        """As of the worker."""
        self._worker.change_pace()

    def lose(self) -> None:
        """It is gone, until ``alive`` is set again."""
        self.alive = self.paused = False
        self._worker.lose()
