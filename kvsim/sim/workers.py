"""The simulated workers of a cluster: on GPUs of their own or on a shared device, near the scheduler or not.

It must not know what the scheduler decides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from kvsim.core.cluster import ClusterSpec, WorkerSpec
from kvsim.core.messages import Event, RequestId, RunDecode, RunPrefill, WorkerId
from kvsim.sim.clock import Clock
from kvsim.sim.compute import StepModel
from kvsim.sim.device import SharedDevice
from kvsim.sim.device_worker import SharingWorker
from kvsim.sim.gpu import Report, SimulatedWorker
from kvsim.sim.hardware import Hardware, ModelShape, WorkerHardware
from kvsim.sim.layer_steps import LayerSteps
from kvsim.sim.measured import MeasuredSteps
from kvsim.sim.step_times import StepTimes
from kvsim.sim.truth import Truth


class Worker(Protocol):
    """What the driver asks of a simulated worker. What each does stands in ``kvsim.sim.gpu.SimulatedWorker``."""

    @property
    def context_tokens_peak(self) -> int:
        """The most tokens that one step's decoding requests had as their context."""

    def run_prefill(self, command: RunPrefill) -> None:
        """Start one step over chunks of prompts."""

    def run_decode(self, command: RunDecode) -> None:
        """Start a run of decode steps."""

    def cut_decode(self, run: int) -> None:
        """Let this run end at its next step boundary."""

    def release(self, request: RequestId) -> None:
        """The request has lost its blocks here."""

    def expect_stop(self, at_ns: int) -> None:
        """The worker will be paused or lost at this instant, unless it is lost before."""

    def pause(self) -> None:
        """Its host stands still until ``resume``."""

    def resume(self) -> None:
        """Its host goes on."""

    def change_pace(self) -> None:
        """How long steps take has changed at this instant."""

    def lose(self) -> None:
        """The worker is gone at this instant. It may be used again: as a new one, without requests."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Workers by id, and by name whatever may have been asked for more than was measured."""

    workers: tuple[Worker, ...]
    measured: tuple[tuple[str, Worker, MeasuredSteps | LayerSteps | StepModel], ...]

    def notes(self) -> list[str]:
        """What the user must be told of how durations came about, each thing once."""
        names: dict[str, list[str]] = {}
        for name, worker, steps in self.measured:
            for note in steps.notes(worker.context_tokens_peak):
                names.setdefault(note, []).append(name)
        return [f"{', '.join(workers)}: {note}" for note, workers in names.items()]


def shared_devices(clock: Clock, hardware: Hardware) -> dict[str, SharedDevice]:
    """Every shared device by name."""
    return {device.name: SharedDevice(clock, device.slowdown) for device in hardware.devices}


def simulated_workers(
    clock: Clock,
    cluster: ClusterSpec,
    hardware: Hardware,
    truth: Truth,
    report: Report,
    devices: Mapping[str, SharedDevice],
    paced: Callable[[WorkerId, StepTimes], StepTimes] | None = None,
) -> Workers:
    """The workers of a cluster, all idle. ``report`` is called from the event loop with each fact. ``paced`` may put
    something between a worker and its step times, which tells others than those at times."""
    workers: list[Worker] = []
    measured: list[tuple[str, Worker, MeasuredSteps | LayerSteps | StepModel]] = []
    for spec, facts in zip(cluster.workers, hardware.workers, strict=True):
        steps = step_times(hardware.model, facts)
        asked = steps if paced is None else paced(spec.id, steps)
        worker = _worker(clock, spec, facts, asked, cluster.kv.layers, truth, report, devices)
        workers.append(worker)
        if isinstance(steps, MeasuredSteps | LayerSteps | StepModel):
            measured.append((spec.name, worker, steps))
    return Workers(tuple(workers), tuple(measured))


def step_times(model: ModelShape, facts: WorkerHardware) -> StepTimes:
    """What the steps of a worker take: as measured, else by the roofline of its GPU."""
    if facts.measured is not None:
        return MeasuredSteps(facts.measured)
    if facts.layers is not None:
        return LayerSteps(facts.layers, model, facts.gpu, facts.tensor_parallel)
    assert facts.gpu is not None, "a worker with neither measured steps nor a GPU"
    return StepModel(model, facts.gpu, facts.tensor_parallel)


def _worker(
    clock: Clock,
    spec: WorkerSpec,
    facts: WorkerHardware,
    steps: StepTimes,
    layers: int,
    truth: Truth,
    report: Report,
    devices: Mapping[str, SharedDevice],
) -> Worker:
    if facts.report_ns:
        report = partial(_report_later, clock, facts.report_ns, report)
    worker: Worker
    if facts.device is None:
        worker = SimulatedWorker(clock, spec.id, steps, layers, truth, report)
    else:
        worker = SharingWorker(clock, spec.id, steps, layers, truth, report, devices[facts.device])
    return DistantWorker(clock, worker, facts.order_ns) if facts.order_ns else worker


def _report_later(clock: Clock, report_ns: int, report: Report, event: Event) -> None:
    clock.call_after(report_ns, partial(report, event))


class DistantWorker:
    """A worker whose orders take a while to reach it. They arrive in the order in which they were given.

    ``release`` alone counts at once: it is the simulator's own book-keeping, and two workers that learn of a preemption
    at different instants must not disagree on how many tokens the request has.
    """

    def __init__(self, clock: Clock, worker: Worker, order_ns: int) -> None:
        self._clock = clock
        self._worker = worker
        self._order_ns = order_ns
        self._lives = 0

    @property
    def context_tokens_peak(self) -> int:
        """As of the worker."""
        return self._worker.context_tokens_peak

    def run_prefill(self, command: RunPrefill) -> None:
        """Later."""
        self._clock.call_after(self._order_ns, partial(self._prefill_arrives, self._lives, command))

    def run_decode(self, command: RunDecode) -> None:
        """Later."""
        self._clock.call_after(self._order_ns, partial(self._decode_arrives, self._lives, command))

    def cut_decode(self, run: int) -> None:
        """Later: by then the run may be over."""
        self._clock.call_after(self._order_ns, partial(self._cut_arrives, self._lives, run))

    def release(self, request: RequestId) -> None:
        """At once."""
        self._worker.release(request)

    def expect_stop(self, at_ns: int) -> None:
        """As of the worker."""
        self._worker.expect_stop(at_ns)

    def pause(self) -> None:
        """At once."""
        self._worker.pause()

    def resume(self) -> None:
        """At once."""
        self._worker.resume()

    def change_pace(self) -> None:
        """At once."""
        self._worker.change_pace()

    def lose(self) -> None:
        """At once; orders that are on their way reach nobody."""
        self._lives += 1
        self._worker.lose()

    def _prefill_arrives(self, life: int, command: RunPrefill) -> None:
        if life == self._lives:
            self._worker.run_prefill(command)

    def _decode_arrives(self, life: int, command: RunDecode) -> None:
        if life == self._lives:
            self._worker.run_decode(command)

    def _cut_arrives(self, life: int, run: int) -> None:
        if life == self._lives:
            self._worker.cut_decode(run)
