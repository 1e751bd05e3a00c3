"""What the section ``sweep`` of a scenario file may hold. It must not know the keys that are varied."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from kvsim.presets.fields import Count, Fields, Text
from kvsim.scenario.tree import found


def _check_varied(value: object) -> object:
    if isinstance(value, str) or (isinstance(value, list) and value):
        return value
    what = "an empty list" if value == [] else found(value)
    raise ValueError(f"found {what}, expected a list of values, or a range in quotes such as '1:4:0.5 req/s'")


class Sweep(Fields):
    """The grid of 'kvsim sweep'. 'kvsim run' leaves it out."""

    vary: dict[
        Text,
        Annotated[
            str | list[Any],
            BeforeValidator(_check_varied),
            WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1}]}),
        ],
    ] = Field(
        default={},
        description="Dotted key -> the values that it takes: a list, or a text as after --vary: 'V1,V2' or "
        "'START:STOP:STEP UNIT'. Every combination is run.",
    )
    seeds: Count = Field(default=1, description="How many seeds each combination is run with, from the seed on.")
