"""Models, GPUs and NICs by name: data files of this package, as validated values with their sources.

    >>> load_gpus()["h100-sxm"].value.memory_bytes_per_s
    3350000000000.0

Presets are data: adding one means adding a mapping to a YAML file here. It must not know scenario files.
"""

from collections.abc import Callable, Mapping
from functools import cache, cached_property
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


class Preset(msgspec.Struct, Generic[T], frozen=True, dict=True):
    """A named value. ``fields`` is how it is written: keys and quantities with their units, the name included.

    They are checked when ``value`` is first asked for: a scenario takes the fields of some presets and checks those.
    """

    name: str
    source: str
    fields: Mapping[str, object]
    read: Callable[[Mapping[str, object]], T]

    @cached_property
    def value(self) -> T:
        """The same as a plain value."""
        return self.read(self.fields)


@cache
def load_models() -> Mapping[str, Preset[ModelShape]]:
    """Every model, in the order of the file."""
    return _presets("models.yaml", lambda fields: ModelFields.model_validate(fields).value())


@cache
def load_gpus() -> Mapping[str, Preset[GpuSpec]]:
    """Every GPU, in the order of the file."""
    return _presets("gpus.yaml", lambda fields: GpuFields.model_validate(fields).value())


@cache
def load_nics() -> Mapping[str, Preset[NicSpec]]:
    """Every NIC, in the order of the file."""
    return _presets("nics.yaml", lambda fields: NicFields.model_validate(fields).value())


def _presets(file: str, read: Callable[[Mapping[str, object]], T]) -> Mapping[str, Preset[T]]:
    """The mappings in a file of this package by name."""
    text = (files(__name__) / file).read_text(encoding="utf-8")
    data: dict[str, dict[str, Any]] = yaml.load(text, _Loader)
    presets = {}
    for name, written in data.items():
        source = written.pop("source")
        presets[name] = Preset(name, source, MappingProxyType({"name": name, **written}), read)
    return MappingProxyType(presets)
