"""Models, GPUs and NICs by name: data files of this package, as validated values with their sources.

    >>> load_gpus()["h100-sxm"].value.memory_bytes_per_s
    3350000000000.0

Presets are data: adding one means adding a mapping to a YAML file here. It must not know scenario files.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import msgspec
import yaml

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML without libyaml: the same, slower
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

from kvsim.presets.fields import GpuFields, ModelFields, NicFields
from kvsim.sim.hardware import GpuSpec, ModelShape, NicSpec

__all__ = ["Preset", "load_gpus", "load_models", "load_nics"]

T = TypeVar("T")


class Preset(msgspec.Struct, Generic[T], frozen=True):
    """A named value. ``fields`` is how it is written: keys and quantities with their units, the name included."""

    name: str
    value: T
    source: str
    fields: Mapping[str, object]


@cache
def load_models() -> Mapping[str, Preset[ModelShape]]:
    """Every model, in the order of the file."""
    return MappingProxyType(
        {
            name: Preset(name, ModelFields.model_validate(fields).value(), source, MappingProxyType(fields))
            for name, source, fields in _entries("models.yaml")
        }
    )


@cache
def load_gpus() -> Mapping[str, Preset[GpuSpec]]:
    """Every GPU, in the order of the file."""
    return MappingProxyType(
        {
            name: Preset(name, GpuFields.model_validate(fields).value(), source, MappingProxyType(fields))
            for name, source, fields in _entries("gpus.yaml")
        }
    )


@cache
def load_nics() -> Mapping[str, Preset[NicSpec]]:
    """Every NIC, in the order of the file."""
    return MappingProxyType(
        {
            name: Preset(name, NicFields.model_validate(fields).value(), source, MappingProxyType(fields))
            for name, source, fields in _entries("nics.yaml")
        }
    )


def _entries(file: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, source, the other fields with the name) of each mapping in a file of this package."""
    text = (files(__name__) / file).read_text(encoding="utf-8")
    data: dict[str, dict[str, Any]] = yaml.load(text, _Loader)
    entries = []
    for name, written in data.items():
        fields = {"name": name, **written}
        source = fields.pop("source")
        entries.append((name, source, fields))
    return entries
