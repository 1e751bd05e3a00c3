"""What a GPU mapping may say of single kernels and of the engine's host code; all of it may be left out."""

from typing import Annotated

from pydantic import Field

from kvsim.presets.field_types import Duration, Fields, Rate
from kvsim.sim.hardware import EngineSpec, KernelSpec

Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Elements = Annotated[int, Field(strict=True, ge=0, le=10**6)]


class KernelFields(Fields):
    """What single kernels cost beyond the plain roofline. Without any the roofline is plain."""

    gemm_exposed: Share = Field(
        default=0.0, description="Share of the shorter of a product's arithmetic and traffic that is not hidden."
    )
    gemm_latency: Duration = Field(default=0, description="The least that a matrix product takes.")
    gemm_input_latency: Duration = Field(default=0, description="Of a product, for each 1024 of its inputs.")
    attention_exposed: Share = Field(
        default=0.0, description="Share of the shorter of a prompt's attention arithmetic and KV reads not hidden."
    )
    attention_latency: Duration = Field(default=0, description="The least that the attention of a layer takes.")
    attention_tile_rows: Elements = Field(
        default=0, description="Query rows of a tile of attention, which all cost as much; 0 pads none."
    )
    attention_units: Elements = Field(
        default=0, description="Tiles that the GPU computes at once: its multiprocessors; 0 is any number."
    )
    attention_fill_tokens: Elements = Field(
        default=0, description="Tokens that the rows of each attention tile seem to attend to beside their own."
    )
    attention_softmax_dim: Elements = Field(
        default=0, description="Elements of a head that the softmax of one score costs as much as."
    )

    def value(self) -> KernelSpec:
        """The same as a plain value."""
        return KernelSpec(
            gemm_exposed=self.gemm_exposed,
            gemm_latency_ns=self.gemm_latency,
            gemm_input_latency_ns=self.gemm_input_latency,
            attention_exposed=self.attention_exposed,
            attention_latency_ns=self.attention_latency,
            attention_tile_rows=self.attention_tile_rows,
            attention_units=self.attention_units,
            attention_fill_tokens=self.attention_fill_tokens,
            attention_softmax_dim=self.attention_softmax_dim,
        )


class EngineFields(Fields):
    """What the engine's host code costs beyond step. Without any it keeps ahead of the GPU."""

    layer: Duration = Field(
        default=0, description="Host time of one layer's launches; the step waits where the GPU is faster."
    )
    prompt: Duration = Field(default=0, description="For each chunk of a prompt in a step.")
    request: Duration = Field(default=0, description="For each request of a step.")
    long_step_tokens: Elements = Field(
        default=0, description="Tokens of a step beyond which its all-reduces slow down; 0 is never."
    )
    long_step_rate: Rate = Field(
        default=1.0, description="At which each GPU sends what is beyond long_step_tokens, on top of the rest."
    )

    def value(self) -> EngineSpec:
        """The same as a plain value."""
        return EngineSpec(
            layer_ns=self.layer,
            prompt_ns=self.prompt,
            request_ns=self.request,
            long_step_tokens=self.long_step_tokens,
            long_step_bytes_per_s=self.long_step_rate,
        )
