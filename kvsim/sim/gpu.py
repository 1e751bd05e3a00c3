"""One simulated worker with GPUs of its own: how long its runs take and how far they get.

It carries out ``RunPrefill`` and ``RunDecode`` as a real worker would, one at a time. A run of k steps costs one event;
its end and the boundary after a cut come from closed forms. It must not know other workers or the network.
"""

from collections.abc import Callable
from functools import partial

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
from kvsim.sim.clock import Clock, Wake
from kvsim.sim.decoding import DecodingRequests
from kvsim.sim.flow import NEVER_NS
from kvsim.sim.step_times import StepTimes
from kvsim.sim.steps import steps_begun_before, steps_total_fs
from kvsim.sim.truth import Truth

Report = Callable[[Event], None]


class _DecodeRun(Wake):
    """The decode run in progress: its step costs, and after how many steps and how long it is planned to end. It acts
    when it was to end at first; it may have been cut meanwhile."""

    def __init__(
        self,
        worker: "SimulatedWorker",
        command: RunDecode,
        started_ns: int,
        steps: int,
        first_fs: int,
        growth_fs: int,
        carry_fs: int,
    ) -> None:
        self.worker = worker
        self.command = command
        self.steps_planned = steps
        self.started_ns = started_ns
        self.first_fs = first_fs
        self.growth_fs = growth_fs
        self.carry_fs = carry_fs
        self.stops_after = 0  # steps, once the worker is paused
        self.end_after(steps)

    def end_after(self, steps: int) -> None:
        self.steps = steps
        self.total_fs = steps_total_fs(steps, self.first_fs, self.growth_fs, self.carry_fs)

    def act(self) -> None:
        self.worker.end_decode(self, self.steps_planned)


class _CutEnds(Wake):
    """The end of a decode run that was cut has come, unless it was cut again."""

    def __init__(self, run: _DecodeRun) -> None:
        self._run = run
        self._steps = run.steps

    def act(self) -> None:
        self._run.worker.end_decode(self._run, self._steps)


class _PrefillEnds(Wake):
    """The one step of a prefill run is over."""

    def __init__(self, worker: "SimulatedWorker", command: RunPrefill) -> None:
        self._worker = worker
        self._command = command

    def act(self) -> None:
        self._worker.end_prefill(self._command)


