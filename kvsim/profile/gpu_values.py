"""The constants of a GPU by dotted name, to fit and to write them. It must not know what they are fitted to."""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from kvsim.sim.hardware import GpuSpec


def with_values(gpu: GpuSpec, values: Mapping[str, float]) -> GpuSpec:
    """``gpu`` with other constants; ``kernels.NAME`` and ``engine.NAME`` reach into those. Integers are rounded."""
    own: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {"kernels": {}, "engine": {}}
    for name, value in values.items():
        part, _, rest = name.rpartition(".")
        target = parts[part] if part else own
        whole = isinstance(getattr(getattr(gpu, part) if part else gpu, rest), int)
        target[rest] = round(value) if whole else value
    return replace(
        gpu, kernels=replace(gpu.kernels, **parts["kernels"]), engine=replace(gpu.engine, **parts["engine"]), **own
    )


def value_of(gpu: GpuSpec, name: str) -> float:
    """The constant of that dotted name."""
    part, _, rest = name.rpartition(".")
    return float(getattr(getattr(gpu, part) if part else gpu, rest))
