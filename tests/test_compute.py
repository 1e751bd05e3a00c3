"""The step model against numbers computed by hand, and the directions in which it must move.

The machine of the hand-computed cases does a FLOP or moves a byte in one nanosecond and is infinitely fast otherwise.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kvsim.sim.compute import StepModel
from kvsim.sim.hardware import GpuSpec, ModelShape

TINY = ModelShape(
    name="tiny",
    layers=2,
    hidden=4,
    heads=2,
    kv_heads=1,
    head_dim=2,
    intermediate=8,
    vocabulary=10,
    experts=1,
    experts_active=1,
    tied_embeddings=False,
    dtype_bytes=2,
    kv_dtype_bytes=2,
    context_tokens_max=1000,
)
TINY_MOE = replace(TINY, experts=4, experts_active=2)
INFINITE = 1e30
COMPUTE_BOUND = GpuSpec(
    name="a FLOP a nanosecond",
    flops_per_s=1e9,
    memory_bytes=1,
    memory_bytes_per_s=INFINITE,
    gemm_efficiency=1.0,
    prefill_attention_efficiency=1.0,
    decode_attention_efficiency=1.0,
    memory_efficiency=1.0,
    collective_bytes_per_s=INFINITE,
    collective_latency_ns=0,
    launch_ns=0,
    step_ns=0,
)
MEMORY_BOUND = replace(COMPUTE_BOUND, flops_per_s=INFINITE, memory_bytes_per_s=1e9)
LARGE = ModelShape("70B", 80, 8192, 64, 8, 128, 28672, 128256, 1, 1, False, 2, 2, 131072)
FAST = GpuSpec("fast", 989e12, 80 << 30, 3.35e12, 0.7, 0.5, 0.7, 0.8, 300e9, 10_000, 5_000, 500_000)


def ns(seconds: float) -> object:
    """Nanoseconds, to compare with a number computed by hand."""
    return pytest.approx(seconds * 1e9, rel=1e-9)


def test_flops_of_a_prompt_by_hand() -> None:
    """Per layer and 3 tokens: QKV 2*3*4*8, O 2*3*4*4, gate and up 2*3*4*16, down 2*3*8*4; attention 4*2*2 * (1+2+3)."""
    costs = StepModel(TINY, COMPUTE_BOUND, 1).breakdown_prefill([(0, 3)], 0, 0)
    assert ns(costs.qkv_s) == 2 * 192
    assert ns(costs.attention_output_s) == 2 * 96
    assert ns(costs.mlp_s) == 2 * (384 + 192)
    assert ns(costs.prompt_attention_s) == 2 * 96
    assert ns(costs.lm_head_s) == 80  # the last token only
    assert costs.router_s == costs.collectives_s == costs.overhead_s == 0
    assert StepModel(TINY, COMPUTE_BOUND, 1).prefill_ns([(0, 3)], 0, 0) == 2000


def test_a_later_chunk_attends_to_what_is_cached() -> None:
    """Tokens 10 and 11 attend to 11 and 12 tokens: 4*2*2 * 23 FLOPs in each of 2 layers."""
    costs = StepModel(TINY, COMPUTE_BOUND, 1).breakdown_prefill([(10, 2)], 0, 0)
    assert ns(costs.prompt_attention_s) == 2 * 16 * 23


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_chunks_of_a_prompt_attend_as_much_as_the_whole(first: int, rest: int) -> None:
    model = StepModel(TINY, COMPUTE_BOUND, 1)
    whole_s = model.breakdown_prefill([(0, first + rest)], 0, 0).prompt_attention_s
    parts = [(0, first), (first, rest)] if first else [(0, rest)]
    parts_s = sum(model.breakdown_prefill([part], 0, 0).prompt_attention_s for part in parts)
    assert parts_s == pytest.approx(whole_s, rel=1e-9)


def test_bytes_of_a_decode_by_hand() -> None:
    """In bytes: weights and activations of each product, norms and gates, embedding, LM head, KV of 5 tokens."""
    costs = StepModel(TINY, MEMORY_BOUND, 1).breakdown_prefill([], 1, 5)
    assert ns(costs.qkv_s) == 2 * 2 * (4 * 8 + 4 + 8)
    assert ns(costs.attention_output_s) == 2 * 2 * (4 * 4 + 4 + 4)
    assert ns(costs.mlp_s) == 2 * 2 * (4 * 16 + 4 + 16 + 8 * 4 + 8 + 4)
    assert ns(costs.activations_s) == 2 * 2 * (8 * 4 + 2 * 8 + 2 * 4 + 3 * 8)
    assert ns(costs.embedding_s) == 2 * 2 * 4
    assert ns(costs.lm_head_s) == 2 * (4 * 10 + 4 + 10)
    assert ns(costs.decode_attention_s) == 2 * 2 * 2 * 2 * 5
    assert StepModel(TINY, MEMORY_BOUND, 1).decode_fs(1) == (1228 * 10**6, 16 * 10**6)
    assert StepModel(TINY, MEMORY_BOUND, 1).prefill_ns([], 1, 5) == 1308


def test_weights_are_read_of_the_experts_that_any_token_is_expected_to_pick() -> None:
    """2 of 4 experts each: 4 * (1 - 0.5**2) = 3 experts for 2 tokens, whose 4 rows pass them."""
    costs = StepModel(TINY_MOE, MEMORY_BOUND, 1).breakdown_prefill([], 2, 2)
    assert ns(costs.mlp_s) == 2 * 2 * (3 * 4 * 16 + 4 * (4 + 16) + 3 * 8 * 4 + 4 * (8 + 4))
    assert ns(costs.router_s) == 2 * 2 * (4 * 4 + 2 * (4 + 4))


def test_experts_compute_for_the_active_ones_only() -> None:
    dense = StepModel(TINY, COMPUTE_BOUND, 1).breakdown_prefill([(0, 3)], 0, 0)
    moe = StepModel(TINY_MOE, COMPUTE_BOUND, 1).breakdown_prefill([(0, 3)], 0, 0)
    assert moe.mlp_s == pytest.approx(2 * dense.mlp_s)
    assert ns(moe.router_s) == 2 * 2 * 3 * 4 * 4


def test_experts_are_cheaper_than_a_dense_model_with_as_many_weights() -> None:
    experts = replace(LARGE, intermediate=3584, experts=8, experts_active=2)
    dense, moe = StepModel(LARGE, FAST, 8), StepModel(experts, FAST, 8)
    assert moe.prefill_ns([(0, 4096)], 0, 0) < dense.prefill_ns([(0, 4096)], 0, 0)
    assert moe.prefill_ns([], 1, 4096) < dense.prefill_ns([], 1, 4096)


def test_a_large_decode_batch_reads_all_experts_and_saves_nothing() -> None:
    experts = replace(LARGE, intermediate=3584, experts=8, experts_active=2)
    dense_s = StepModel(LARGE, FAST, 8).breakdown_prefill([], 64, 64).mlp_s
    moe_s = StepModel(experts, FAST, 8).breakdown_prefill([], 64, 64).mlp_s
    assert moe_s == pytest.approx(dense_s, rel=0.02)


def test_tensor_parallelism_halves_the_products() -> None:
    one = StepModel(TINY, COMPUTE_BOUND, 1).breakdown_prefill([(0, 3)], 0, 0)
    two = StepModel(replace(TINY, kv_heads=2), COMPUTE_BOUND, 2).breakdown_prefill([(0, 3)], 0, 0)
    assert two.mlp_s == pytest.approx(one.mlp_s / 2)
    assert two.attention_output_s == pytest.approx(one.attention_output_s / 2)
    assert two.prompt_attention_s == pytest.approx(one.prompt_attention_s / 2)
    large = [StepModel(LARGE, FAST, ranks).breakdown_prefill([(0, 8192)], 0, 0).gemm_s for ranks in (1, 2, 4, 8)]
    assert large == pytest.approx([large[0], large[0] / 2, large[0] / 4, large[0] / 8], rel=1e-3)


def test_kv_heads_are_copied_when_there_are_more_gpus() -> None:
    """One KV head on two GPUs: each reads all of it. Two KV heads: each reads one."""
    fs_per_token = {
        heads: StepModel(replace(TINY, kv_heads=heads), MEMORY_BOUND, 2).decode_fs(1)[1] for heads in (1, 2)
    }
    assert fs_per_token == {1: 16 * 10**6, 2: 16 * 10**6}
    assert StepModel(replace(TINY, kv_heads=2), MEMORY_BOUND, 1).decode_fs(1)[1] == 32 * 10**6


def test_each_layer_has_two_ring_all_reduces() -> None:
    """3 tokens of 4 values of 2 bytes: each of 2 GPUs sends 2 * 1/2 * 24 bytes, a nanosecond each, plus 7 ns."""
    gpu = replace(COMPUTE_BOUND, collective_bytes_per_s=1e9, collective_latency_ns=7)
    assert ns(StepModel(TINY, gpu, 2).breakdown_prefill([(0, 3)], 0, 0).collectives_s) == 2 * 2 * (24 + 7)
    assert StepModel(TINY, gpu, 1).breakdown_prefill([(0, 3)], 0, 0).collectives_s == 0


def test_launches_count_per_layer_and_the_step_once() -> None:
    gpu = replace(COMPUTE_BOUND, launch_ns=100, step_ns=1000)
    assert StepModel(TINY, gpu, 1).prefill_ns([(0, 3)], 0, 0) == 2000 + 2 * 100 + 1000


def test_efficiencies_stretch_their_own_class() -> None:
    halves = replace(COMPUTE_BOUND, gemm_efficiency=0.5)
    assert StepModel(TINY, halves, 1).prefill_ns([(0, 3)], 0, 0) == 2 * (2000 - 192) + 192
    slow_attention = replace(COMPUTE_BOUND, prefill_attention_efficiency=0.5)
    assert StepModel(TINY, slow_attention, 1).prefill_ns([(0, 3)], 0, 0) == 2000 + 192
    slow_kv = replace(MEMORY_BOUND, decode_attention_efficiency=0.5)
    assert StepModel(TINY, slow_kv, 1).decode_fs(1) == (1228 * 10**6, 32 * 10**6)


@given(st.integers(1, 300), st.integers(0, 10**6))
def test_a_decode_step_costs_the_same_by_both_ways(batch: int, more_context_tokens: int) -> None:
    model = StepModel(LARGE, FAST, 8)
    context_tokens = batch + more_context_tokens
    base_fs, fs_per_context_token = model.decode_fs(batch)
    decode_ns = (base_fs + fs_per_context_token * context_tokens) // 10**6
    assert model.prefill_ns([], batch, context_tokens) == decode_ns
    costs_ns = model.breakdown_prefill([], batch, context_tokens).total_s * 1e9
    assert decode_ns == pytest.approx(costs_ns, abs=2)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(0, 30_000), st.integers(0, 200))
def test_more_of_anything_never_costs_less(tokens: int, more: int, start: int, batch: int) -> None:
    model = StepModel(LARGE, FAST, 8)
    context_tokens = 1000 * batch
    step_ns = model.prefill_ns([(start, tokens)], batch, context_tokens)
    assert model.prefill_ns([(start, tokens + more)], batch, context_tokens) > step_ns
    assert model.prefill_ns([(start + more, tokens)], batch, context_tokens) >= step_ns
    assert model.prefill_ns([(start, tokens), (0, more)], batch, context_tokens) > step_ns
    assert model.prefill_ns([(start, tokens)], batch + more, context_tokens + more) > step_ns
    assert model.decode_fs(batch + more) > model.decode_fs(batch + 1) or more == 1


def test_the_breakdown_adds_up_to_the_step() -> None:
    model = StepModel(replace(LARGE, intermediate=14336, experts=8, experts_active=2), FAST, 4)
    step = ([(0, 1000), (512, 700)], 20, 30_000)
    assert model.prefill_ns(*step) == pytest.approx(model.breakdown_prefill(*step).total_s * 1e9, abs=2)
    costs = model.breakdown_prefill(*step)
    assert costs.total_s == pytest.approx(
        costs.gemm_s
        + costs.attention_s
        + costs.activations_s
        + costs.embedding_s
        + costs.collectives_s
        + costs.overhead_s
    )


def test_a_large_model_lands_where_arithmetic_says() -> None:
    """68.5e9 weights in the layers' products, 1.05e9 in the LM head; 692e12 FLOP/s and 2.68e12 B/s on each of 8 GPUs.

    8,192 prompt tokens: 2 * 68.5e9 * 8192 FLOPs take 0.203 s. One decode: 139 GB of weights take 6.5 ms.
    """
    gemm_s = StepModel(LARGE, FAST, 8).breakdown_prefill([(0, 8192)], 0, 0).gemm_s
    assert gemm_s == pytest.approx(0.203, rel=0.01)
    assert StepModel(LARGE, FAST, 8).breakdown_prefill([], 1, 1).gemm_s == pytest.approx(6.5e-3, rel=0.01)