class SimulatedWorker:
    """The GPUs of one worker. ``report`` is called from the event loop with each fact."""

    def __init__(
        self, clock: Clock, worker: WorkerId, model: StepTimes, layers: int, truth: Truth, report: Report
    ) -> None:
        self._clock = clock
        self._worker = worker
        self._model = model
        self._layers = layers
        self._report = report
        self._requests = DecodingRequests(truth)
        self._prefill: RunPrefill | None = None
        self._run: _DecodeRun | None = None
        self._carry_fs = 0
        self._stops_ns = NEVER_NS
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
        self._prefill = command
        duration_ns = prefill_ns(self._model, self._requests, command)
        if command.announce_layers:
            for layers in range(command.announce_layers, self._layers, command.announce_layers):
                self._clock.call_after(
                    duration_ns * layers // self._layers, partial(self._announce_layers, command, layers)
                )
        self._clock.wake_after(duration_ns, _PrefillEnds(self, command))

    def run_decode(self, command: RunDecode) -> None:
        """Start a run that ends at the first finished request, or after ``steps_max`` steps."""
        if self._paused:
            self._held.append(partial(self.run_decode, command))
            return
        assert self._run is None, f"worker {self._worker}: run {command.run} while one is in progress"
        self._requests.join(command.batch)
        self._decode(command, command.steps_max)

    def _decode(self, command: RunDecode, steps_max: int) -> None:
        requests = self._requests
        batch = len(command.batch)
        context_tokens = requests.context_tokens + batch
        base_fs, token_fs, end_tokens = self._model.decode_piece(batch, context_tokens)
        first_fs = base_fs + token_fs * context_tokens
        steps = min(steps_max, requests.steps_left())
        self._run = _DecodeRun(self, command, self._clock.now_ns, steps, first_fs, token_fs * batch, self._carry_fs)
        self._await_end(self._run, self._run)
        if context_tokens + steps * batch > end_tokens:  # later steps take longer than this line says
            self._await_split(self._run, (end_tokens - 1 - context_tokens) // batch + 1)
        if self._stops_ns != NEVER_NS:
            self._report_before_stop(self._run)

    def cut_decode(self, run: int) -> None:
        """Let the run end at its first step boundary after this instant. A run that is over is none of our business."""
        current = self._run
        if current is None or current.command.run != run:
            return
        steps = current.stops_after if self._paused else self._steps_over(current) + 1
        if steps < current.steps:
            current.end_after(steps)
            self._await_end(current, _CutEnds(current))

    def release(self, request: RequestId) -> None:
        """The request has lost its blocks here: if it was decoding, it no longer is."""
        self._requests.release(request)

    # --- what may go wrong --------------------------------------------------------------------------------------------

    def expect_stop(self, at_ns: int) -> None:
        """The worker will be paused or lost at this instant, unless it is lost before. What it has reported by then
        must not depend on how many steps a run has."""
        self._stops_ns = at_ns
        if self._run is not None:
            self._report_before_stop(self._run)

    def pause(self) -> None:
        """The worker's host stands still, its GPU ends the step in progress: nothing more is begun or reported."""
        assert not self._paused, f"worker {self._worker} is paused already"
        run = self._run
        if run is not None:
            run.stops_after = self._steps_at_next_boundary(run)
            self._await_split(run, run.stops_after)
        self._paused = True

    def resume(self) -> None:
        """The host goes on: it reports and begins what it could not."""
        self._paused = False
        held, self._held = self._held, []
        for action in held:
            action()

    def change_pace(self) -> None:
        """From now on steps take what the model now says; one in progress ends as it began."""
        run = self._run
        if run is not None and not self._paused:
            self._await_split(run, self._steps_at_next_boundary(run))

    def lose(self) -> None:
        """The worker is gone: steps that are over by now are reported, as a real worker has done, and nothing else."""
        run = self._run
        if run is not None and not self._paused:
            steps = self._steps_over(run)
            if steps == run.steps:
                self.end_decode(run, steps)
            elif steps:
                self._requests.advance(steps)
                self._report(self._advanced(run, steps, ended=False, finished=()))
        self._run = None
        self._prefill = None
        self._carry_fs = 0
        self._stops_ns = NEVER_NS
        self._paused = False
        self._held.clear()
        self._requests.release_all()

    def _report_before_stop(self, run: _DecodeRun) -> None:
        """See to it that the steps that will be over when the worker stops are reported when they are."""
        steps = steps_begun_before(
            self._stops_ns - run.started_ns + 1, run.steps + 1, run.first_fs, run.growth_fs, run.carry_fs
        )
        self._await_split(run, steps - 1)

    def _steps_at_next_boundary(self, run: _DecodeRun) -> int:
        """How many steps of the run are over at its first boundary from this instant on, this one included."""
        elapsed_ns = self._clock.now_ns - run.started_ns
        return max(1, steps_begun_before(elapsed_ns, run.steps, run.first_fs, run.growth_fs, run.carry_fs))

    def _await_split(self, run: _DecodeRun, steps: int) -> None:
        if 0 < steps < run.steps:
            over_fs = steps_total_fs(steps, run.first_fs, run.growth_fs, run.carry_fs)
            wait_ns = run.started_ns + over_fs // FEMTOSECONDS_PER_NS - self._clock.now_ns
            assert wait_ns >= 0, f"worker {self._worker} is told {-wait_ns} ns late to report {steps} steps"
            self._clock.call_after(wait_ns, partial(self._split, run, steps))

    def _split(self, run: _DecodeRun, steps: int) -> None:
        """At a boundary within the run: report so far, and go on."""
        if self._run is not run or run.steps <= steps:
            return  # it has been split, cut or lost since
        if self._paused:
            self._held.append(partial(self._split, run, steps))
            return
        over_fs = steps_total_fs(steps, run.first_fs, run.growth_fs, run.carry_fs)
        self._carry_fs = over_fs % FEMTOSECONDS_PER_NS
        self._requests.advance(steps)
        self._report(self._advanced(run, steps, ended=False, finished=()))
        self._decode(run.command, run.steps - steps)

    # --- the ends of runs ---------------------------------------------------------------------------------------------

    def _steps_over(self, run: _DecodeRun) -> int:
        """Steps of the run whose boundary has come."""
        elapsed_ns = self._clock.now_ns - run.started_ns
        next_step = steps_begun_before(elapsed_ns + 1, run.steps + 1, run.first_fs, run.growth_fs, run.carry_fs)
        return next_step - 1

    def _await_end(self, run: _DecodeRun, wake: Wake) -> None:
        end_ns = run.started_ns + run.total_fs // FEMTOSECONDS_PER_NS
        self._clock.wake_after(max(0, end_ns - self._clock.now_ns), wake)

    def end_decode(self, run: _DecodeRun, steps: int) -> None:
        """The instant at which the run was to end after ``steps`` steps has come."""
        if self._run is not run or run.steps != steps:
            return  # a timer of before a cut: SimPy cannot take it back
        if self._paused:
            self._held.append(partial(self.end_decode, run, steps))
            return
        self._run = None
        self._carry_fs = run.total_fs % FEMTOSECONDS_PER_NS
        self._requests.advance(steps)
        finished = self._requests.finished(run.command.batch)
        self._report(self._advanced(run, steps, ended=True, finished=finished))

    def _advanced(self, run: _DecodeRun, steps: int, *, ended: bool, finished: tuple[RequestId, ...]) -> DecodeAdvanced:
        return DecodeAdvanced(
            self._worker, run.command.run, steps, run.first_fs, run.growth_fs, ended, finished, run.carry_fs
        )

    def _announce_layers(self, command: RunPrefill, layers: int) -> None:
        if self._paused:
            self._held.append(partial(self._announce_layers, command, layers))
        elif self._prefill is command:
            self._report(LayersReady(self._worker, command.run, layers))

    def end_prefill(self, command: RunPrefill) -> None:
        """The instant at which the step was to end has come."""
        if self._paused:
            self._held.append(partial(self.end_prefill, command))
        elif self._prefill is command:
            self._prefill = None
            self._report(PrefillDone(self._worker, command.run, self._requests.end_prefill(command)))


def prefill_ns(model: StepTimes, requests: DecodingRequests, command: RunPrefill) -> int:
    """How long the one step of a prefill run takes alone. Takes in who decodes in it."""
    requests.join(command.decoding)
    chunks = [(chunk.start_token, chunk.tokens) for chunk in command.chunks]
    decoding = len(command.decoding)
    return model.prefill_ns(chunks, decoding, requests.context_tokens + decoding)
