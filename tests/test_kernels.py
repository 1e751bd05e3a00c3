"""The laws of single kernels against numbers computed by hand, and the same laws over tables."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kvsim.presets import load_gpus
from kvsim.profile.laws import predicted_seconds
from kvsim.sim.compute import StepModel
from kvsim.sim.hardware import EngineSpec, GpuSpec, KernelSpec, ModelShape
from kvsim.sim.kernels import (
    attention_pair_s,
    decode_tile_pairs,
    gemm_s,
    kv_read_s,
    overlapped_s,
    prompt_pairs,
)

PLAIN = GpuSpec("plain", 1e9, 1, 1e9, 1.0, 1.0, 1.0, 1.0, 1e30, 0, 0, 0)
"""A FLOP and a byte take a nanosecond each."""

MODEL = ModelShape("tiny", 2, 4, 2, 1, 2, 8, 10, 1, 1, False, 2, 2, 1000)
TILES = KernelSpec(attention_tile_rows=4, attention_units=3, attention_fill_tokens=10)


def ns(seconds: float) -> object:
    return pytest.approx(seconds * 1e9, rel=1e-9)


def test_a_product_takes_its_start_the_longer_of_both_and_the_exposed_share_of_the_shorter() -> None:
    """3 x 1024 by 1024 x 2: 12288 FLOPs, 2 * (2048 + 3 * 1026) = 10252 bytes."""
    assert ns(gemm_s(PLAIN, 3, 1024, 2, 2)) == 12288
    gpu = replace(PLAIN, kernels=KernelSpec(gemm_exposed=0.25, gemm_latency_ns=100, gemm_input_latency_ns=7))
    assert ns(gemm_s(gpu, 3, 1024, 2, 2)) == 100 + 7 + 12288 + 10252 / 4


def test_softmax_makes_heads_wider() -> None:
    assert ns(attention_pair_s(PLAIN, 64)) == 4 * 64
    assert ns(attention_pair_s(replace(PLAIN, kernels=KernelSpec(attention_softmax_dim=32)), 64)) == 4 * 96


def test_a_chunk_attends_to_what_is_before_it_and_to_itself() -> None:
    """2 tokens behind 10 and 8 heads: (11 + 12) pairs a head."""
    assert prompt_pairs(KernelSpec(), 8, 2, [(10, 2)]) == (8 * 23, 0)


def test_tiles_are_full_however_few_rows_they_have_and_the_longest_keeps_the_others_waiting() -> None:
    """2 tokens of 4 heads a KV head fill 8 of 8 rows: 2 tiles of 4 rows for each of 2 KV heads, so 16 rows; each
    attends to 11.5 on average and 10 more. A lone token of one head a KV head fills 1 of 4 rows: 8 rows in all."""
    assert prompt_pairs(TILES, 8, 2, [(10, 2)]) == (16 * 21.5, 3 * 4 * 21.5)
    assert prompt_pairs(TILES, 2, 2, [(10, 1)]) == (8 * 21, 3 * 4 * 21)
    pairs, longest = prompt_pairs(TILES, 2, 2, [(10, 1), (1000, 1)])
    assert (pairs, longest) == (8 * 21 + 8 * 1011, 3 * 4 * 1011)


def test_a_decode_has_a_tile_for_each_kv_head() -> None:
    assert decode_tile_pairs(TILES, 8, 2) == 2 * 4 * 10
    assert decode_tile_pairs(TILES, 16, 2) == 2 * 8 * 10
    assert decode_tile_pairs(KernelSpec(), 16, 2) == 0


@pytest.mark.parametrize(("exposed", "total"), [(0.0, 5.0), (1.0, 8.0), (0.5, 6.5)])
def test_what_overlaps_takes_as_long_as_the_longer(exposed: float, total: float) -> None:
    assert overlapped_s(5.0, 3.0, exposed) == overlapped_s(3.0, 5.0, exposed) == total


def test_a_step_takes_at_least_as_long_as_its_host_launches_it_and_contexts_come_on_top() -> None:
    model = StepModel(MODEL, PLAIN, 1)
    base_fs, token_fs = model.decode_fs(1)
    slow = StepModel(MODEL, replace(PLAIN, engine=EngineSpec(layer_ns=base_fs // 10**6)), 1)
    quick = StepModel(MODEL, replace(PLAIN, engine=EngineSpec(layer_ns=base_fs // 10**6 // 4)), 1)
    assert quick.decode_fs(1) == (base_fs, token_fs)
    assert slow.decode_fs(1) == (2 * (base_fs // 10**6) * 10**6, token_fs)


def test_every_prompt_and_every_request_costs_the_host_its_share() -> None:
    gpu = replace(PLAIN, engine=EngineSpec(prompt_ns=1000, request_ns=10))
    chunks = [(0, 3), (0, 5)]
    plain, engine = StepModel(MODEL, PLAIN, 1), StepModel(MODEL, gpu, 1)
    assert engine.prefill_ns(chunks, 4, 9) - plain.prefill_ns(chunks, 4, 9) == 2 * 1000 + 6 * 10


def test_tokens_beyond_a_long_step_slow_its_all_reduces() -> None:
    """2 layers of 2 all-reduces; 5 tokens beyond 3, 8 bytes each, of which two GPUs send as much."""
    gpu = replace(PLAIN, engine=EngineSpec(long_step_tokens=3, long_step_bytes_per_s=1e9))
    more_s = (
        StepModel(MODEL, gpu, 2).breakdown_prefill([(0, 8)], 0, 0).collectives_s
        - StepModel(MODEL, PLAIN, 2).breakdown_prefill([(0, 8)], 0, 0).collectives_s
    )
    assert ns(more_s) == 4 * 5 * 8
    assert StepModel(MODEL, gpu, 2).prefill_ns([(0, 3)], 0, 0) == StepModel(MODEL, PLAIN, 2).prefill_ns([(0, 3)], 0, 0)


@pytest.mark.parametrize("name", list(load_gpus()))
def test_a_decode_step_is_the_same_whether_it_is_asked_for_as_a_run_or_alone(name: str) -> None:
    llama = ModelShape("8B", 32, 4096, 32, 8, 128, 14336, 128256, 1, 1, False, 2, 2, 131072)
    model = StepModel(llama, load_gpus()[name].value, 1)
    for batch, context_tokens in ((1, 1), (7, 5000), (256, 100_000)):
        base_fs, token_fs = model.decode_fs(batch)
        assert model.prefill_ns([], batch, context_tokens) == (base_fs + token_fs * context_tokens) // 10**6


@settings(max_examples=30)
@given(
    st.sampled_from(["h100-sxm", "rtx-4090"]),
    st.integers(1, 9000),
    st.integers(1, 9000),
    st.integers(1, 70),
    st.sampled_from([(8, 1), (32, 8), (5, 5), (12, 4)]),
    st.integers(0, 5000),
)
def test_tables_are_predicted_by_the_laws_of_single_kernels(
    name: str, m: int, n: int, batch: int, heads: tuple[int, int], start: int
) -> None:
    gpu = load_gpus()[name].value
    gemm = pd.DataFrame({"dtype": ["bfloat16"], "m": [m], "n": [n], "k": [512]})
    assert predicted_seconds("gemm", gemm, gpu)[0] == pytest.approx(gemm_s(gpu, m, 512, n, 2), rel=1e-12)
    row = {"dtype": ["bfloat16"], "kv_dtype": ["bfloat16"], "batch": [batch], "heads": [heads[0]]}
    row |= {"kv_heads": [heads[1]], "head_dim": [128], "window": [0], "tokens": [m]}
    pair_s, latency_s = attention_pair_s(gpu, 128), gpu.kernels.attention_latency_ns / 1e9
    moved_s = 4 * 128 * batch * (heads[0] + 2 * heads[1]) / (gpu.memory_bytes_per_s * gpu.memory_efficiency)

    decode_s = predicted_seconds("generation_attention", pd.DataFrame(row), gpu)[0] - latency_s - moved_s
    read_s = kv_read_s(gpu, heads[1] * 128, 2, batch * m)
    tiles_s = batch * decode_tile_pairs(gpu.kernels, *heads) * pair_s
    assert decode_s == pytest.approx(tiles_s + max(batch * m * heads[0] * pair_s, read_s), rel=1e-9)

    prompts = pd.DataFrame({**row, "start": [start]})
    prompt_s = predicted_seconds("context_attention", prompts, gpu)[0] - latency_s - moved_s * m
    pairs, longest = prompt_pairs(gpu.kernels, *heads, [(start, m)] * batch)
    read_s = kv_read_s(gpu, heads[1] * 128, 2, batch * (start + m))
    expected_s = overlapped_s(max(pairs, longest) * pair_s, read_s, gpu.kernels.attention_exposed)
    assert prompt_s == pytest.approx(expected_s, rel=1e-6)


def test_eight_bit_operands_run_at_twice_the_peak_and_windows_cut_pairs_off() -> None:
    row = {"kv_dtype": ["bfloat16"], "batch": [1], "heads": [1], "kv_heads": [1], "head_dim": [64], "tokens": [4]}
    attention = pd.DataFrame({**row, "dtype": ["bfloat16"], "start": [2], "window": [3]})
    fast_memory = replace(PLAIN, memory_bytes_per_s=1e30)
    assert predicted_seconds("context_attention", attention, fast_memory)[0] * 1e9 == pytest.approx(4 * 64 * 4 * 3)
    gemm = pd.DataFrame({"dtype": ["bfloat16", "fp8"], "m": [8, 8], "n": [8, 8], "k": [8, 8]})
    wide, narrow = predicted_seconds("gemm", gemm, fast_memory)
    assert np.isclose(wide, 2 * narrow)
