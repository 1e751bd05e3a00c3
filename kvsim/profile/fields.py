"""What a simulation takes from a profile: keys, units, limits and meaning, as pydantic models.

``WorkerProfile`` is a part of ``kvsim.profile.file_fields.ProfileFile``; a resolved scenario keeps it in full, so that
a run can be repeated without the file. Tables are in nanoseconds, single durations carry their unit. It must not know
how a profile is measured or stored.
"""

from itertools import pairwise
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from kvsim.core.messages import FEMTOSECONDS_PER_NS
from kvsim.presets.fields import AllReduce, Count, Duration, Fields, ModelFields, Rate, Text
from kvsim.profile.layer_fields import LayerTimes, layer_tables
from kvsim.sim.hardware import LayerTables
from kvsim.sim.measured import MeasuredCosts

Nanoseconds = Annotated[float, Field(strict=True, gt=0, le=1e13)]
NanosecondsOrNone = Annotated[float, Field(strict=True, ge=0, le=1e13)]
Tokens = Annotated[int, Field(strict=True, ge=0, le=10**12)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class TokensRow(Fields):
    """What a step over this many prompt tokens takes beside attention to earlier ones."""

    tokens: Count = Field(description="Prompt tokens of the step, all chunks together.")
    ns: Nanoseconds = Field(description="Nanoseconds.")


class DecodeRow(Fields):
    """What a decode step of this many requests takes."""

    requests: Count = Field(description="Requests of the step.")
    ns: Nanoseconds = Field(description="Nanoseconds beside attention.")
    context_token_ns: NanosecondsOrNone = Field(description="Nanoseconds for each token of context, of all requests.")


def _ascending_tokens(rows: list[TokensRow]) -> list[TokensRow]:
    _check_ascending("tokens", [row.tokens for row in rows])
    return rows


def _ascending_requests(rows: list[DecodeRow]) -> list[DecodeRow]:
    _check_ascending("requests", [row.requests for row in rows])
    return rows


def _check_ascending(key: str, values: list[int]) -> None:
    for one, other in pairwise(values):
        if one >= other:
            raise ValueError(f"found {key} {one} before {other}, expected them to ascend")


class PrefillSteps(Fields):
    """Steps over prompts: ``tokens`` for the step, and attention for each of its chunks (``kvsim.sim.measured``)."""

    tokens: Annotated[list[TokensRow], Field(min_length=1), AfterValidator(_ascending_tokens)] = Field(
        description="By prompt tokens of the step, ascending; interpolated."
    )
    own_pair_ns: NanosecondsOrNone = Field(
        default=0.0, description="For each of the n (n + 1) / 2 pairs of tokens within a chunk of n."
    )
    past_pair_ns: NanosecondsOrNone = Field(
        default=0.0, description="For each pair of a token of a chunk and a token before the chunk."
    )
    past_token_ns: NanosecondsOrNone = Field(default=0.0, description="For each token before a chunk, once.")
    later_chunk_ns: NanosecondsOrNone = Field(default=0.0, description="For each chunk with tokens before it.")
    chunk_ns: NanosecondsOrNone = Field(default=0.0, description="For each chunk of a step after the first.")
    start_token_max: Tokens = Field(default=0, description="The most tokens before a chunk that were measured.")


class Steps(Fields):
    """Durations of steps."""

    prefill: PrefillSteps = Field(description="Steps over prompts.")
    decode: Annotated[list[DecodeRow], Field(min_length=1), AfterValidator(_ascending_requests)] = Field(
        description="Decode steps by requests, ascending; interpolated."
    )
    context_tokens_max: Tokens = Field(description="The most tokens of context of a decode step that were measured.")
    shared_ns: NanosecondsOrNone = Field(
        default=0.0, description="What a step with prompts and decodes takes less than one with each."
    )


class Host(Fields):
    """What the machine and the engine add around steps."""

    order: Duration = Field(default=0, description="Until a command of the scheduler reaches a worker.")
    report: Duration = Field(default=0, description="Until a worker's report reaches the scheduler.")
    between_steps: Duration = Field(default=0, description="What the engine does between two steps.")
    decision: Duration = Field(default=0, description="From a report to the commands that answer it.")


class MessageProfile(Fields):
    """What the two-sided baseline (transfer.mode message) costs beside the wire."""

    handshake: Duration | None = Field(default=None, description="Software time of the rendezvous of a transfer.")
    pack_rate: Rate | None = Field(default=None, description="Bytes per second of gather, and of scatter, on one GPU.")


def _check_slowdown(slowdown: list[float]) -> list[float]:
    if slowdown[0] != 1:
        raise ValueError(f"found {slowdown[0]:g} for one busy worker, expected 1: it is what the others compare with")
    for busy, (one, other) in enumerate(pairwise(slowdown), start=2):
        if other < one:
            raise ValueError(f"found {other:g} for {busy} busy workers, expected at least the {one:g} of fewer")
    return slowdown


Slowdown = Annotated[
    list[Annotated[float, Field(strict=True, ge=1, le=1e6)]], Field(min_length=1), AfterValidator(_check_slowdown)
]
"""Entry k - 1: how many times slower each is than alone, with k busy workers on a device."""


class WorkerProfile(Fields):
    """What a simulation takes from a profile."""

    name: Text = Field(default="profile", description="Name in reports.")
    origin: Text = Field(description="How it was measured, and where.")
    machine: Text | None = Field(default=None, description="What it was measured on.")
    engine: Text | None = Field(default=None, description="What computed the steps.")
    model: ModelFields | None = Field(default=None, description="The model whose steps were measured.")
    tensor_parallel: Count = Field(default=1, description="GPUs of the worker whose steps were measured.")
    steps: Steps | None = Field(default=None, description="Durations of steps.")
    layers: LayerTimes | None = Field(default=None, description="Instead of steps: times of the kernels of a layer.")
    host: Host = Field(default=Host.defaults(), description="What comes on top of steps.")
    message: MessageProfile = Field(default=MessageProfile.defaults(), description="Costs of transfer.mode message.")
    slowdown: Slowdown | None = Field(
        default=None, description="By busy workers on one device, from 1: how many times slower each is than alone."
    )
    all_reduce: AllReduce = Field(
        default=[], description="Measured times of an all-reduce by GPUs, ascending, and by size, in place of gpu's."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.steps is not None and self.model is None:
            raise ValueError("found steps without model, expected the model that they were measured with")
        if self.layers is not None and (self.model is None or self.steps is not None):
            what = "without model" if self.model is None else "beside steps"
            raise ValueError(f"found layers {what}, expected model with either steps or layers")
        return self

    def costs(self) -> MeasuredCosts | None:
        """The durations of steps as plain values; None where they were not measured."""
        if self.steps is None:
            return None
        return costs_of(self.name, self.steps, self.host.between_steps)

    def layer_tables(self) -> LayerTables | None:
        """The times of kernels as plain values; None where they were not measured."""
        return layer_tables(self.name, self.layers, self.host.between_steps) if self.layers is not None else None


def costs_of(name: str, steps: Steps, between_steps_ns: int = 0) -> MeasuredCosts:
    """Durations of steps as the simulator takes them: whole femtoseconds."""
    prefill, decode = steps.prefill, steps.decode
    return MeasuredCosts(
        name=name,
        prefill_tokens=tuple(row.tokens for row in prefill.tokens),
        prefill_fs=tuple(_femtoseconds(row.ns) for row in prefill.tokens),
        own_pair_fs=_femtoseconds(prefill.own_pair_ns),
        past_pair_fs=_femtoseconds(prefill.past_pair_ns),
        past_token_fs=_femtoseconds(prefill.past_token_ns),
        later_chunk_fs=_femtoseconds(prefill.later_chunk_ns),
        chunk_fs=_femtoseconds(prefill.chunk_ns),
        start_token_max=prefill.start_token_max,
        decode_requests=tuple(row.requests for row in decode),
        decode_fs=tuple(_femtoseconds(row.ns) for row in decode),
        decode_context_token_fs=tuple(_femtoseconds(row.context_token_ns) for row in decode),
        context_tokens_max=steps.context_tokens_max,
        shared_fs=_femtoseconds(steps.shared_ns),
        between_steps_fs=between_steps_ns * FEMTOSECONDS_PER_NS,
    )


def _femtoseconds(ns: float) -> int:
    return round(ns * FEMTOSECONDS_PER_NS)
