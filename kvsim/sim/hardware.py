"""What the simulator knows about hardware and model, and the scheduler does not: rates, latencies, efficiencies.

Frozen values in base units (bytes, bytes/s, FLOP/s, integer ns). Scenario files and presets are turned into these by
``kvsim.scenario``; ``kvsim.sim.compute``, ``kvsim.sim.measured`` and ``kvsim.sim.network`` turn them into durations. No
figures live here: every number comes from a preset (with its source), from a profile or from the scenario. A default
says that something is not there.
"""

import msgspec

from kvsim.sim.measured import MeasuredCosts
from kvsim.sim.message_times import MessageTimes


class ModelShape(msgspec.Struct, frozen=True):
    """A decoder-only transformer. Dense: ``experts == experts_active == 1``.

    ``intermediate`` is the width of one expert's (or the dense) gated MLP: three matrices hidden x intermediate.
    ``dtype_bytes`` is the size of a weight and of an activation, ``kv_dtype_bytes`` that of a KV cache element.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    experts: int
    experts_active: int
    tied_embeddings: bool
    dtype_bytes: int
    kv_dtype_bytes: int
    context_tokens_max: int


class AllReduceTimes(msgspec.Struct, frozen=True):
    """Measured times of an all-reduce over ``ranks`` (at least 2) GPUs of one node, by the size of what is reduced."""

    ranks: int
    times: MessageTimes


class KernelSpec(msgspec.Struct, frozen=True):
    """What single kernels cost beyond the plain roofline; see ``kvsim.sim.kernels``.

    ``*_exposed``: share of the shorter of arithmetic and memory traffic that does not overlap with the longer.
    ``gemm_latency_ns`` is the least that a product takes, ``gemm_input_latency_ns`` comes with each 1024 inputs of it;
    ``attention_latency_ns`` is the least that a layer's attention takes. Attention is computed in tiles of
    ``attention_tile_rows`` (0: rows are never padded) by ``attention_units`` at a time (0: any number); each tile costs
    as if its rows attended to ``attention_fill_tokens`` more, each score as much as ``attention_softmax_dim`` elements
    of a head.
    """

    gemm_exposed: float = 0.0
    gemm_latency_ns: int = 0
    gemm_input_latency_ns: int = 0
    attention_exposed: float = 0.0
    attention_latency_ns: int = 0
    attention_tile_rows: int = 0
    attention_units: int = 0
    attention_fill_tokens: int = 0
    attention_softmax_dim: int = 0


class EngineSpec(msgspec.Struct, frozen=True):
    """What the engine's host code costs beyond ``GpuSpec.step_ns``.

    A step takes at least ``layer_ns`` for each layer, in which the host launches its kernels while the GPU computes;
    ``prompt_ns`` come with each chunk of a prompt and ``request_ns`` with each request of a step. The all-reduces of a
    step cost what the tokens beyond ``long_step_tokens`` send at ``long_step_bytes_per_s`` on top; 0 tokens is never.
    """

    layer_ns: int = 0
    prompt_ns: int = 0
    request_ns: int = 0
    long_step_tokens: int = 0
    long_step_bytes_per_s: float = 1.0


class GpuSpec(msgspec.Struct, frozen=True):
    """Datasheet figures and the share of them that kernels reach. ``*_efficiency`` are fractions in (0, 1].

    ``collective_bytes_per_s`` is the bus bandwidth of one GPU in a tensor-parallel all-reduce and
    ``collective_latency_ns`` its latency, unless it was measured: ``all_reduce`` by ascending ranks. ``launch_ns`` is
    the host and launch overhead of one layer, ``step_ns`` that of one step (scheduler, sampling, input preparation).
    """

    name: str
    flops_per_s: float
    memory_bytes: int
    memory_bytes_per_s: float
    gemm_efficiency: float
    prefill_attention_efficiency: float
    decode_attention_efficiency: float
    memory_efficiency: float
    collective_bytes_per_s: float
    collective_latency_ns: int
    launch_ns: int
    step_ns: int
    all_reduce: tuple[AllReduceTimes, ...] = ()
    kernels: KernelSpec = KernelSpec()
    engine: EngineSpec = EngineSpec()


class NicSpec(msgspec.Struct, frozen=True):
    """One RDMA NIC port, full duplex: ``rate_bytes_per_s`` each way, after protocol overhead.

    ``latency_ns``: one way, an empty message. ``operation_ns``: the initiator's cost to post one work request; posts of
    one NIC are serial. ``messages_per_s``: what the NIC can process each way. ``reads_outstanding_max``: RDMA READs in
    flight per NIC (per-queue-pair limit x queue pairs). ``message_times``: what the bytes of one transfer take on a NIC
    that nothing else uses, latency included, where that was measured; it cannot beat the rest. ``gap_ns``: how long an
    operation keeps the NIC busy beyond its bytes, at both ends (g of the LogGP model: Alexandrov et al., SPAA 1995).
    """

    name: str
    rate_bytes_per_s: float
    latency_ns: int
    operation_ns: int
    messages_per_s: float
    reads_outstanding_max: int
    message_times: MessageTimes | None = None
    gap_ns: int = 0


class LayerTables(msgspec.Struct, frozen=True):
    """Times of kernels in microseconds, of all layers of the model together; see ``kvsim.sim.layer_steps``.

    ``dense_us`` by ``tokens`` of the step, ``sequences_us`` by its requests. Attention, each table in C order:
    ``prefill_us[chunk, past]``, ``decode_us[decodes, context]`` (the context of each request) and
    ``mixed_us[chunk, past, decodes, context]``, of which those with more than ``mixed_decodes_max`` are extrapolated.
    All axes ascend and have at least two entries; ``past_tokens`` begins with 0. ``between_steps_ns`` comes on top of
    every step. ``name``: of the profile.
    """

    name: str
    tokens: tuple[int, ...]
    dense_us: tuple[float, ...]
    sequences: tuple[int, ...]
    sequences_us: tuple[float, ...]
    chunk_tokens: tuple[int, ...]
    past_tokens: tuple[int, ...]
    decodes: tuple[int, ...]
    context_tokens: tuple[int, ...]
    prefill_us: tuple[float, ...]
    decode_us: tuple[float, ...]
    mixed_us: tuple[float, ...]
    mixed_decodes_max: int
    between_steps_ns: int


class WorkerHardware(msgspec.Struct, frozen=True):
    """Hardware of the worker with the same index in ``ClusterSpec.workers``. ``nics`` NICs serve the whole worker and
    its traffic is striped over them evenly. ``uplink`` names the shared link between its network segment and the
    rest.

    Steps take as long as ``measured`` or ``layers`` says, and without them as the roofline of ``gpu``; one of the three
    is there. ``device``
    names the one of ``Hardware.devices`` that the worker shares with others; without one its GPUs are its own.
    ``order_ns`` pass until a command reaches the worker, ``report_ns`` until its report reaches the scheduler.
    ``role_switch_ns``: what an empty worker takes to change between prefill and decode.
    ``pack_bytes_per_s``: at which one GPU gathers or scatters, if that was measured.
    """

    gpu: GpuSpec | None
    tensor_parallel: int
    nic: NicSpec
    nics: int
    uplink: str | None
    measured: MeasuredCosts | None = None
    device: str | None = None
    order_ns: int = 0
    report_ns: int = 0
    pack_bytes_per_s: float | None = None
    role_switch_ns: int = 0
    layers: LayerTables | None = None


class DeviceSpec(msgspec.Struct, frozen=True):
    """Something that several workers compute on. With k of them busy each is ``slowdown[k - 1]`` times as slow as
    alone; see ``kvsim.sim.device`` for more than were measured. With ``copies`` whoever initiates a transfer keeps the
    device busy while the bytes flow, as a processor that copies them does."""

    name: str
    slowdown: tuple[float, ...]
    copies: bool = False


class UplinkSpec(msgspec.Struct, frozen=True):
    """A shared, full-duplex link that joins one network segment to the others."""

    name: str
    rate_bytes_per_s: float
    latency_ns: int


class MessageSpec(msgspec.Struct, frozen=True):
    """Costs of the two-sided baseline: the rendezvous before each transfer takes ``handshakes`` round trips plus
    ``handshake_ns`` of software; gather and scatter run at ``pack_efficiency`` of half the GPU's memory bandwidth
    (each byte is read and written once)."""

    handshakes: int
    handshake_ns: int
    pack_efficiency: float


class Hardware(msgspec.Struct, frozen=True):
    """The simulated world beside its ``ClusterSpec``. ``workers[i]`` belongs to ``ClusterSpec.workers[i]``.

    ``decision_ns``: time between a report and the commands that answer it.
    """

    model: ModelShape
    workers: tuple[WorkerHardware, ...]
    uplinks: tuple[UplinkSpec, ...]
    message: MessageSpec
    decision_ns: int
    devices: tuple[DeviceSpec, ...] = ()
