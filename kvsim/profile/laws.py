"""The laws of ``kvsim.sim.kernels`` over whole tables at once, to fit and to check them.

The tables are those of ``kvsim.profile.kernel_tables``. A test holds both against each other. It must not know files.
"""

from typing import TYPE_CHECKING

import numpy as np

from kvsim.profile.kernel_tables import attended_pairs, element_bytes
from kvsim.profile.least_squares import Floats
from kvsim.sim.hardware import GpuSpec

if TYPE_CHECKING:
    import pandas as pd


def predicted_seconds(name: str, table: "pd.DataFrame", gpu: GpuSpec) -> Floats:
    """Seconds of each row of the table ``name``. Operands of one byte run at twice the peak."""
    return gemm_seconds(table, gpu) if name == "gemm" else attention_seconds(name, table, gpu)


def gemm_seconds(table: "pd.DataFrame", gpu: GpuSpec) -> Floats:
    """Products of (m x k) by (k x n)."""
    m, n, k = _columns(table, "m", "n", "k")
    size = element_bytes(table["dtype"])
    compute_s = 2 * m * n * k / (gpu.flops_per_s * gpu.gemm_efficiency * 2 / size)
    memory_s = size * (k * n + m * (k + n)) / (gpu.memory_bytes_per_s * gpu.memory_efficiency)
    kernels = gpu.kernels
    start_s = (kernels.gemm_latency_ns + kernels.gemm_input_latency_ns * k / 1024) / 1e9
    return start_s + _overlapped(compute_s, memory_s, kernels.gemm_exposed)


def attention_seconds(name: str, table: "pd.DataFrame", gpu: GpuSpec) -> Floats:
    """Attention of one layer with what always goes with it: Q is read, the output written, new K and V are read and
    written to the cache, which a step counts among its activations."""
    batch, heads, kv_heads, dim, window, tokens = _columns(
        table, "batch", "heads", "kv_heads", "head_dim", "window", "tokens"
    )
    kernels = gpu.kernels
    prompts = name == "context_attention"
    queries = tokens if prompts else np.ones_like(tokens)
    size, kv_size = element_bytes(table["dtype"]), element_bytes(table["kv_dtype"])
    per_pair_s = 4 * (dim + kernels.attention_softmax_dim) / (gpu.flops_per_s * gpu.prefill_attention_efficiency)
    pairs = batch * heads * attended_pairs(name, table)
    tile_rows, longest = np.zeros_like(pairs), np.zeros_like(pairs)
    if kernels.attention_tile_rows:
        rows = kernels.attention_tile_rows
        tile_rows = rows * batch * kv_heads * np.ceil(queries * np.ceil(heads / kv_heads) / rows)
        if prompts:
            attended = attended_pairs(name, table) / tokens
            pairs = np.maximum(pairs, tile_rows * attended)
            longest = kernels.attention_units * rows * (attended + kernels.attention_fill_tokens)
    if prompts:
        seen = tokens + table["start"].to_numpy(dtype=np.float64)
    else:
        seen = np.where(window > 0, np.minimum(window, tokens), tokens)
    read_s = 2 * batch * kv_heads * dim * kv_size * seen / (gpu.memory_bytes_per_s * gpu.decode_attention_efficiency)
    moved_bytes = 2 * batch * queries * dim * (heads * size + kv_heads * (size + kv_size))
    moved_s = moved_bytes / (gpu.memory_bytes_per_s * gpu.memory_efficiency)
    if prompts:
        compute_s = per_pair_s * np.maximum(pairs + tile_rows * kernels.attention_fill_tokens, longest)
        kernel_s = _overlapped(compute_s, read_s, kernels.attention_exposed)
    else:
        tiles_s = per_pair_s * tile_rows * kernels.attention_fill_tokens
        kernel_s = tiles_s + np.maximum(per_pair_s * pairs, read_s)
    return kernels.attention_latency_ns / 1e9 + kernel_s + moved_s


def _overlapped(one_s: Floats, other_s: Floats, exposed: float) -> Floats:
    return np.asarray(np.maximum(one_s, other_s) + exposed * np.minimum(one_s, other_s), dtype=np.float64)


def _columns(table: "pd.DataFrame", *names: str) -> list[Floats]:
    return [table[name].to_numpy(dtype=np.float64) for name in names]
