"""Types of single fields: numbers, names and quantities with their units, as a file writes them.

They are shared by presets, profiles and scenarios. It must not know what a field means.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from kvsim import units

Count = Annotated[int, Field(strict=True, ge=1, le=10**9)]
Fraction = Annotated[float, Field(strict=True, gt=0, le=1)]
Number = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1)]


class Written:
    """Annotation of a field that a file writes in another way than it is kept: a quantity with its unit, or a word.

    ``read`` makes the value of what a file holds and raises ValueError, ``write`` what a file holds; ``json_schema``
    is what editors are told. It is what pydantic's BeforeValidator, PlainSerializer and WithJsonSchema are together,
    but they would look at the signatures of these functions anew for each of the hundred fields of a scenario.
    """

    def __init__(
        self, read: Callable[[object], Any], write: Callable[[Any], Any], json_schema: Mapping[str, Any]
    ) -> None:
        self._read, self._write, self._json_schema = read, write, json_schema

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(self._write)
        return core_schema.no_info_before_validator_function(self._read, handler(source), serialization=written)

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self._json_schema)


def quantity_json(quantity: units.Quantity) -> dict[str, Any]:
    """The JSON Schema of a quantity: text with a number and one of the units."""
    alternatives = "|".join(quantity.units)
    pattern = rf"^\s*\d+(\.\d+)?([eE][+-]?\d{{1,3}})?\s*({alternatives})\s*$"
    return {"type": "string", "pattern": pattern, "examples": [quantity.example]}


def _positive(parse: Callable[[object], float]) -> Callable[[object], float]:
    def parse_positive(text: object) -> float:
        value = parse(text)
        if value <= 0:
            raise units.UnitError(f"found {text!r}, expected more than 0")
        return value

    return parse_positive


Bytes = Annotated[int, Written(_positive(units.parse_bytes), units.exact_bytes, quantity_json(units.BYTES))]
Duration = Annotated[int, Written(units.parse_duration, units.exact_duration, quantity_json(units.DURATION))]
PositiveDuration = Annotated[
    int, Written(_positive(units.parse_duration), units.exact_duration, quantity_json(units.DURATION))
]
Rate = Annotated[float, Written(_positive(units.parse_rate), units.exact_rate, quantity_json(units.RATE))]
RequestRate = Annotated[
    float, Written(_positive(units.parse_request_rate), units.exact_request_rate, quantity_json(units.REQUEST_RATE))
]
OperationRate = Annotated[
    float,
    Written(_positive(units.parse_operation_rate), units.exact_operation_rate, quantity_json(units.OPERATION_RATE)),
]
FlopRate = Annotated[
    float, Written(_positive(units.parse_flop_rate), units.exact_flop_rate, quantity_json(units.FLOP_RATE))
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
