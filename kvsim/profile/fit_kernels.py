"""Estimates the constants of a GPU's kernels from tables of kernel times.

The GEMM table tells products and with them the memory bandwidth; both attention tables together tell attention, as
prompts and decodes run the same kernels. Only bf16 rows without a window and with heads up to 256 wide are fitted:
others run kernels of their own. It must not know files.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kvsim.profile.fit_result import FitResult, residual
from kvsim.profile.gpu_values import with_values
from kvsim.profile.laws import predicted_seconds
from kvsim.profile.least_squares import Floats
from kvsim.profile.nonlinear import Parameter, fit
from kvsim.sim.hardware import GpuSpec

if TYPE_CHECKING:
    import pandas as pd

_NOISE = 0.1
"""What kernels of neighbouring shapes differ by, as libraries choose among many of them."""

_FREE = 2.0
"""Spread of a prior that says next to nothing: a factor of 7 either way."""

GEMM = (
    Parameter("gemm_efficiency", 0.8, _FREE, 0.01, 1.0),
    Parameter("memory_efficiency", 0.85, _FREE, 0.01, 1.0),
    Parameter("kernels.gemm_exposed", 0.3, _FREE, 0.01, 1.0),
    Parameter("kernels.gemm_latency_ns", 3000.0, _FREE, 100.0, 1e6),
    Parameter("kernels.gemm_input_latency_ns", 200.0, _FREE, 1.0, 1e5),
)
ATTENTION = (
    Parameter("prefill_attention_efficiency", 0.7, _FREE, 0.01, 1.0),
    Parameter("decode_attention_efficiency", 0.85, _FREE, 0.01, 1.0),
    Parameter("kernels.attention_latency_ns", 10000.0, _FREE, 100.0, 1e6),
    Parameter("kernels.attention_fill_tokens", 200.0, _FREE, 1.0, 1e5),
    Parameter("kernels.attention_softmax_dim", 50.0, _FREE, 1.0, 1e3),
    Parameter("kernels.attention_exposed", 0.5, _FREE, 0.01, 1.0),
)
_ATTENTION_TABLES = ("context_attention", "generation_attention")


def chosen(name: str, table: "pd.DataFrame") -> "pd.DataFrame":
    """The rows that are fitted and checked."""
    kept = table["dtype"].isin(["bfloat16", "float16"])
    if name != "gemm":
        kept &= table["kv_dtype"].isin(["bfloat16", "float16"]) & (table["window"] == 0) & (table["head_dim"] <= 256)
    return table[kept]


def fit_kernels(tables: "Mapping[str, pd.DataFrame]", gpu: GpuSpec, origin: str) -> FitResult:
    """The constants of ``gpu`` under which the laws are nearest to the tables; classes without a table keep theirs."""
    values: dict[str, float] = {}
    told: dict[str, float] = {}
    residuals, notes = {}, []
    groups: list[tuple[tuple[Parameter, ...], tuple[str, ...]]] = [(GEMM, ("gemm",)), (ATTENTION, _ATTENTION_TABLES)]
    for parameters, names in groups:
        rows = {name: chosen(name, tables[name]) for name in names if name in tables}
        rows = {name: table for name, table in rows.items() if len(table)}
        missing = [name for name in names if name not in rows]
        if missing:
            notes.append(f"without {' and '.join(missing)}: what they alone tell keeps the values of {gpu.name}")
        if not rows:
            continue
        base = with_values(gpu, values)
        measured = np.concatenate([table["us"].to_numpy(dtype=np.float64) / 1e6 for table in rows.values()])

        def predict(
            trial: Mapping[str, float], base: GpuSpec = base, rows: "Mapping[str, pd.DataFrame]" = rows
        ) -> Floats:
            other = with_values(base, trial)
            return np.concatenate([predicted_seconds(name, table, other) for name, table in rows.items()])

        weights = np.concatenate([np.full(len(table), 1.0 / len(table)) for table in rows.values()]) * len(measured)
        fitted = fit(parameters, predict, measured, weights / len(rows), _NOISE)
        values.update(fitted.values)
        told.update(fitted.told)
        start = 0
        for name, table in rows.items():
            residuals[name] = residual(fitted.errors[start : start + len(table)])
            start += len(table)
    return FitResult(gpu, values, residuals, told, origin, tuple(notes))
