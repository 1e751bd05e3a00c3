"""What tables of kernels hold, and the least time that the hardware needs for each of their rows.

Columns are the same whatever layout they were imported from. It must not know files.
"""

from typing import TYPE_CHECKING

import numpy as np

from kvsim.profile.least_squares import Floats
from kvsim.sim.hardware import GpuSpec

if TYPE_CHECKING:
    import pandas as pd

_ATTENTION = {
    "dtype": "of Q and of the output",
    "kv_dtype": "of the KV cache",
    "batch": "requests",
    "heads": "query heads on this GPU",
    "kv_heads": "KV heads on this GPU",
    "head_dim": "elements of a head",
    "window": "tokens that a token attends to at most; 0 is all",
}

COLUMNS: dict[str, dict[str, str]] = {
    "gemm": {
        "dtype": "of the operands",
        "m": "rows: tokens",
        "n": "outputs: columns of the weights on this GPU",
        "k": "inputs: rows of the weights on this GPU",
        "us": "microseconds of one product",
    },
    "context_attention": {
        **_ATTENTION,
        "start": "tokens of each prompt that were computed before",
        "tokens": "new ones of each prompt",
        "us": "microseconds of one layer",
    },
    "generation_attention": {
        **_ATTENTION,
        "tokens": "of context of each request, the new one included",
        "us": "microseconds of one layer",
    },
}
"""By table: what each column holds, in order. All columns but ``us`` are conditions."""

_BYTES = {"bfloat16": 2, "float16": 2, "fp8": 1, "fp8_block": 1, "float32": 4}


def element_bytes(dtype: "pd.Series[str]") -> Floats:
    """Bytes of an element of each dtype. An unknown dtype counts as one byte, which allows the least time."""
    return dtype.map(lambda name: _BYTES.get(name, 1)).to_numpy(dtype=np.float64)


def least_seconds(name: str, table: "pd.DataFrame", gpu: GpuSpec) -> Floats:
    """Seconds that the datasheet of ``gpu`` allows at least: arithmetic at the peak, which one-byte operands double.

    Traffic is left out where it may stay in the cache: of attention's K and V, and of weights below 256 MB.
    """
    column = {key: table[key].to_numpy(dtype=np.float64) for key in table.columns if key not in ("dtype", "kv_dtype")}
    rate = gpu.flops_per_s * (2.0 / element_bytes(table["dtype"]))
    if name == "gemm":
        weights_bytes = column["n"] * column["k"] * element_bytes(table["dtype"])
        memory_s = np.where(weights_bytes > 256e6, weights_bytes / gpu.memory_bytes_per_s, 0.0)
        compute_s = 2.0 * column["m"] * column["n"] * column["k"] / rate
        least_s: Floats = np.maximum(compute_s, memory_s)
        return least_s
    pairs = column["batch"] * attended_pairs(name, table)
    attention_s: Floats = 4.0 * column["heads"] * column["head_dim"] * pairs / rate
    return attention_s


def attended_pairs(name: str, table: "pd.DataFrame") -> Floats:
    """Pairs of a query token and a token that it attends to, of one request and head, under the causal mask."""
    tokens, window = (table[key].to_numpy(dtype=np.float64) for key in ("tokens", "window"))
    if name == "generation_attention":
        return np.asarray(np.where(window > 0, np.minimum(window, tokens), tokens), dtype=np.float64)
    start = table["start"].to_numpy(dtype=np.float64)
    pairs = tokens * start + tokens * (tokens + 1) / 2
    beyond = np.where(window > 0, np.maximum(start + tokens - window, 0.0), 0.0)  # tokens that the window cuts off
    before = np.where(window > 0, np.maximum(start - window, 0.0), 0.0)
    return np.asarray(pairs - (beyond * (beyond + 1) - before * (before + 1)) / 2, dtype=np.float64)
