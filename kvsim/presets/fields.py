"""What a mapping that describes a model, a GPU or a NIC may hold, in a preset file as in a scenario file.

Each class here is the written form (keys, units, limits) of a frozen value in ``kvsim.sim.hardware``; ``value()`` makes
that. The types of single fields are shared with ``kvsim.scenario.schema``. It must not know how presets are stored.
"""

from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from kvsim.presets.field_types import (
    Bytes,
    Count,
    Duration,
    Fields,
    Flag,
    FlopRate,
    Fraction,
    Number,
    OperationRate,
    PositiveDuration,
    Rate,
    RequestRate,
    Text,
    Written,
    quantity_json,
)
from kvsim.presets.kernel_fields import EngineFields, KernelFields
from kvsim.sim.hardware import AllReduceTimes, GpuSpec, ModelShape, NicSpec
from kvsim.sim.message_times import MessageTimes

__all__ = [
    "AllReduceFields",
    "Bytes",
    "Count",
    "Duration",
    "Fields",
    "Flag",
    "FlopRate",
    "Fraction",
    "GpuFields",
    "MessageTimesFields",
    "ModelFields",
    "NicFields",
    "Number",
    "OperationRate",
    "PositiveDuration",
    "Rate",
    "RequestRate",
    "Text",
    "Written",
    "quantity_json",
]


class ModelFields(Fields):
    """A decoder-only transformer with grouped-query attention and gated MLPs. Dense models have one expert."""

    name: Text = Field(default="custom", description="Name in reports.")
    layers: Count = Field(description="Transformer layers.")
    hidden: Count = Field(description="Width of the hidden state.")
    heads: Count = Field(description="Query heads of a layer.")
    kv_heads: Count = Field(description="Key and value heads of a layer.")
    head_dim: Count = Field(description="Width of one head.")
    intermediate: Count = Field(description="Width of the gated MLP, or of one expert's.")
    vocabulary: Count = Field(description="Rows of the embedding table.")
    experts: Count = Field(default=1, description="Experts of a layer; 1 is a dense model.")
    experts_active: Count = Field(default=1, description="Experts that each token passes through.")
    tied_embeddings: Flag = Field(
        default=False, description="Whether the LM head shares the weights of the embedding table."
    )
    dtype_bytes: Count = Field(default=2, description="Bytes of a weight and of an activation; 2 is bf16.")
    kv_dtype_bytes: Count = Field(default=2, description="Bytes of an element of the KV cache; 1 is fp8.")
    context_tokens_max: Count = Field(description="Longest context, prompt and output together.")

    @model_validator(mode="after")
    def _check(self) -> "ModelFields":
        if self.heads % self.kv_heads:
            raise ValueError(f"found heads {self.heads} and kv_heads {self.kv_heads}, expected heads to be a multiple")
        if self.experts_active > self.experts:
            raise ValueError(f"found experts_active {self.experts_active}, expected at most experts {self.experts}")
        return self

    def value(self) -> ModelShape:
        """The same as a plain value."""
        return ModelShape(
            name=self.name,
            layers=self.layers,
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            intermediate=self.intermediate,
            vocabulary=self.vocabulary,
            experts=self.experts,
            experts_active=self.experts_active,
            tied_embeddings=self.tied_embeddings,
            dtype_bytes=self.dtype_bytes,
            kv_dtype_bytes=self.kv_dtype_bytes,
            context_tokens_max=self.context_tokens_max,
        )


class MessageTimesFields(Fields):
    """Measured times of messages by their size; straight lines between them."""

    sizes: list[Bytes] = Field(min_length=1, description="Ascending.")
    times: list[Duration] = Field(min_length=1, description="One for each size; a larger one takes no less.")

    @model_validator(mode="after")
    def _check(self) -> "MessageTimesFields":
        if len(self.sizes) != len(self.times):
            raise ValueError(f"found {len(self.sizes)} sizes and {len(self.times)} times, expected as many of both")
        for one, other in pairwise(self.sizes):
            if one >= other:
                raise ValueError(f"found size {one} B before {other} B, expected them to ascend")
        for one, other in pairwise(self.times):
            if one > other:
                raise ValueError(f"found time {one} ns before {other} ns, expected none to be less than the one before")
        return self

    def message_times(self) -> MessageTimes:
        """The same as a plain value."""
        return MessageTimes(tuple(self.sizes), tuple(self.times))


