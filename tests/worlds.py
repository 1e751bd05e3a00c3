"""Small simulated worlds for tests: round numbers, so that durations can be computed by hand."""

from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec.structs import replace

from kvsim.core.cluster import ClusterSpec, KvSpec, PolicySpec, TransferMode, WorkerSpec
from kvsim.core.messages import Command, Event, Record, WorkerId
from kvsim.metrics import Collector, RunColumns
from kvsim.sim.driver import Simulation
from kvsim.sim.faults.plan import FaultPlan
from kvsim.sim.hardware import GpuSpec, Hardware, MessageSpec, ModelShape, NicSpec, WorkerHardware
from kvsim.workload import Workload

MODES: tuple[TransferMode, ...] = ("push", "pull", "streamed", "message", "colocated")
ALL_MODES: tuple[TransferMode, ...] = (*MODES, "adaptive")
DISAGGREGATED: tuple[TransferMode, ...] = ("push", "pull", "streamed", "message")

MODEL = ModelShape(
    name="tiny",
    layers=4,
    hidden=256,
    heads=4,
    kv_heads=2,
    head_dim=64,
    intermediate=512,
    vocabulary=1000,
    experts=1,
    experts_active=1,
    tied_embeddings=False,
    dtype_bytes=2,
    kv_dtype_bytes=2,
    context_tokens_max=4096,
)
GPU = GpuSpec(
    name="round",
    flops_per_s=1e12,
    memory_bytes=10**9,
    memory_bytes_per_s=1e11,
    gemm_efficiency=0.5,
    prefill_attention_efficiency=0.5,
    decode_attention_efficiency=0.5,
    memory_efficiency=0.5,
    collective_bytes_per_s=1e10,
    collective_latency_ns=5_000,
    launch_ns=2_000,
    step_ns=50_000,
)
NIC = NicSpec(
    name="one-gigabyte",
    rate_bytes_per_s=1e9,
    latency_ns=2_000,
    operation_ns=100,
    messages_per_s=1e8,
    reads_outstanding_max=64,
)
MESSAGE = MessageSpec(handshakes=1, handshake_ns=50_000, pack_efficiency=0.5)


def cluster(
    mode: TransferMode = "pull",
    *,
    prefill: int = 1,
    decode: int = 1,
    kv_blocks: int = 200,
    block_tokens: int = 16,
    policy: PolicySpec | None = None,
    **worker: int,
) -> ClusterSpec:
    """``prefill`` + ``decode`` equal workers; in mode colocated all of them are."""
    policy = PolicySpec(mode, layers_per_group=2) if policy is None else policy
    roles = ["prefill"] * prefill + ["decode"] * decode
    workers = tuple(
        WorkerSpec(
            id=WorkerId(index),
            name=f"{role}{index}",
            role="colocated" if mode == "colocated" else role,  # type: ignore[arg-type]
            tensor_parallel=1,
            kv_blocks=kv_blocks,
            batch_requests_max=worker.get("batch_requests_max", 16),
            batch_tokens_max=worker.get("batch_tokens_max", 512),
            watermark_blocks=worker.get("watermark_blocks", 0),
            link_bytes_per_s=worker.get("link_bytes_per_s", 0),
        )
        for index, role in enumerate(roles)
    )
    kv = KvSpec(MODEL.layers, MODEL.kv_heads, MODEL.head_dim, MODEL.kv_dtype_bytes, block_tokens)
    return ClusterSpec(kv, workers, policy)


def hardware(spec: ClusterSpec, nic: NicSpec = NIC, gpu: GpuSpec = GPU, decision_ns: int = 0) -> Hardware:
    """The same GPU and NIC for every worker."""
    workers = tuple(WorkerHardware(gpu, worker.tensor_parallel, nic, 1, None) for worker in spec.workers)
    return Hardware(MODEL, workers, (), MESSAGE, decision_ns)


def workload(requests: Sequence[tuple[int, int, int]], output_tokens_max: int | None = None) -> Workload:
    """Requests as (arrival_ns, prompt_tokens, output_tokens)."""
    arrivals, prompts, outputs = (np.array(column, dtype=np.int64) for column in zip(*requests, strict=True))
    return Workload(arrivals, prompts, outputs, output_tokens_max, ())


class Recorder:
    """Keeps every call of the scheduler, and checks its conservation laws after each if asked to."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def observe(self, now_ns: int, events: Sequence[Event], commands: Sequence[Command]) -> None:
        self.records.append(Record(now_ns, tuple(events), tuple(commands)))


def run(
    spec: ClusterSpec, load: Workload, world: Hardware | None = None, plan: FaultPlan | None = None
) -> tuple[RunColumns, list[Record]]:
    """Simulate, checking the conservation laws after every call; returns the columns and the record."""
    recorder, collector = Recorder(), Collector(spec)
    simulation: Simulation

    def check(_now_ns: int, _events: Sequence[Event], _commands: Sequence[Command]) -> None:
        simulation.scheduler.check()

    observers = (recorder.observe, collector.observe, check)
    simulation = Simulation(spec, world or hardware(spec), load, observers, plan)
    simulation.run()
    return collector.finish(), recorder.records


def with_steps_max(spec: ClusterSpec, steps_max: int) -> ClusterSpec:
    """The same cluster, asked after every ``steps_max`` steps at the latest."""
    changed = msgspec.structs.replace(spec.policy, steps_max=steps_max)
    return ClusterSpec(spec.kv, spec.workers, changed)


def slower(nic: NicSpec, rate_bytes_per_s: float) -> NicSpec:
    """The same NIC at another rate."""
    return replace(nic, rate_bytes_per_s=rate_bytes_per_s)
