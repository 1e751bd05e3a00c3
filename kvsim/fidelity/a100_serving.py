"""End-to-end times of an engine on A100s: fitted to one model on eight GPUs, held against fewer GPUs and another model.

The measurements are those of Mutinifni/splitwise-sim. Kernels start from the preset, whose efficiencies were carried
over from the H100; the fit sees llama2-70b with tensor parallelism 8 alone.
"""

from pathlib import Path

import numpy as np

from kvsim.fidelity.rows import Row
from kvsim.presets import load_gpus
from kvsim.profile.fit_serving import fit_serving, predicted_serving
from kvsim.profile.least_squares import Floats
from kvsim.profile.serving_points import ServingPoint, read_serving
from kvsim.sim.hardware import GpuSpec

_TARGET = "A100 end to end"
_MEAN, _LARGEST = 0.10, 0.25
_HELD_OUT = (("llama2-70b", 4), ("llama2-70b", 2), ("bloom-176b", 8))


def rows(folder: Path) -> list[Row]:
    """The rows of this target."""
    path = folder / "a100_llama2_serving" / "perf_model_a100.csv"
    gpu = load_gpus()["a100-sxm-80g"].value
    points, notes = read_serving(path, gpu)
    fitted = fit_serving([point for point in points if is_fitted(point)], gpu, str(path)).gpu
    held_out = [point for point in points if not is_fitted(point)]
    every = _errors(held_out, fitted)
    note = "; ".join(notes)
    found = [
        Row(_TARGET, "all held out, mean", *_mean(every), note=note),
        Row(_TARGET, "all held out, largest", float(np.abs(every).max()), _LARGEST, len(every)),
    ]
    for model, ranks in _HELD_OUT:
        members = [point for point in held_out if (point.model, point.tensor_parallel) == (model, ranks)]
        for kind in ("prompt", "token"):
            errors = _errors([point for point in members if point.kind == kind], fitted)
            found.append(Row(_TARGET, f"{model} TP {ranks}, {kind} time, mean", *_mean(errors)))
    return found


def is_fitted(point: ServingPoint) -> bool:
    """Whether the fit may see it."""
    return point.model == "llama2-70b" and point.tensor_parallel == 8


def _errors(points: list[ServingPoint], gpu: GpuSpec) -> Floats:
    measured = np.array([point.seconds for point in points])
    return np.asarray(predicted_serving(points, gpu) / measured - 1.0, dtype=np.float64)


def _mean(errors: Floats) -> tuple[float, float, int, float]:
    return float(np.abs(errors).mean()), _MEAN, len(errors), float(errors.mean())
