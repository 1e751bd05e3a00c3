"""One simulated worker on a device that it shares: every step takes as long as the others on the device let it.

Nobody can tell in advance how long a step will take, so a decode run goes step by step and reports each one, as a real
worker does. It must not know who else is on the device.
"""

from collections.abc import Callable
from functools import partial

from kvsim.core.messages import (
    FEMTOSECONDS_PER_NS,
    DecodeAdvanced,
    LayersReady,
    PrefillDone,
    RequestId,
    RunDecode,
    RunPrefill,
    WorkerId,
)
from kvsim.sim.clock import Clock
from kvsim.sim.decoding import DecodingRequests
from kvsim.sim.device import SharedDevice, Work
from kvsim.sim.gpu import Report, prefill_ns
from kvsim.sim.step_times import StepTimes
from kvsim.sim.truth import Truth


class _DecodeRun:
    """The decode run in progress."""

    __slots__ = ("command", "cut", "step_began_ns", "steps")

    def __init__(self, command: RunDecode) -> None:
        self.command = command
        self.cut = False
        self.steps = 0
        self.step_began_ns = 0


class SharingWorker:
    """The part of a device that one worker gets. ``report`` is called from the event loop with each fact."""

    def __init__(
        self,
        clock: Clock,
        worker: WorkerId,
        model: StepTimes,
        layers: int,
        truth: Truth,
        report: Report,
        device: SharedDevice,
    ) -> None:
        self._clock = clock
        self._worker = worker
        self._model = model
        self._layers = layers
        self._report = report
        self._device = device
        self._requests = DecodingRequests(truth)
        self._work: Work | None = None
        self._run: _DecodeRun | None = None
        self._carry_fs = 0
        self._paused = False
        self._held: list[Callable[[], None]] = []

    @property
    def context_tokens_peak(self) -> int:
        """The most tokens that one step's decoding requests had as their context."""
        return self._requests.context_tokens_peak

    def run_prefill(self, command: RunPrefill) -> None:
        """Start one step over chunks of prompts and, on a colocated worker, over its decoding requests."""
        if self._paused:
            self._held.append(partial(self.run_prefill, command))
            return
        duration_ns = prefill_ns(self._model, self._requests, command)
        announced = range(command.announce_layers, self._layers, command.announce_layers or self._layers)
        milestones = [
            (
                duration_ns * layers // self._layers * FEMTOSECONDS_PER_NS,
                partial(self._announce, LayersReady(self._worker, command.run, layers)),
            )
            for layers in announced
            if layers
        ]
        self._work = self._device.begin(
            duration_ns * FEMTOSECONDS_PER_NS, lambda _left_fs: self._end_prefill(command), milestones
        )

    def run_decode(self, command: RunDecode) -> None:
        """Start a run that ends at the first finished request, or after ``steps_max`` steps."""
        if self._paused:
            self._held.append(partial(self.run_decode, command))
            return
        assert self._run is None, f"worker {self._worker}: run {command.run} while one is in progress"
        self._requests.join(command.batch)
        self._run = _DecodeRun(command)
        self._begin_step(self._run)

    def cut_decode(self, run: int) -> None:
        """Let the run end with the step in progress. A run that is over is none of our business."""
        if self._run is not None and self._run.command.run == run:
            self._run.cut = True

    def release(self, request: RequestId) -> None:
        """The request has lost its blocks here: if it was decoding, it no longer is."""
        self._requests.release(request)

    def expect_stop(self, at_ns: int) -> None:
        """Nothing to do: every step is reported when it is over."""

    def change_pace(self) -> None:
        """Nothing to do: the model is asked before every step."""

    def pause(self) -> None:
        """The worker's host stands still, the step in progress ends: nothing more is begun or reported."""
        assert not self._paused, f"worker {self._worker} is paused already"
        self._paused = True

    def resume(self) -> None:
        """The host goes on: it reports and begins what it could not."""
        self._paused = False
        held, self._held = self._held, []
        for action in held:
            action()

    def lose(self) -> None:
        """The worker is gone, and the step in progress with it. What was over has been reported."""
        if self._work is not None:
            self._device.abandon(self._work)
        self._work = None
        self._run = None
        self._carry_fs = 0
        self._paused = False
        self._held.clear()
        self._requests.release_all()

    def _begin_step(self, run: _DecodeRun) -> None:
        batch = len(run.command.batch)
        context_tokens = self._requests.context_tokens + batch
        base_fs, token_fs, _ = self._model.decode_piece(batch, context_tokens)
        step_fs = base_fs + token_fs * context_tokens
        run.step_began_ns = self._clock.now_ns
        self._work = self._device.begin(self._carry_fs + step_fs, lambda left_fs: self._end_step(run, left_fs))

    def _end_step(self, run: _DecodeRun, left_fs: int) -> None:
        self._work = None
        if self._paused:
            self._held.append(partial(self._end_step, run, left_fs))
            return
        self._carry_fs = left_fs  # less than a nanosecond: of the next step, as in a run of many
        command = run.command
        run.steps += 1
        self._requests.advance(1)
        finished = self._requests.finished(command.batch)
        ended = bool(finished) or run.cut or run.steps == command.steps_max
        took_fs = (self._clock.now_ns - run.step_began_ns) * FEMTOSECONDS_PER_NS
        self._report(DecodeAdvanced(self._worker, command.run, 1, took_fs, 0, ended, finished))
        if ended:
            self._run = None
        else:
            self._begin_step(run)

    def _announce(self, event: LayersReady) -> None:
        if self._paused:
            self._held.append(partial(self._report, event))
        else:
            self._report(event)

    def _end_prefill(self, command: RunPrefill) -> None:
        self._work = None
        if self._paused:
            self._held.append(partial(self._end_prefill, command))
            return
        self._report(PrefillDone(self._worker, command.run, self._requests.end_prefill(command)))
