"""How long single kernels take: laws with a few constants that mean something, the same for every shape.

A kernel takes its start, and then as long as the slower of its arithmetic and its memory traffic plus the ``exposed``
share of the faster: a part of either cannot overlap with the other, as the first loads and the last stores (roofline
model: Williams, Waterman and Patterson, CACM 52(4), 2009, with an overlap that is not perfect). Without the constants
of ``KernelSpec`` what is left is the plain roofline. ``kvsim.profile.laws`` says the same over whole tables, to fit
them. Seconds are floats. This module must not know models or steps.
"""

from kvsim.sim.hardware import GpuSpec
from kvsim.units import div_ceil

TILE_ROWS = 128
"""Query rows of one tile of attention; the query heads that share a KV head fill it together (FlashAttention-3's tile,
Shah et al., arXiv 2407.08608, and its packing of grouped queries)."""


def gemm_s(gpu: GpuSpec, rows: int, inputs: int, outputs: int, dtype_bytes: int, matrices: float = 1.0) -> float:
    """A matrix product: (rows x inputs) by (inputs x outputs).

    2 * rows * inputs * outputs FLOPs (a multiplication and an addition each); the weights of ``matrices`` matrices
    (the rows are spread over them), the input and the output pass memory once. One unit works through the inputs in a
    row, which takes its time however few products there are.
    """
    kernels = gpu.kernels
    compute_s = 2 * rows * inputs * outputs / (gpu.flops_per_s * gpu.gemm_efficiency)
    size_bytes = dtype_bytes * (matrices * inputs * outputs + rows * (inputs + outputs))
    memory_s = size_bytes / (gpu.memory_bytes_per_s * gpu.memory_efficiency)
    start_s = (kernels.gemm_latency_ns + kernels.gemm_input_latency_ns * inputs / 1024) / 1e9
    return start_s + overlapped_s(compute_s, memory_s, kernels.gemm_exposed)


def attention_pairs_s(gpu: GpuSpec, heads: int, head_dim: int, pairs: int) -> float:
    """Arithmetic of attention over ``pairs`` (query token, attended token) of each of ``heads`` query heads.

    2 * head_dim FLOPs per head and pair for the scores and as many for the weighted sum of V, together 4 * heads *
    head_dim (Narayanan et al., arXiv 2104.04473, appendix; Dao, arXiv 2307.08691, section 4.1). The exponential of each
    score counts as ``attention_softmax_dim`` more elements of the head.
    """
    flops = 4 * heads * (head_dim + gpu.kernels.attention_softmax_dim) * pairs
    return flops / (gpu.flops_per_s * gpu.prefill_attention_efficiency)


def attention_tiles_s(gpu: GpuSpec, heads: int, kv_heads: int, head_dim: int, query_tokens: int) -> float:
    """What the tiles of one request cost beside their pairs: each as if its rows attended to
    ``attention_fill_tokens`` more."""
    fill_tokens = gpu.kernels.attention_fill_tokens
    if not fill_tokens:
        return 0.0
    tiles = kv_heads * div_ceil(query_tokens * div_ceil(heads, kv_heads), TILE_ROWS)
    return attention_pairs_s(gpu, 1, head_dim, tiles * TILE_ROWS * fill_tokens)


def kv_read_s(gpu: GpuSpec, kv_width: int, kv_dtype_bytes: int, tokens: int) -> float:
    """Reading K and V of ``tokens``, ``kv_width`` elements each, at the bandwidth that decode attention reaches."""
    return 2 * kv_width * kv_dtype_bytes * tokens / (gpu.memory_bytes_per_s * gpu.decode_attention_efficiency)


def overlapped_s(one_s: float, other_s: float, exposed: float) -> float:
    """Two things that go on at once, but for the ``exposed`` share of the shorter."""
    if one_s < other_s:
        return other_s + exposed * one_s
    return one_s + exposed * other_s
