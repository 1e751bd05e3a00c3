"""Carries out a calibration: starts workers, serves what the plan says, watches.

Steps are measured on colocated workers, since those compute every kind of step; transfers between a prefill and a
decode worker, one transport after the other. This module must not know fits or files.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from statistics import mean

import numpy as np

from backends.calibrate.plan import CalibrationPlan, Lengths
from backends.calibrate.watch import Watch, while_busy
from backends.driver.service import ServiceLimits
from backends.transport.copying import copy
from backends.validate.serve import LIMITS, other_load, running_workers
from backends.worker.model_source import ModelSource
from backends.worker.settings import WorkerSettings
from kvsim.core.cluster import ClusterSpec, PolicySpec, Role, TransferMode, WorkerSpec
from kvsim.core.integers import div_ceil
from kvsim.core.messages import WorkerId
from kvsim.profile.measurement import Measurement, TransferSample
from kvsim.profile.points import StepPoint

TIMEOUT_S = 300.0
_COPY_BYTES = 1 << 24
_COPY_ROUNDS = 9


class Machine:
    """What is measured: a model on a device of this machine."""

    def __init__(
        self,
        source: ModelSource,
        device: str,
        threads: int,
        block_tokens: int,
        plan: CalibrationPlan,
        limits: ServiceLimits = LIMITS,
        attention: str = "auto",
    ) -> None:
        self._source = source
        self._device = device
        self._threads = threads
        self._block_tokens = block_tokens
        self._plan = plan
        self._limits = limits
        self._attention = attention
        self._other_cores: list[float] = []
        self._decisions_ns: list[int] = []

    def measure(self, transports: Sequence[str], tell: Callable[[str], None] = lambda _: None) -> Measurement:
        """Everything. ``tell`` is told what comes next. Raises ServiceError if workers cannot serve."""
        plan = self._plan
        tell("steps of one worker")
        alone = self._serve(self._settings("colocated", ("colocated",), "shm"), plan.alone()).steps
        together: dict[int, tuple[StepPoint, ...]] = {}
        for workers in range(2, plan.workers_max + 1):
            tell(f"{workers} workers at once")
            roles: list[Role] = ["colocated"] * workers
            settings = self._settings("colocated", roles, "shm")
            together[workers] = tuple(while_busy(self._serve(settings, plan.together(workers)).steps, workers))
        transfers: dict[str, tuple[TransferSample, ...]] = {}
        for transport in transports:
            tell(f"transport {transport}")
            mode: TransferMode = "message" if transport == "message" else "pull"
            settings = self._settings(mode, ("prefill", "decode"), transport)
            transfers[transport] = tuple(self._serve(settings, plan.moved()).transfers)
        return Measurement(
            alone=tuple([sample.point for sample in alone]),
            together=together,
            round_trips_ns=tuple([sample.beyond_ns for sample in alone if sample.point.chunks]),
            gaps_ns=tuple([sample.beyond_ns for sample in alone if not sample.first]),
            decisions_ns=tuple(self._decisions_ns),
            transfers=transfers,
            pack_bytes_per_s=scattered_copy_rate(self._block_bytes()),
            other_cores=mean(self._other_cores),
        )

    def _serve(self, settings: WorkerSettings, loads: Iterable[Lengths]) -> Watch:
        watch = Watch()
        with running_workers(settings, (watch.observe,), (watch.report,), limits=self._limits) as running:
            others = other_load(running.service, settings)
            for load in loads:
                running.serve([(self._plan.pause_ns, prompt, output, output) for prompt, output in load], TIMEOUT_S)
            self._other_cores.append(others.cores())
            self._decisions_ns.append(running.decision_ns)
        return watch

    def _settings(self, mode: TransferMode, roles: Sequence[Role], transport: str) -> WorkerSettings:
        plan = self._plan
        requests_max = max(plan.batches)
        most = max(plan.contexts) + 2 * plan.output_tokens
        tokens = max(requests_max * most, plan.request_tokens_max, 2 * plan.batch_tokens_max)
        blocks = requests_max + 2 * div_ceil(tokens, self._block_tokens)
        workers = tuple(
            WorkerSpec(
                id=WorkerId(number),
                name=f"{role}{number}",
                role=role,
                tensor_parallel=1,
                kv_blocks=blocks,
                batch_requests_max=requests_max,
                batch_tokens_max=plan.batch_tokens_max,
            )
            for number, role in enumerate(roles)
        )
        cluster = ClusterSpec(self._source.kv_spec(self._block_tokens), workers, PolicySpec(mode))
        return WorkerSettings(
            cluster, self._source, transport, device=self._device, threads=self._threads, attention=self._attention
        )

    def _block_bytes(self) -> int:
        """The contiguous piece of a block's keys, or values, of one layer."""
        kv = self._source.kv_spec(self._block_tokens)
        return kv.bytes_per_token * self._block_tokens // (2 * kv.layers)


def scattered_copy_rate(block_bytes: int) -> float:
    """Bytes per second at which one thread gathers blocks that are scattered in memory; the median of some rounds."""
    blocks = max(1, _COPY_BYTES // block_bytes)
    pool = np.ones(2 * blocks * block_bytes, dtype=np.uint8)
    packed = np.ones(blocks * block_bytes, dtype=np.uint8)
    ids = np.random.default_rng(np.random.SeedSequence(1)).permutation(2 * blocks)[:blocks].astype(np.uint64)
    source = ids * np.uint64(block_bytes) + np.uint64(pool.ctypes.data)
    target = np.arange(blocks, dtype=np.uint64) * np.uint64(block_bytes) + np.uint64(packed.ctypes.data)
    sizes = np.full(blocks, block_bytes, dtype=np.int64)
    seconds = []
    for _ in range(_COPY_ROUNDS):
        began_s = time.perf_counter()
        copy(target, source, sizes)
        seconds.append(time.perf_counter() - began_s)
    return float(blocks * block_bytes / np.median(seconds))
