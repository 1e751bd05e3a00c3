"""What a fit of a GPU's constants found, and how a scenario would write it.

It must not know what was fitted to what.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import yaml

from kvsim.presets import load_gpus
from kvsim.presets.fields import GpuFields
from kvsim.profile.gpu_values import with_values
from kvsim.profile.least_squares import Floats
from kvsim.sim.hardware import GpuSpec

_UNTOLD = 0.3
"""A parameter that the points narrowed by less than this is as good as carried over."""


class ClassResidual(NamedTuple):
    """Of one class of points: how many, the mean and the largest absolute relative error, and the mean signed one."""

    points: int
    mean: float
    largest: float
    bias: float


def residual(errors: Floats) -> ClassResidual:
    """Of errors that are predicted over measured less 1."""
    size = np.abs(errors)
    return ClassResidual(len(errors), float(size.mean()), float(size.max()), float(errors.mean()))


@dataclass(frozen=True, slots=True)
class FitResult:
    """``values`` of the constants of ``base`` by dotted name; ``residuals`` by class; ``told`` is how much the points
    say of each value: near 0 it was carried over."""

    base: GpuSpec
    values: Mapping[str, float]
    residuals: Mapping[str, ClassResidual]
    told: Mapping[str, float]
    origin: str
    notes: tuple[str, ...] = ()

    @property
    def gpu(self) -> GpuSpec:
        """The GPU with the fitted constants, rounded as they are written."""
        return GpuFields.model_validate(self.fields()).value()

    def fields(self) -> dict[str, Any]:
        """Every field of the GPU as a scenario or a preset file writes it."""
        known = load_gpus()[self.base.name].fields
        written = GpuFields.model_validate(known).model_copy(update={}).model_dump(mode="json")
        written.update(self.changes())
        for part in ("kernels", "engine"):
            full = GpuFields.model_validate(known).model_dump(mode="json")[part]
            written[part] = {**full, **self.changes().get(part, {})}
        return written

    def changes(self) -> dict[str, Any]:
        """The fitted fields alone, four digits each."""
        gpu = with_values(self.base, {name: float(f"{value:.4g}") for name, value in self.values.items()})
        dumped = GpuFields.model_validate(_fields_of(gpu)).model_dump(mode="json")
        found: dict[str, Any] = {}
        for name in self.values:
            part, _, rest = name.rpartition(".")
            key = rest.removesuffix("_ns").replace("_bytes_per_s", "_rate")
            (found.setdefault(part, {}) if part else found)[key] = (dumped[part] if part else dumped)[key]
        return found

    def untold(self) -> list[str]:
        """Names of the values of which the points say little."""
        return [name for name, share in self.told.items() if share < _UNTOLD]


def _fields_of(gpu: GpuSpec) -> dict[str, Any]:
    """A GPU's constants as its fields, durations in ns."""
    fields: dict[str, Any] = {
        "name": gpu.name,
        "flop_rate": f"{gpu.flops_per_s:.17g} FLOP/s",
        "memory": f"{gpu.memory_bytes} B",
        "memory_bandwidth": f"{gpu.memory_bytes_per_s:.17g} B/s",
        "collective_bandwidth": f"{gpu.collective_bytes_per_s:.17g} B/s",
        "collective_latency": f"{gpu.collective_latency_ns} ns",
        "launch": f"{gpu.launch_ns} ns",
        "step": f"{gpu.step_ns} ns",
        "kernels": {},
        "engine": {"long_step_rate": f"{gpu.engine.long_step_bytes_per_s:.17g} B/s"},
    }
    fields |= {
        name: float(getattr(gpu, name))
        for name in (
            "gemm_efficiency",
            "prefill_attention_efficiency",
            "decode_attention_efficiency",
            "memory_efficiency",
        )
    }
    for part, value in (("kernels", gpu.kernels), ("engine", gpu.engine)):
        for name in value.__struct_fields__:
            if name.endswith("_ns"):
                fields[part][name.removesuffix("_ns")] = f"{getattr(value, name)} ns"
            elif not name.endswith("_per_s"):
                fields[part][name] = getattr(value, name)
    return fields


def fit_text(result: FitResult) -> str:
    """The file's text: a ``gpu`` mapping that a scenario can take over as it stands, and what to think of it."""
    document = {
        "origin": result.origin,
        "gpu": {"preset": result.base.name, **result.changes()},
        "residuals": {
            name: {
                "points": one.points,
                "mean": round(one.mean, 4),
                "largest": round(one.largest, 4),
                "bias": round(one.bias, 4),
            }
            for name, one in result.residuals.items()
        },
        "told": {name: round(share, 2) for name, share in result.told.items()},
        "notes": list(result.notes),
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
