"""Weights, activations and KV cache of one GPU, against hand-made sums and one measured engine."""

import pytest

from kvsim.presets import load_gpus, load_models
from kvsim.scenario.memory import (
    FIXED_BYTES,
    activation_bytes_per_rank,
    kv_block_bytes_per_rank,
    kv_blocks_auto,
    kv_heads_per_rank,
    smallest_tensor_parallel,
    splits_heads,
    weights_bytes_per_rank,
)
from kvsim.sim.hardware import ModelShape

TINY = ModelShape(
    name="tiny",
    layers=2,
    hidden=8,
    heads=4,
    kv_heads=2,
    head_dim=2,
    intermediate=16,
    vocabulary=10,
    experts=1,
    experts_active=1,
    tied_embeddings=True,
    dtype_bytes=2,
    kv_dtype_bytes=1,
    context_tokens_max=100,
)


def test_weights_of_a_tiny_model_by_hand() -> None:
    # attention: 8 x (8 + 2 x 4) + 8 x 8 = 192; MLP: 3 x 8 x 16 = 384; two layers: 1152; embedding 80; 2 bytes each
    assert weights_bytes_per_rank(TINY, 1) == 2 * (2 * (192 + 384) + 80)


def test_two_ranks_hold_half_the_weights_each() -> None:
    assert 2 * weights_bytes_per_rank(TINY, 2) == weights_bytes_per_rank(TINY, 1)


def test_more_ranks_than_kv_heads_copy_kv_heads() -> None:
    assert [kv_heads_per_rank(TINY, ranks) for ranks in (1, 2, 4)] == [2, 1, 1]
    # of 4 ranks each: attention 8 x (2 + 2 x 2) + 2 x 8 = 64 (48 without copies), MLP 96, two layers; embedding 20
    assert weights_bytes_per_rank(TINY, 4) == 2 * (2 * (64 + 96) + 20)
    assert kv_block_bytes_per_rank(TINY, 16, 4) == kv_block_bytes_per_rank(TINY, 16, 2)


def test_a_block_holds_keys_and_values_of_all_layers() -> None:
    # 2 (K, V) x 2 layers x 16 tokens x 2 heads x 2 wide x 1 byte
    assert kv_block_bytes_per_rank(TINY, 16, 1) == 256
    llama = load_models()["llama-3.1-8b"].value
    assert kv_block_bytes_per_rank(llama, 16, 1) == 16 * 131_072


def test_activations_grow_with_the_tokens_of_a_step() -> None:
    # 4 x 8 hidden + 2 x 16 gate and up = 64 elements of 2 bytes for each token
    assert activation_bytes_per_rank(TINY, 100, 1) - FIXED_BYTES == 100 * 128
    assert activation_bytes_per_rank(TINY, 100, 2) - FIXED_BYTES == 100 * 96


def test_automatic_kv_cache_meets_a_measured_engine_within_one_percent() -> None:
    """vLLM 0.19, Llama-3.1-8B on an RTX 4090, utilization 0.9, steps of 2,048 tokens: 2,588 blocks of 16 tokens."""
    gpu = load_gpus()["rtx-4090"].value
    blocks = kv_blocks_auto(load_models()["llama-3.1-8b"].value, gpu.memory_bytes, 0.9, 1, 16, 2048)
    assert blocks == pytest.approx(2588, rel=0.01)


def test_which_numbers_of_ranks_split_the_heads() -> None:
    llama = load_models()["llama-3.1-70b"].value  # 64 heads, 8 KV heads
    assert [ranks for ranks in range(1, 65) if splits_heads(llama, ranks)] == [1, 2, 4, 8, 16, 32, 64]
    qwen = load_models()["qwen2.5-7b"].value  # 28 heads, 4 KV heads
    assert [ranks for ranks in range(1, 29) if splits_heads(qwen, ranks)] == [1, 2, 4, 28]


def test_the_fewest_gpus_that_hold_a_model() -> None:
    models, gpus = load_models(), load_gpus()
    h100, a10g = gpus["h100-sxm"].value.memory_bytes, gpus["a10g"].value.memory_bytes
    assert smallest_tensor_parallel(models["llama-3.1-8b"].value, h100, 0.9, 16, 2048) == 1
    assert smallest_tensor_parallel(models["llama-3.1-70b"].value, h100, 0.9, 16, 2048) == 2  # 131 GiB over 2 x 71
    assert smallest_tensor_parallel(models["llama-3.1-70b"].value, a10g, 0.9, 16, 2048) == 8  # 131 GiB over 8 x 19.8
    assert smallest_tensor_parallel(models["llama-3.1-70b"].value, 2**30, 0.9, 16, 2048) is None
