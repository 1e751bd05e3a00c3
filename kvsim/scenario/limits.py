"""Field types that only scenario files have: what may be ``none``, and what may be ``auto``.

It must not know which keys use them.
"""

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from kvsim import units
from kvsim.presets.fields import Count, Written, quantity_json


def _limit(value: object) -> object:
    """``none`` -> None. A count may be limited or not; what is neither is left for the type to refuse."""
    return None if value == "none" else value


def _duration_limit(value: object) -> int | None:
    return None if value == "none" else units.parse_duration(value)


def _memory(value: object) -> int | None:
    if value == "auto":
        return None
    size_bytes = units.parse_bytes(value)
    if size_bytes == 0:
        raise units.UnitError(f"found {value!r}, expected auto or more than 0")
    return size_bytes


def _torch_device(value: object) -> str:
    if not isinstance(value, str) or re.fullmatch(_TORCH_DEVICE, value) is None:
        raise units.UnitError(f"found {value!r}, expected cpu, cuda or cuda:NUMBER")
    return value


_TORCH_DEVICE = r"cpu|cuda(:[0-9]{1,3})?"
_NONE_JSON = {"const": "none"}
CountLimit = Annotated[
    Count | None,
    Written(
        _limit,
        lambda value: "none" if value is None else value,
        {"anyOf": [_NONE_JSON, {"type": "integer", "minimum": 1, "maximum": 10**9}]},
    ),
]
DurationLimit = Annotated[
    int | None,
    Written(
        _duration_limit,
        lambda value: "none" if value is None else units.exact_duration(value),
        {"anyOf": [_NONE_JSON, quantity_json(units.DURATION)]},
    ),
]
KvMemory = Annotated[
    int | None,
    Written(
        _memory,
        lambda value: "auto" if value is None else units.exact_bytes(value),
        {"anyOf": [{"const": "auto"}, quantity_json(units.BYTES)]},
    ),
]
DurationAuto = Annotated[
    int | None,
    Written(
        lambda value: None if value == "auto" else units.parse_duration(value),
        lambda value: "auto" if value is None else units.exact_duration(value),
        {"anyOf": [{"const": "auto"}, quantity_json(units.DURATION)]},
    ),
]
TorchDevice = Annotated[
    str, BeforeValidator(_torch_device), WithJsonSchema({"type": "string", "pattern": f"^({_TORCH_DEVICE})$"})
]
OptionalName = Annotated[
    str | None,
    Written(_limit, lambda value: "none" if value is None else value, {"type": "string"}),
]
