"""Types of single fields: numbers, names and quantities with their units, as a file writes them.

They are shared by presets, profiles and scenarios. It must not know what a field means.
"""

from collections.abc import Callable
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from kvsim import units

Count = Annotated[int, Field(strict=True, ge=1, le=10**9)]
Fraction = Annotated[float, Field(strict=True, gt=0, le=1)]
Number = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1)]


def quantity_json(quantity: units.Quantity) -> WithJsonSchema:
    """The JSON Schema of a quantity: text with a number and one of the units."""
    alternatives = "|".join(quantity.units)
    pattern = rf"^\s*\d+(\.\d+)?([eE][+-]?\d{{1,3}})?\s*({alternatives})\s*$"
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [quantity.example]})


def _positive(parse: Callable[[object], float]) -> Callable[[object], float]:
    def parse_positive(text: object) -> float:
        value = parse(text)
        if value <= 0:
            raise units.UnitError(f"found {text!r}, expected more than 0")
        return value

    return parse_positive


Bytes = Annotated[
    int,
    BeforeValidator(_positive(units.parse_bytes)),
    PlainSerializer(units.exact_bytes),
    quantity_json(units.BYTES),
]
Duration = Annotated[
    int,
    BeforeValidator(units.parse_duration),
    PlainSerializer(units.exact_duration),
    quantity_json(units.DURATION),
]
PositiveDuration = Annotated[
    int,
    BeforeValidator(_positive(units.parse_duration)),
    PlainSerializer(units.exact_duration),
    quantity_json(units.DURATION),
]
Rate = Annotated[
    float,
    BeforeValidator(_positive(units.parse_rate)),
    PlainSerializer(units.exact_rate),
    quantity_json(units.RATE),
]
RequestRate = Annotated[
    float,
    BeforeValidator(_positive(units.parse_request_rate)),
    PlainSerializer(units.exact_request_rate),
    quantity_json(units.REQUEST_RATE),
]
OperationRate = Annotated[
    float,
    BeforeValidator(_positive(units.parse_operation_rate)),
    PlainSerializer(units.exact_operation_rate),
    quantity_json(units.OPERATION_RATE),
]
FlopRate = Annotated[
    float,
    BeforeValidator(_positive(units.parse_flop_rate)),
    PlainSerializer(units.exact_flop_rate),
    quantity_json(units.FLOP_RATE),
]


class Fields(BaseModel):
    """Base of every mapping in a preset or scenario file: unknown keys are refused, values never change.

    The checks of a class are made when it first checks something, as a part of those around it: most classes never
    check anything by themselves, and making checks for each would double what importing them takes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @classmethod
    def defaults(cls) -> Self:
        """What an empty mapping stands for. It is not checked, as no default is: for the default of another key."""
        return cls.model_construct()
