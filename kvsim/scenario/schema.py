"""What a scenario file may hold: every key with its type, limits, default and meaning.

The pydantic models here and in ``workload_schema`` are the single source of the checks, of the JSON Schema that
editors use (``schema.json``) and of the resolved scenario that a run folder keeps. They must not know files, presets'
figures or what a cluster looks like.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WrapSerializer, model_validator

from kvsim.core.cluster import LAYER_MAJOR, Allocation, Dimension, Role, TransferMode
from kvsim.presets.fields import (
    Count,
    Duration,
    Fields,
    Flag,
    Fraction,
    GpuFields,
    ModelFields,
    NicFields,
    Number,
    Rate,
    Text,
)
from kvsim.profile.fields import Slowdown, WorkerProfile
from kvsim.scenario.fault_schema import Detection, FaultEntry
from kvsim.scenario.limits import DurationAuto, DurationLimit, KvMemory, OptionalName
from kvsim.scenario.memory import LOGIT_BYTES
from kvsim.scenario.preset_or import FileOr, OrNone, PresetOr
from kvsim.scenario.real_schema import Real, Tolerance
from kvsim.scenario.scheduling_schema import PlacementRule, Scheduling
from kvsim.scenario.sweep_schema import Sweep
from kvsim.scenario.workload_schema import Workload

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_-]*$"
VARIANT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
VariantName = Annotated[str, Field(pattern=VARIANT_PATTERN)]
Amount = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


def _check_layout(layout: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
    if sorted(layout) != sorted(LAYER_MAJOR) or layout[-1] != "dim":
        found, dimensions = ", ".join(layout), ", ".join(LAYER_MAJOR)
        raise ValueError(f"found [{found}], expected each of {dimensions} once, with dim last")
    return layout


class Cache(Fields):
    """The paged KV cache of every worker."""

    block_tokens: Count = Field(default=16, description="Token slots of one block.")
    memory_utilization: Fraction = Field(
        default=0.9, description="Share of a GPU's memory that the engine may use in all."
    )
    logit_memory: Number = Field(
        default=LOGIT_BYTES,
        description="Bytes that the engine's sampler takes for each of batch_requests_max x vocabulary logits, where "
        "the KV cache is derived: 32 with vLLM 0.19, 38.3 with vLLM 0.11.",
    )
    runtime_memory: KvMemory = Field(
        default=None,
        description="What CUDA and libraries take on each GPU. auto: 0.13 GiB on a worker of one GPU, else 0.55 GiB.",
    )
    graph_memory: KvMemory = Field(
        default=None,
        description="What CUDA graphs are charged on each GPU. auto: nothing, as in vLLM before 0.21; since then its "
        "log tells the estimate.",
    )
    layout: Annotated[tuple[Dimension, ...], Field(strict=False), AfterValidator(_check_layout)] = Field(
        default=LAYER_MAJOR,
        description="Order of the dimensions of each rank's KV tensor, outermost first; dim is innermost. "
        "It decides how long the contiguous pieces are that a transfer moves.",
    )
    allocation: Allocation = Field(
        default="first_fit",
        description="Which free blocks a request gets: the lowest ones, or scattered over the pool as in a pool that "
        "has been in use for long, or those that have been free for longest (oldest_first, as vLLM).",
    )
    prefix_caching: Flag = Field(
        default=False,
        description="Whether a colocated request that was preempted finds again what nobody has overwritten of its "
        "blocks. Prefixes that several requests have in common are not modelled. It needs allocation oldest_first.",
    )

    @model_validator(mode="after")
    def _check_caching(self) -> Self:
        if self.prefix_caching and self.allocation != "oldest_first":
            raise ValueError(f"found prefix_caching with allocation {self.allocation}, expected oldest_first")
        return self


GpuOrNone = Annotated[
    Annotated[GpuFields, PresetOr("gpu")] | None,
    BeforeValidator(lambda value: None if value == "none" else value),
    WrapSerializer(lambda value, dump: "none" if value is None else dump(value)),
    OrNone(),
]


class Pool(Fields):
    """Equal workers. The pool's name and an index name each: prefill0, prefill1, ..."""

    role: Role = Field(description="What the workers compute. With transfer.mode colocated all do both.")
    count: Annotated[int, Field(strict=True, ge=0, le=10_000)] = Field(default=1, description="Workers in this pool.")
    gpu: GpuOrNone = Field(
        description="A preset's name, or a mapping. It may be none where a profile has the durations of steps."
    )
    profile: Annotated[WorkerProfile, FileOr()] | None = Field(
        default=None,
        description="The file that 'kvsim calibrate' wrote, or a mapping: measured durations in place of gpu's.",
    )
    device: OptionalName = Field(
        default=None, description="The one of devices that the pool's workers share with each other and with others."
    )
    tensor_parallel: Count = Field(default=1, description="GPUs of one worker. It must divide the model's heads.")
    nic: Annotated[NicFields, PresetOr("nic")] = Field(
        description="A preset's name, that of a transport of profile, or a mapping."
    )
    nics: Count = Field(default=1, description="NICs of one worker; its traffic is spread over them evenly.")
    kv_memory: KvMemory = Field(
        default=None,
        description="KV cache on each GPU. auto: what memory_utilization leaves beside weights and activations.",
    )
    kv_blocks: Count | None = Field(default=None, description="Instead of kv_memory: KV cache of one worker in blocks.")
    block_tokens: Count | None = Field(
        default=None,
        description="Token slots of one block of these workers; none: cache.block_tokens. Of a prefill and a decode "
        "pool one must be a multiple of the other.",
    )
    batch_requests_max: Count = Field(default=256, description="Requests of one step.")
    batch_tokens_max: Count = Field(default=16384, description="Tokens of one prefill step.")
    chunk_tokens_max: Count = Field(
        default=2048,
        description="Tokens of one step with prompts in it, where the worker decodes beside (chunked prefill).",
    )
    watermark: Annotated[float, Field(strict=True, ge=0, lt=1)] = Field(
        default=0.01, description="Share of the blocks that stays free when a new request is admitted."
    )
    role_switch: Duration = Field(
        default=0,
        description="What an empty worker takes to change its role, where scheduling.roles lets it: 0 s if its engine "
        "computes both, as kvsim's real workers do; else what loading and capturing take.",
    )
    uplink: OptionalName = Field(
        default=None, description="The shared link of network.uplinks that joins the pool, or none."
    )
    labels: dict[Name, Text] = Field(default={}, description="What placement_rules go by, such as site or tenant.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kv_memory is not None and self.kv_blocks is not None:
            raise ValueError("found both kv_memory and kv_blocks, expected one of them")
        return self

    def block_tokens_of(self, cache: "Cache") -> int:
        """Token slots of one block of these workers."""
        return self.block_tokens or cache.block_tokens


class Uplink(Fields):
    """A shared, full-duplex link that joins the pools that name it to all others."""

    rate: Rate = Field(description="Each direction.")
    latency: Duration = Field(description="One way.")


class Device(Fields):
    """A processor or GPU that several workers compute on, and that is slower for each the more of them are busy."""

    slowdown: Slowdown | None = Field(
        default=None,
        description="By busy workers, from 1: how many times slower each is than alone; with more workers than entries "
        "it grows in proportion. Without it, that of the profiles of the pools on the device counts.",
    )
    copies: Flag = Field(
        default=False, description="Whether a worker that initiates a transfer is busy while the bytes flow."
    )


class Network(Fields):
    """What lies between the NICs. Without uplinks the network is a switch that never blocks."""

    uplinks: dict[Name, Uplink] = Field(default={}, description="Shared links by name.")


class MessageCosts(Fields):
    """What the two-sided baseline (transfer.mode message) costs beside the wire."""

    handshakes: Annotated[int, Field(strict=True, ge=0)] = Field(
        default=1, description="Round trips before each transfer."
    )
    handshake: DurationAuto = Field(
        default=None,
        description="Software time of the rendezvous before each transfer. auto: what the profiles say, else 50 us.",
    )
    pack_efficiency: Fraction = Field(
        default=0.7, description="Share of half the GPU's memory bandwidth that gather and scatter kernels reach."
    )


class Transfer(Fields):
    """How KV cache moves from prefill to decode workers."""

    mode: TransferMode = Field(
        default="pull",
        description="push: WRITEs during prefill into decode memory reserved before. pull: READs after prefill, into "
        "memory reserved then. streamed: READs during prefill, memory reserved when it starts. message: gather, send, "
        "receive, scatter after prefill. adaptive: for each request push, streamed or pull as decode memory and links "
        "allow, or its prompt on the decode worker. colocated: none, every worker does both.",
    )
    layers_per_group: Count = Field(default=8, description="Layers that push and streamed move at a time.")
    message: MessageCosts = Field(default=MessageCosts.defaults(), description="Costs of mode message.")


class SloLimits(Fields):
    """What a request must meet to count towards goodput."""

    ttft: DurationLimit = Field(default=None, description="Longest time to first token.")
    tpot: DurationLimit = Field(default=None, description="Longest mean time between the tokens of a request.")
    attainment: Fraction = Field(
        default=0.9, description="Share of the requests that must meet the limits: what 'kvsim plan' aims at."
    )


class Cost(Fields):
    """What things cost, for 'kvsim plan'. All amounts are in one currency."""

    currency: Text = Field(default="USD", description="The currency of all amounts, as reports name it.")
    gpu_hour: Amount = Field(description="One GPU for one hour, host and power included, NICs of 'nic' not.")
    nic: Amount = Field(
        default=0.0, description="One NIC with its cable and share of a switch, bought only for disaggregation."
    )
    integration: Amount = Field(default=0.0, description="Getting disaggregation to run, once: work and tests.")
    utilisation_hours_per_year: Annotated[float, Field(strict=True, gt=0, le=8784)] = Field(
        default=8760.0, description="Hours a year in which the cluster is paid for and serves the planned load."
    )
    nic_years: Number = Field(default=4.0, description="Years over which a NIC is written off.")


class Metrics(Fields):
    """How results are measured."""

    first_token: Literal["prefill", "decode"] = Field(
        default="prefill",
        description="When the first token reaches the client: when prefill has computed it, or when the decode worker "
        "has the KV cache.",
    )


class Document(Fields):
    """One scenario without its variants: the world, the scheduler's choices and the load."""

    name: Text = Field(default="scenario", description="Name in reports; the file's name if it is missing.")
    description: Text | None = Field(default=None, description="What the scenario is about.")
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(default=1, description="Seed of everything that is drawn.")
    model: Annotated[ModelFields, PresetOr("model")] = Field(description="A preset's name, or a mapping.")
    cache: Cache = Field(default=Cache.defaults(), description="The paged KV cache.")
    workers: Annotated[dict[Name, Pool], Field(min_length=1)] = Field(description="Pools of equal workers by name.")
    devices: dict[Name, Device] = Field(default={}, description="What workers share to compute on, by name.")
    network: Network = Field(default=Network.defaults(), description="What lies between the NICs.")
    transfer: Transfer = Field(default=Transfer.defaults(), description="How KV cache moves.")
    scheduling: Scheduling = Field(default=Scheduling.defaults(), description="Choices of the scheduler.")
    placement_rules: Annotated[tuple[PlacementRule, ...], Field(strict=False)] = Field(
        default=(), description="Where KV cache and requests may not go."
    )
    workload: Workload = Field(description="What clients ask for.")
    faults: list[FaultEntry] = Field(
        default=[],
        description="What goes wrong in simulated runs, at given times or at rates. Real workers are spared.",
    )
    detection: Detection = Field(
        default=Detection.defaults(), description="How long it takes until somebody notices a fault."
    )
    slo: SloLimits = Field(default=SloLimits.defaults(), description="Service level objectives.")
    metrics: Metrics = Field(default=Metrics.defaults(), description="How results are measured.")
    cost: Cost | None = Field(default=None, description="What things cost; without it plans are in GPUs only.")
    real: Real | None = Field(default=None, description="What real workers compute with; simulation needs none.")
    tolerance: Tolerance | None = Field(default=None, description="When 'kvsim validate' passes.")


class ScenarioFile(Document):
    """A scenario file."""

    sweep: Sweep | None = Field(default=None, description="The grid of 'kvsim sweep'.")
    variants: dict[VariantName, dict[str, Any] | None] | None = Field(
        default=None,
        description="Named changes, each merged over the rest of the file: nested mappings or dotted keys "
        "(transfer.mode: push). null removes a key. Without variants the file is one variant called base.",
    )