class AllReduceFields(MessageTimesFields):
    """Measured times of an all-reduce over this many GPUs."""

    ranks: Annotated[int, Field(strict=True, ge=2, le=10**6)] = Field(description="GPUs that take part.")


def _by_ranks(measured: list[AllReduceFields]) -> list[AllReduceFields]:
    for one, other in pairwise(measured):
        if one.ranks >= other.ranks:
            raise ValueError(f"found ranks {one.ranks} before {other.ranks}, expected them to ascend")
    return measured


AllReduce = Annotated[list[AllReduceFields], AfterValidator(_by_ranks)]


class GpuFields(Fields):
    """Datasheet figures of a GPU, and the shares of them that kernels reach."""

    name: Text = Field(default="custom", description="Name in reports.")
    flop_rate: FlopRate = Field(description="Peak rate of the tensor cores for dense products in the model's dtype.")
    memory: Bytes = Field(description="Memory that a CUDA context finds; a little less than the figure on the box.")
    memory_bandwidth: Rate = Field(description="Peak bandwidth of that memory.")
    gemm_efficiency: Fraction = Field(description="Share of flop_rate that matrix products with weights reach.")
    prefill_attention_efficiency: Fraction = Field(description="Share of flop_rate that attention of prompts reaches.")
    decode_attention_efficiency: Fraction = Field(description="Share of memory_bandwidth that KV reads reach.")
    memory_efficiency: Fraction = Field(
        description="Share of memory_bandwidth that other traffic, as weights, reaches."
    )
    collective_bandwidth: Rate = Field(description="Bus bandwidth of one GPU in an all-reduce of its node.")
    collective_latency: Duration = Field(description="Latency of one all-reduce of its node.")
    launch: Duration = Field(description="Overhead of one layer: launches, and kernels too small to fill the GPU.")
    step: Duration = Field(description="Overhead of one step: scheduler, input preparation, sampling.")
    all_reduce: AllReduce = Field(
        default=[],
        description="Measured times of an all-reduce by GPUs, ascending, and by size, in place of collective_*.",
    )
    kernels: KernelFields = Field(
        default=KernelFields.defaults(), description="Single kernels beyond the plain roofline."
    )
    engine: EngineFields = Field(default=EngineFields.defaults(), description="Host code of the engine beyond step.")

    def value(self) -> GpuSpec:
        """The same as a plain value."""
        return GpuSpec(
            name=self.name,
            flops_per_s=self.flop_rate,
            memory_bytes=self.memory,
            memory_bytes_per_s=self.memory_bandwidth,
            gemm_efficiency=self.gemm_efficiency,
            prefill_attention_efficiency=self.prefill_attention_efficiency,
            decode_attention_efficiency=self.decode_attention_efficiency,
            memory_efficiency=self.memory_efficiency,
            collective_bytes_per_s=self.collective_bandwidth,
            collective_latency_ns=self.collective_latency,
            launch_ns=self.launch,
            step_ns=self.step,
            all_reduce=tuple(AllReduceTimes(one.ranks, one.message_times()) for one in self.all_reduce),
            kernels=self.kernels.value(),
            engine=self.engine.value(),
        )


class NicFields(Fields):
    """One port of an RDMA NIC, full duplex."""

    name: Text = Field(default="custom", description="Name in reports.")
    rate: Rate = Field(description="Each direction, after protocol overhead.")
    latency: Duration = Field(description="One way, an empty message.")
    operation: Duration = Field(description="What it costs the initiator to post one work request.")
    message_rate: OperationRate = Field(description="Messages that the NIC can process, each direction.")
    reads_outstanding_max: Count = Field(description="RDMA READs in flight per NIC: queue pairs times their limit.")
    message_times: MessageTimesFields | None = Field(
        default=None,
        description="What the bytes of a transfer take on a NIC that nothing else uses, latency included, where that "
        "was measured by size. It may be slower than rate and latency say, never faster.",
    )
    gap: Duration = Field(
        default=0,
        description="How long an operation keeps the NIC busy beyond its bytes: as with software that moves the bytes "
        "itself. What hardware does while other bytes move belongs to operation and message_rate.",
    )

    def value(self) -> NicSpec:
        """The same as a plain value."""
        return NicSpec(
            name=self.name,
            rate_bytes_per_s=self.rate,
            latency_ns=self.latency,
            operation_ns=self.operation,
            messages_per_s=self.message_rate,
            reads_outstanding_max=self.reads_outstanding_max,
            message_times=self.message_times.message_times() if self.message_times is not None else None,
            gap_ns=self.gap,
        )
