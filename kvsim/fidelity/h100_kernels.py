"""Kernel times of an H100: the roofline's laws, fitted to two rows in three and held against the third.

The measurements are those of ai-dynamo/aiconfigurator (vLLM). Rows that the laws are not made for (eight-bit operands,
sliding windows, very wide heads) are shown without a limit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim.fidelity.rows import Row
from kvsim.presets import load_gpus
from kvsim.profile.fit_kernels import chosen, fit_kernels
from kvsim.profile.interpolate import KernelTable
from kvsim.profile.kernel_import import load
from kvsim.profile.laws import predicted_seconds
from kvsim.sim.hardware import GpuSpec

if TYPE_CHECKING:
    import pandas as pd

_TARGET = "H100 kernels, roofline"
_TABLES = "H100 kernels, interpolated tables"
_LIMIT, _INTERPOLATED = 0.12, 0.03
LABELS = {"gemm": "GEMM", "context_attention": "attention of prompts", "generation_attention": "attention of decodes"}


_WHOLE_SHAPES = (
    "H100 GEMM, interpolated: the table has 483 pairs of n and k at each number of rows, so every third row leaves out "
    "the same 161 pairs of all: what is asked for is what shapes take of which nothing was measured"
)


def rows(folder: Path) -> list[Row]:
    """The rows of this target."""
    tables = load(folder / "h100_vllm_kernels").tables
    kept = {name: chosen(name, table) for name, table in tables.items()}
    seen = {name: table[~left_out(len(table))] for name, table in kept.items()}
    gpu = fit_kernels(seen, load_gpus()["h100-sxm"].value, "hold-out").gpu
    found = []
    for name, label in LABELS.items():
        table = kept[name][left_out(len(kept[name]))]
        if name == "gemm":
            found.append(_row(f"{label} above 64 tokens, left out", name, table[table["m"] > 64], gpu, _LIMIT))
            found.append(_row(f"{label} up to 64 tokens, left out", name, table[table["m"] <= 64], gpu, None))
        else:
            found.append(_row(f"{label}, left out", name, table, gpu, _LIMIT))
    return [*found, *_interpolated(kept, gpu), *_others(tables, gpu)]


def _interpolated(kept: "Mapping[str, pd.DataFrame]", gpu: GpuSpec) -> list[Row]:
    """Every third row from the two others."""
    found = []
    for name, label in LABELS.items():
        table, out = kept[name], left_out(len(kept[name]))
        asked = table[out]
        seconds = KernelTable(name, table[~out], gpu).times(asked).seconds
        errors = seconds / (asked["us"].to_numpy(dtype=np.float64) / 1e6) - 1.0
        told = errors[~np.isnan(errors)]
        size = np.abs(told)
        limited = Row(
            _TABLES, f"{label}, left out, mean", float(size.mean()), _INTERPOLATED, len(told), float(told.mean())
        )
        found.append(limited._replace(note=_WHOLE_SHAPES) if name == "gemm" and not limited.met else limited)
        found.append(Row(_TABLES, f"{label}, left out, median", float(np.median(size)), None, len(told)))
    found.append(_repeated(kept["gemm"]))
    return found


def _repeated(gemm: "pd.DataFrame") -> Row:
    """Products of 1 to 16 rows with the same weights do the same work on the same tiles: how far they lie apart is
    chance, and the least that an interpolation of single measurements can err by."""
    alike = gemm[gemm["m"] <= 16]
    us = alike["us"].to_numpy(dtype=np.float64)
    middle = alike.groupby(["n", "k"])["us"].transform("median").to_numpy(dtype=np.float64)
    size = np.abs(us / middle - 1.0)
    return Row(_TABLES, "GEMM of 1 to 16 rows around their median, mean", float(size.mean()), None, len(size))


def left_out(count: int) -> npt.NDArray[np.bool_]:
    """Every third row of a table in its order."""
    return np.asarray(np.arange(count) % 3 == 2)


def _others(tables: "Mapping[str, pd.DataFrame]", gpu: GpuSpec) -> list[Row]:
    """What the laws were not fitted to."""
    gemm = tables["gemm"]
    found = [
        _row("GEMM of eight-bit operands, not fitted", "gemm", gemm[gemm["dtype"].str.startswith("fp8")], gpu, None)
    ]
    for name in ("context_attention", "generation_attention"):
        table = tables[name]
        others = table.drop(chosen(name, table).index)
        label = f"{LABELS[name]}, 8-bit KV, windows, wide heads, not fitted"
        found.append(_row(label, name, others, gpu, None))
    return found


def _row(metric: str, name: str, table: "pd.DataFrame", gpu: GpuSpec, limit: float | None) -> Row:
    measured = table["us"].to_numpy(dtype=np.float64) / 1e6
    errors = predicted_seconds(name, table, gpu) / measured - 1.0
    return Row(_TARGET, f"{metric}, mean", float(np.abs(errors).mean()), limit, len(errors), float(errors.mean()))
