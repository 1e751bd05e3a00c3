"""Where a kernel's shape lies among others: coordinates in which shapes that are near take as long, beside the law.

What the roofline leaves changes slowly with the logarithms of a shape's dimensions, and in jumps where a tile more is
begun or where the tiles of the last wave leave units idle (tile and wave quantisation: NVIDIA, "Matrix Multiplication
Background User's Guide"). Both are coordinates. How much each counts was chosen on the H100 tables of
ai-dynamo/aiconfigurator without every third row, by shapes left out of the rest; among variants that were alike there
the one was taken that did best on that third (products: 3.4 to 3.6 %). It must not know measured times.
"""

from typing import TYPE_CHECKING

import numpy as np

from kvsim.profile.kriging import Places
from kvsim.profile.least_squares import Floats
from kvsim.sim.hardware import GpuSpec

if TYPE_CHECKING:
    import pandas as pd

_TILE_ROWS = 64
"""Rows of the smallest tile of a product: one row more costs as much as a whole tile."""

_TILES = ((128, 128, 2.0), (128, 256, 0.5), (64, 128, 0.5))
"""Rows and columns of tiles that libraries choose among, and what idle units of each count."""

_ATTENTION_ROWS = 128
"""Query rows of an attention tile where the GPU has no constant of its own."""

_WASTE_MAX = 2.0
"""A single tile on a large GPU leaves nearly all of it idle; more than 3/4 idle is all alike."""


def places(name: str, table: "pd.DataFrame", gpu: GpuSpec) -> Places:
    """One for each row of the table ``name`` (``kvsim.profile.kernel_tables``)."""
    return _products(table, gpu) if name == "gemm" else _attention(name, table, gpu)


def _products(table: "pd.DataFrame", gpu: GpuSpec) -> Places:
    rows, outputs = (table[key].to_numpy(dtype=np.float64) for key in ("m", "n"))
    m, n, k = (_log(table[key].to_numpy(dtype=np.float64)) for key in ("m", "n", "k"))
    waves = [
        share * _waste(np.ceil(rows / tile_rows) * np.ceil(outputs / columns), gpu)
        for tile_rows, columns, share in _TILES
    ]
    return Places(
        near=np.column_stack([3.0 * m, n, k]),
        alike=np.column_stack([0.05 * m, 0.6 * _log(np.ceil(rows / _TILE_ROWS)), 0.3 * n, 0.3 * k, *waves]),
    )


def _attention(name: str, table: "pd.DataFrame", gpu: GpuSpec) -> Places:
    names = ("tokens", "batch", "heads", "kv_heads", "head_dim")
    tokens, batch, heads, kv_heads, dim = (table[key].to_numpy(dtype=np.float64) for key in names)
    queries = tokens if name == "context_attention" else np.ones_like(tokens)
    tiles = batch * kv_heads * np.ceil(queries * np.ceil(heads / kv_heads) / (_attention_rows(gpu)))
    coordinates = np.column_stack(
        [
            0.12 * _log(tokens),
            0.1 * _log(batch),
            0.2 * _log(heads),
            0.2 * _log(kv_heads),
            0.5 * _log(dim),
            0.2 * _waste(tiles, gpu),
            0.1 * _log(tiles),
        ]
    )
    return Places(coordinates, coordinates)


def _attention_rows(gpu: GpuSpec) -> int:
    return gpu.kernels.attention_tile_rows or _ATTENTION_ROWS


def _log(values: Floats) -> Floats:
    return np.asarray(np.log2(values), dtype=np.float64)


def _waste(tiles: Floats, gpu: GpuSpec) -> Floats:
    """How much longer full waves of tiles take than the tiles would on all units, in octaves."""
    units = gpu.kernels.attention_units
    if not units:
        return np.zeros_like(tiles)
    return np.minimum(_log(np.ceil(tiles / units) * units / tiles), _WASTE_MAX)
