"""One simulated worker: how long its runs take, how far they get, and which requests finish in them.

It carries out ``RunPrefill`` and ``RunDecode`` as a real worker would, one at a time, and knows the truth that the
scheduler must not: when each output really ends. A run of k steps costs one event; its end and the boundary after a cut
come from closed forms. It must not know other workers or the network.
"""

from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush

import simpy

from kvsim.core.messages import (
    FEMTOSECONDS_PER_NS,
    DecodeAdvanced,
    Event,
    LayersReady,
    PrefillDone,
    RequestId,
    RunDecode,
    RunPrefill,
    WorkerId,
)
from kvsim.sim.compute import StepModel
from kvsim.sim.steps import steps_begun_before, steps_total_fs
from kvsim.sim.timer import call_after
from kvsim.sim.truth import Truth

Report = Callable[[Event], None]


class _DecodeRun:
    """The decode run in progress: its step costs and after how many steps it is planned to end."""

    __slots__ = ("carry_fs", "command", "first_fs", "growth_fs", "started_ns", "steps")

    def __init__(
        self, command: RunDecode, started_ns: int, steps: int, first_fs: int, growth_fs: int, carry_fs: int
    ) -> None:
        self.command = command
        self.started_ns = started_ns
        self.steps = steps
        self.first_fs = first_fs
        self.growth_fs = growth_fs
        self.carry_fs = carry_fs

    def total_fs(self) -> int:
        return steps_total_fs(self.steps, self.first_fs, self.growth_fs, self.carry_fs)


class SimulatedWorker:
    """The GPUs of one worker. ``report`` is called from the event loop with each fact."""

    def __init__(
        self, env: simpy.Environment, worker: WorkerId, model: StepModel, layers: int, truth: Truth, report: Report
    ) -> None:
        self._env = env
        self._worker = worker
        self._model = model
        self._layers = layers
        self._truth = truth
        self._report = report
        self._run: _DecodeRun | None = None
        self._steps_total = 0
        self._context_tokens = 0
        self._carry_fs = 0
        self._ends: dict[RequestId, int] = {}
        self._joined: dict[RequestId, int] = {}
        self._end_heap: list[tuple[int, RequestId]] = []

    def run_prefill(self, command: RunPrefill) -> None:
        """Start one step over chunks of prompts and, on a colocated worker, over its decoding requests."""
        self._join(command.decoding)
        chunks = [(chunk.start_token, chunk.tokens) for chunk in command.chunks]
        decoding = len(command.decoding)
        duration_ns = self._model.prefill_ns(chunks, decoding, self._context_tokens + decoding)
        if command.announce_layers:
            for layers in range(command.announce_layers, self._layers, command.announce_layers):
                ready = LayersReady(self._worker, command.run, layers)
                call_after(self._env, duration_ns * layers // self._layers, partial(self._report, ready))
        call_after(self._env, duration_ns, lambda: self._end_prefill(command))

    def run_decode(self, command: RunDecode) -> None:
        """Start a run that ends at the first finished request, or after ``steps_max`` steps."""
        assert self._run is None, f"worker {self._worker}: run {command.run} while one is in progress"
        self._join(command.batch)
        batch = len(command.batch)
        base_fs, token_fs = self._model.decode_fs(batch)
        first_fs = base_fs + token_fs * (self._context_tokens + batch)
        steps = min(command.steps_max, self._next_end() - self._steps_total)
        self._run = _DecodeRun(command, int(self._env.now), steps, first_fs, token_fs * batch, self._carry_fs)
        self._await_end(self._run)

    def cut_decode(self, run: int) -> None:
        """Let the run end at its first step boundary after this instant. A run that is over is none of our business."""
        current = self._run
        if current is None or current.command.run != run:
            return
        elapsed_ns = int(self._env.now) - current.started_ns
        steps = steps_begun_before(elapsed_ns + 1, current.steps, current.first_fs, current.growth_fs, current.carry_fs)
        if steps < current.steps:
            current.steps = steps
            self._await_end(current)

    def release(self, request: RequestId) -> None:
        """The request has lost its blocks here: if it was decoding, it no longer is."""
        joined = self._joined.pop(request, None)
        if joined is not None:
            del self._ends[request]
            self._context_tokens -= self._truth.context_tokens(request) + self._steps_total - joined
            self._truth.add_tokens(request, self._steps_total - joined)

    def _join(self, batch: tuple[RequestId, ...]) -> None:
        """Take in those who are new in the batch. They stand at its end, so the walk stops at the first known one."""
        for request in reversed(batch):
            if request in self._joined:
                break
            self._joined[request] = self._steps_total
            self._context_tokens += self._truth.context_tokens(request)
            end = self._steps_total + self._truth.tokens_left(request)
            self._ends[request] = end
            heappush(self._end_heap, (end, request))

    def _next_end(self) -> int:
        """The step count at which the first request of the batch finishes. Drops those that left."""
        while True:
            end, request = self._end_heap[0]
            if self._ends.get(request) == end:
                return end
            heappop(self._end_heap)

    def _await_end(self, run: _DecodeRun) -> None:
        end_ns = run.started_ns + run.total_fs() // FEMTOSECONDS_PER_NS
        call_after(self._env, end_ns - int(self._env.now), partial(self._end_decode, run, run.steps))

    def _end_decode(self, run: _DecodeRun, steps: int) -> None:
        if self._run is not run or run.steps != steps:
            return  # a timer of before a cut: SimPy cannot take it back
        self._run = None
        self._carry_fs = run.total_fs() % FEMTOSECONDS_PER_NS
        self._advance(steps)
        finished = self._finished(run.command.batch)
        self._report(
            DecodeAdvanced(
                self._worker, run.command.run, steps, run.first_fs, run.growth_fs, True, finished, run.carry_fs
            )
        )

    def _end_prefill(self, command: RunPrefill) -> None:
        if command.decoding:
            self._advance(1)
        finished = self._finished(command.decoding) if command.decoding else ()
        for request in command.completes:
            self._truth.add_tokens(request, 1)
            if self._truth.tokens_left(request) == 0:
                finished = (*finished, request)
        self._report(PrefillDone(self._worker, command.run, finished))

    def _advance(self, steps: int) -> None:
        self._steps_total += steps
        self._context_tokens += steps * len(self._joined)

    def _finished(self, batch: tuple[RequestId, ...]) -> tuple[RequestId, ...]:
        """Those of the batch that finish now, in batch order; they leave when the scheduler releases their blocks."""
        if self._next_end() != self._steps_total:
            return ()
        return tuple([request for request in batch if self._ends[request] == self._steps_total])
