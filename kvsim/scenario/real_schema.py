"""The sections ``real`` and ``tolerance`` of a scenario: what real workers compute with, and when a validation passes.

They must not know workers: simulation needs neither section.
"""

from typing import Annotated, Literal

from pydantic import Field

from kvsim.presets.fields import Count, Fields, Flag, PositiveDuration, Text
from kvsim.scenario.limits import TorchDevice


class Real(Fields):
    """What real workers compute with, for 'kvsim validate' and 'kvsim calibrate'."""

    model: Text = Field(description="A random model (tiny, small) or a Hugging Face folder. Its shape must be model's.")
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(default=0, description="Seed of a random model's weights.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Of weights, activations and KV cache."
    )
    device: TorchDevice = Field(
        default="cpu",
        description="Where workers compute: cpu, all of them on one GPU (cuda:0), or on the GPUs of this machine in "
        "turn (cuda).",
    )
    attention: Literal["auto", "varlen", "flex", "gather"] = Field(
        default="auto",
        description="The attention kernel: varlen (FlashAttention 3), flex (FlexAttention), gather (runs everywhere), "
        "or the first of them that passes a trial.",
    )
    threads: Count = Field(default=1, description="Threads of one worker on a CPU.")
    start_timeout: PositiveDuration = Field(
        default=180_000_000_000,
        description="How long a worker may take from its start until it has loaded the model and is connected; then it "
        "is ended.",
    )


ErrorLimit = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None


class Tolerance(Fields):
    """How far simulation may be off reality for 'kvsim validate' to pass: for each metric the largest median, over the
    variants, of the absolute error of the mean, as a share of what was real. A metric that is left out may be off."""

    ttft: ErrorLimit = Field(default=None, description="Time to first token.")
    tpot: ErrorLimit = Field(default=None, description="Time per output token.")
    itl: ErrorLimit = Field(default=None, description="Time between tokens.")
    e2e: ErrorLimit = Field(default=None, description="From arrival to end.")
    transfer: ErrorLimit = Field(default=None, description="From the start of the first transfer to the last's end.")
    prefill_queue: ErrorLimit = Field(default=None, description="Wait for prefill.")
    decode_queue: ErrorLimit = Field(default=None, description="Wait for decode memory and for the first decode step.")
    ranking: Flag = Field(
        default=False, description="Whether variants that differ significantly in reality must rank the same."
    )
