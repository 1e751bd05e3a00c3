"""Estimates what an engine adds to a GPU's kernels from end-to-end times of prompts and of decode steps.

Such times hold everything at once, so kernels start from what is known of them, and move only as far as the points
insist: efficiencies carried over from another GPU are taken to be right within a tenth. What the host does is free.
It must not know files.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from kvsim.profile.fit_result import FitResult, residual
from kvsim.profile.gpu_values import value_of, with_values
from kvsim.profile.least_squares import Floats
from kvsim.profile.nonlinear import Parameter, fit
from kvsim.profile.serving_points import ServingPoint
from kvsim.sim.compute import StepModel
from kvsim.sim.hardware import GpuSpec

_NOISE = 0.05
"""What an engine's times scatter by, from the same engine asked twice."""

_CARRIED = 0.1
_FREE = 2.0


def predicted_serving(points: Sequence[ServingPoint], gpu: GpuSpec) -> Floats:
    """Seconds of each point, by the code that the simulator uses."""
    models: dict[tuple[str, int], StepModel] = {}
    found = []
    for point in points:
        key = (point.model, point.tensor_parallel)
        if key not in models:
            models[key] = StepModel(point.shape, gpu, point.tensor_parallel)
        model = models[key]
        if point.output_tokens:
            base_fs, token_fs = model.decode_fs(point.batch)
            context_tokens = point.batch * (point.prompt_tokens + (point.output_tokens + 1) / 2)
            found.append((base_fs + token_fs * context_tokens) / 1e15)
        else:
            found.append(model.prefill_ns([(0, point.prompt_tokens)] * point.batch, 0, 0) / 1e9)
    return np.array(found)


def fit_serving(points: Sequence[ServingPoint], gpu: GpuSpec, origin: str) -> FitResult:
    """The constants of ``gpu`` and of the engine under which its steps are nearest to the points."""
    carried = ("gemm_efficiency", "memory_efficiency", "prefill_attention_efficiency", "decode_attention_efficiency")
    parameters = (
        *(Parameter(name, value_of(gpu, name), _CARRIED, 0.01, 1.0) for name in carried),
        Parameter("launch_ns", float(gpu.launch_ns), _CARRIED, 100.0, 1e7),
        Parameter("step_ns", 10e6, _FREE, 1e3, 1e9),
        Parameter("engine.layer_ns", 400e3, _FREE, 1e3, 1e8),
        Parameter("engine.prompt_ns", 10e6, _FREE, 1e3, 1e9),
        Parameter("engine.request_ns", 300e3, _FREE, 1e3, 1e8),
        Parameter("engine.long_step_tokens", 2048.0, 0.5, 128.0, 1e6),
        Parameter("engine.long_step_bytes_per_s", 50e9, 1.0, 1e8, 1e13),
    )
    measured = np.array([point.seconds for point in points])

    def predict(values: Mapping[str, float]) -> Floats:
        return predicted_serving(points, with_values(gpu, values))

    fitted = fit(parameters, predict, measured, np.ones(len(points)), _NOISE)
    kinds = np.array([point.kind for point in points])
    residuals = {kind: residual(fitted.errors[kinds == kind]) for kind in ("prompt", "token") if kind in kinds}
    return FitResult(gpu, fitted.values, residuals, fitted.told, origin)
