"""How long single kernels take: laws with a few constants that mean something, the same for every shape.

A kernel takes its start, and then as long as the slower of its arithmetic and its memory traffic plus the ``exposed``
share of the faster: a part of either cannot overlap with the other, as the first loads and the last stores (roofline
model: Williams, Waterman and Patterson, CACM 52(4), 2009, with an overlap that is not perfect). Without the constants
of ``KernelSpec`` what is left is the plain roofline. ``kvsim.profile.laws`` says the same over whole tables, to fit
them. Seconds are floats. This module must not know models or steps.
"""

from collections.abc import Sequence

from kvsim.core.integers import div_ceil
from kvsim.sim.hardware import GpuSpec, KernelSpec


def gemm_s(gpu: GpuSpec, rows: int, inputs: int, outputs: int, dtype_bytes: int, matrices: float = 1.0) -> float:
    """A matrix product: (rows x inputs) by (inputs x outputs).

    2 * rows * inputs * outputs FLOPs (a multiplication and an addition each); the weights of ``matrices`` matrices
    (the rows are spread over them), the input and the output pass memory once. One unit works through the inputs in a
    row, which takes its time however few products there are.
    """
    return GemmLaw(gpu, dtype_bytes).seconds(rows, inputs, outputs, matrices)


class GemmLaw:
    """``gemm_s`` of one GPU, its constants at hand: a step asks it several times."""

    def __init__(self, gpu: GpuSpec, dtype_bytes: int) -> None:
        self._dtype_bytes = dtype_bytes
        self._flops_per_s = gpu.flops_per_s * gpu.gemm_efficiency
        self._memory_bytes_per_s = gpu.memory_bytes_per_s * gpu.memory_efficiency
        self._latency_ns = gpu.kernels.gemm_latency_ns
        self._input_latency_ns = gpu.kernels.gemm_input_latency_ns
        self._exposed = gpu.kernels.gemm_exposed

    def seconds(self, rows: int, inputs: int, outputs: int, matrices: float = 1.0) -> float:
        """See ``gemm_s``."""
        compute_s = 2 * rows * inputs * outputs / self._flops_per_s
        size_bytes = self._dtype_bytes * (matrices * inputs * outputs + rows * (inputs + outputs))
        memory_s = size_bytes / self._memory_bytes_per_s
        start_s = (self._latency_ns + self._input_latency_ns * inputs / 1024) / 1e9
        return start_s + overlapped_s(compute_s, memory_s, self._exposed)


def attention_pair_s(gpu: GpuSpec, head_dim: int) -> float:
    """Arithmetic of attention for one query head and one pair (query token, attended token).

    2 * head_dim FLOPs for the score and as many for the weighted sum of V, together 4 * head_dim (Narayanan et al.,
    arXiv 2104.04473, appendix; Dao, arXiv 2307.08691, section 4.1). The exponential of the score counts as
    ``attention_softmax_dim`` more elements of the head.
    """
    flops = 4 * (head_dim + gpu.kernels.attention_softmax_dim)
    return flops / (gpu.flops_per_s * gpu.prefill_attention_efficiency)


def prompt_pairs(
    kernels: KernelSpec, heads: int, kv_heads: int, chunks: Sequence[tuple[int, int]]
) -> tuple[float, float]:
    """Pairs that causal attention over ``chunks`` of prompts, (start token, tokens) each, computes, all heads together;
    and what the arithmetic of the whole GPU would do in the time of the longest tile.

    Token j of a chunk (from 0) attends to ``start + j + 1`` tokens. The rows of a tile all cost as much, filled or not:
    the query heads that share a KV head fill it together (FlashAttention, Shah et al., arXiv 2407.08608), and each tile
    costs as if it attended to ``attention_fill_tokens`` more. One unit computes a tile, so a tile that attends to much
    keeps the step waiting where there are too few for all units.
    """
    rows, total, longest = kernels.attention_tile_rows, 0.0, 0.0
    for start, tokens in chunks:
        pairs = heads * (tokens * start + tokens * (tokens + 1) / 2)
        if rows:
            tile_rows = kv_heads * rows * div_ceil(tokens * div_ceil(heads, kv_heads), rows)
            attended = start + (tokens + 1) / 2
            pairs = max(pairs, tile_rows * attended) + tile_rows * kernels.attention_fill_tokens
            longest = max(longest, rows * (attended + kernels.attention_fill_tokens))
        total += pairs
    return total, longest * kernels.attention_units


def decode_tile_pairs(kernels: KernelSpec, heads: int, kv_heads: int) -> int:
    """What the tiles of one decoding request cost beside its context, in pairs. The units share its context."""
    rows = kernels.attention_tile_rows
    if not rows:
        return 0
    return kv_heads * rows * div_ceil(div_ceil(heads, kv_heads), rows) * kernels.attention_fill_tokens


def kv_read_s(gpu: GpuSpec, kv_width: int, kv_dtype_bytes: int, tokens: int) -> float:
    """Reading K and V of ``tokens``, ``kv_width`` elements each, at the bandwidth that decode attention reaches."""
    return 2 * kv_width * kv_dtype_bytes * tokens / (gpu.memory_bytes_per_s * gpu.decode_attention_efficiency)


def overlapped_s(one_s: float, other_s: float, exposed: float) -> float:
    """Two things that go on at once, but for the ``exposed`` share of the shorter."""
    if one_s < other_s:
        return other_s + exposed * one_s
    return one_s + exposed * other_s
