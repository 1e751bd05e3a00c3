"""What a profile holds of measured kernels (key ``layers``), and how it becomes the tables of the simulator.

Long rows of numbers are texts, numbers parted by blanks: as readable as a table, and quick to read. It must not know
who measured them.
"""

from itertools import pairwise
from math import isfinite
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from kvsim.presets.fields import Count, Fields, Text
from kvsim.sim.hardware import LayerTables

ATTENTION = "attention"


def _check_numbers(text: str) -> str:
    for word in text.split():
        try:
            good = isfinite(float(word)) and float(word) >= 0
        except ValueError:
            good = False
        if not good:
            raise ValueError(f"found {word!r}, expected numbers of at least 0, parted by blanks")
    return text


def _check_axis(text: str) -> str:
    if not all(word.isdecimal() for word in text.split()):
        raise ValueError("expected whole numbers parted by blanks")
    values = integers(text)
    if len(values) < 2:
        raise ValueError(f"found {len(values)} numbers, expected at least 2, to interpolate between")
    for one, other in pairwise(values):
        if one >= other:
            raise ValueError(f"found {one} before {other}, expected them to ascend")
    return text


Numbers = Annotated[str, Field(strict=True, min_length=1, max_length=10**6), AfterValidator(_check_numbers)]
Axis = Annotated[str, Field(strict=True, min_length=1, max_length=10**6), AfterValidator(_check_axis)]


def numbers(text: str) -> tuple[float, ...]:
    """The numbers of a text."""
    return tuple([float(word) for word in text.split()])


def integers(text: str) -> tuple[int, ...]:
    """The whole numbers of a text."""
    return tuple([int(word) for word in text.split()])


class KernelRow(Fields):
    """One kernel."""

    kernel: Text = Field(description="What it computes.")
    times: Count = Field(description="How often a step runs it.")
    us: Numbers = Field(description="Microseconds of one run, by the axis of the table.")


class PromptRow(Fields):
    """Attention of one chunk of a prompt."""

    chunk_tokens: Count = Field(description="Tokens of the chunk.")
    us: Numbers = Field(description="Microseconds by past_tokens.")


class ContextRow(Fields):
    """Attention of decoding requests."""

    decodes: Count = Field(description="Decoding requests.")
    us: Numbers = Field(description="Microseconds by context_tokens.")


class MixedRow(Fields):
    """Attention of one chunk and of decoding requests in one kernel."""

    chunk_tokens: Count = Field(description="Tokens of the chunk.")
    past_tokens: Annotated[int, Field(strict=True, ge=0)] = Field(description="Tokens before the chunk.")
    decodes: Count = Field(description="Decoding requests.")
    us: Numbers = Field(description="Microseconds by context_tokens.")


class LayerTimes(Fields):
    """Measured kernels of a model's layers."""

    tokens: Axis = Field(description="Tokens of a step: the axis of dense.")
    dense: Annotated[list[KernelRow], Field(min_length=1)] = Field(description="Kernels by tokens of the step.")
    sequences: Axis = Field(description="Requests of a step: the axis of per_sequence.")
    per_sequence: Annotated[list[KernelRow], Field(min_length=1)] = Field(description="Kernels by requests.")
    attention_times: Count = Field(description="How often a step runs attention: layers of the model.")
    past_tokens: Axis = Field(description="Tokens before a chunk, from 0: the axis of prefill.")
    context_tokens: Axis = Field(description="Context of each decoding request: the axis of decode and mixed.")
    prefill: Annotated[list[PromptRow], Field(min_length=2)] = Field(description="By chunk_tokens, ascending.")
    decode: Annotated[list[ContextRow], Field(min_length=2)] = Field(description="By decodes, ascending.")
    mixed: Annotated[list[MixedRow], Field(min_length=1)] = Field(
        description="By chunk_tokens, past_tokens and decodes. What is missing of many decodes is extrapolated."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for axis, texts in (
            ("tokens", [row.us for row in self.dense]),
            ("sequences", [row.us for row in self.per_sequence]),
            ("past_tokens", [row.us for row in self.prefill]),
            ("context_tokens", [*(row.us for row in self.decode), *(row.us for row in self.mixed)]),
        ):
            entries = len(getattr(self, axis).split())
            for text in texts:
                found = len(text.split())
                if found != entries:
                    raise ValueError(f"found a row of {found} numbers, expected {entries}, as {axis} has")
        if integers(self.past_tokens)[0] != 0:
            raise ValueError(f"found past_tokens from {integers(self.past_tokens)[0]} on, expected them from 0 on")
        _check_order("chunk_tokens", [row.chunk_tokens for row in self.prefill])
        _check_order("decodes", [row.decodes for row in self.decode])
        mixed_rows(self)
        return self


def _check_order(key: str, values: list[int]) -> None:
    for one, other in pairwise(values):
        if one >= other:
            raise ValueError(f"found {key} {one} before {other}, expected them to ascend")


def mixed_rows(layers: LayerTimes) -> tuple[list[tuple[float, ...]], int]:
    """A row for each chunk, past and number of decodes, in this order, and the most decodes that every chunk has.

    A row that was not measured, for decodes above those that were, goes on as between the two before it; those two are
    there, or it is an error (ValueError).
    """
    known = {(row.chunk_tokens, row.past_tokens, row.decodes): numbers(row.us) for row in layers.mixed}
    decodes = [row.decodes for row in layers.decode]
    rows: list[tuple[float, ...]] = []
    measured_max = decodes[-1]
    for chunk in layers.prefill:
        for past in integers(layers.past_tokens):
            done: list[tuple[float, ...]] = []
            for place, count in enumerate(decodes):
                row = known.get((chunk.chunk_tokens, past, count))
                if row is None:
                    if place < 2:
                        where = f"chunk_tokens {chunk.chunk_tokens}, past_tokens {past}, decodes {count}"
                        raise ValueError(f"found no row of mixed for {where}, expected one")
                    measured_max = min(measured_max, decodes[place - 1])
                    share = (count - decodes[place - 1]) / (decodes[place - 1] - decodes[place - 2])
                    pairs = zip(done[-2], done[-1], strict=True)
                    row = tuple([high + share * max(0.0, high - low) for low, high in pairs])
                done.append(row)
            rows += done
    return rows, measured_max


def layer_tables(name: str, layers: LayerTimes, between_steps_ns: int) -> LayerTables:
    """The tables of the simulator: kernels of all layers added up."""
    rows, mixed_decodes_max = mixed_rows(layers)
    times = layers.attention_times
    return LayerTables(
        name=name,
        tokens=integers(layers.tokens),
        dense_us=_sum(layers.dense),
        sequences=integers(layers.sequences),
        sequences_us=_sum(layers.per_sequence),
        chunk_tokens=tuple(row.chunk_tokens for row in layers.prefill),
        past_tokens=integers(layers.past_tokens),
        decodes=tuple(row.decodes for row in layers.decode),
        context_tokens=integers(layers.context_tokens),
        prefill_us=tuple(times * us for row in layers.prefill for us in numbers(row.us)),
        decode_us=tuple(times * us for row in layers.decode for us in numbers(row.us)),
        mixed_us=tuple(times * us for row in rows for us in row),
        mixed_decodes_max=mixed_decodes_max,
        between_steps_ns=between_steps_ns,
    )


def _sum(rows: list[KernelRow]) -> tuple[float, ...]:
    columns = zip(*[[row.times * us for us in numbers(row.us)] for row in rows], strict=True)
    return tuple(sum(column) for column in columns)
