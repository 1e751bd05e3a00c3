"""Weights, activations and KV cache of one GPU, against hand-made sums and one measured engine."""

import pytest
from msgspec.structs import replace

from kvsim.presets import load_gpus, load_models
from kvsim.scenario.memory import (
    Budget,
    forward_bytes_per_rank,
    kv_block_bytes_per_rank,
    kv_heads_per_rank,
    kv_memory,
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
    assert forward_bytes_per_rank(TINY, 100, 1) == 100 * 128
    assert forward_bytes_per_rank(TINY, 100, 2) == 100 * 96


def test_the_derivation_of_a_tiny_cache_by_hand() -> None:
    memory = kv_memory(
        TINY, 1, Budget(10_000, 0.9, 16, step_tokens=20, step_requests=5, logit_bytes=10, runtime_bytes=1)
    )
    assert memory.usable_bytes == 9000
    assert memory.weights_bytes == 2464
    assert memory.rotary_bytes == 100 * 2 * 2
    assert memory.forward_bytes == 20 * 128
    assert memory.sampler_bytes == 10 * 5 * 10 + 20 * 8 * 2  # 5 x 10 logits, hidden states of 20 tokens
    assert memory.taken_bytes == 2464 + 400 + 2560 + 1  # the larger peak, not both
    assert memory.blocks == (9000 - 5425) // 256


def test_graphs_and_a_larger_batch_cost_blocks() -> None:
    llama = load_models()["llama-3.1-8b"].value
    budget = Budget(24 * 2**30, 0.9, 16, step_tokens=2048, step_requests=256)
    blocks = kv_memory(llama, 1, budget).blocks
    assert kv_memory(llama, 1, budget._replace(graph_bytes=2**21)).blocks == blocks - 1
    assert kv_memory(llama, 1, budget._replace(step_requests=512)).blocks == pytest.approx(blocks - 501, abs=1)


def test_automatic_kv_cache_meets_the_run_that_its_constant_was_taken_from() -> None:
    """vLLM 0.19, Llama-3.1-8B on an RTX 4090, utilization 0.9, 256 requests, 2,048 tokens: 2,588 blocks of 16."""
    gpu = load_gpus()["rtx-4090"].value
    budget = Budget(gpu.memory_bytes, 0.9, 16, step_tokens=2048, step_requests=256)
    assert kv_memory(load_models()["llama-3.1-8b"].value, 1, budget).blocks == pytest.approx(2588, abs=3)


@pytest.mark.parametrize(
    ("name", "ranks", "weights_gib", "peak_gib", "kv_gib"),
    [
        ("llama-3.1-8b", 1, 14.99, 4.76, 51.38),
        ("qwen3-32b", 1, 61.03, 5.64, 4.45),
        ("qwen3-32b", 2, 30.59, 5.64, 34.49),
    ],
)
def test_logs_of_another_version_are_met_with_its_logit_memory(
    name: str, ranks: int, weights_gib: float, peak_gib: float, kv_gib: float
) -> None:
    """vLLM 0.11 on an H100 of 79.18 GiB, 1,024 requests and 8,192 tokens, as its debug log tells (public notes of an
    llm-d user). The constant 38.3 stands for five models; these are two of them, and two GPUs are not fitted at all."""
    llama = load_models()["llama-3.1-8b"].value
    qwen = replace(
        llama, layers=64, hidden=5120, heads=64, intermediate=25600, vocabulary=151936, context_tokens_max=40960
    )
    model = {"llama-3.1-8b": llama, "qwen3-32b": qwen}[name]
    budget = Budget(int(79.18 * 2**30), 0.9, 16, step_tokens=8192, step_requests=1024, logit_bytes=38.3)
    memory = kv_memory(model, ranks, budget)
    assert (memory.weights_bytes + memory.rotary_bytes) / 2**30 == pytest.approx(weights_gib, rel=0.003)
    assert max(memory.forward_bytes, memory.sampler_bytes) / 2**30 == pytest.approx(peak_gib, rel=0.005)
    assert (memory.usable_bytes - memory.taken_bytes) / 2**30 == pytest.approx(kv_gib, abs=0.1)


def test_which_numbers_of_ranks_split_the_heads() -> None:
    llama = load_models()["llama-3.1-70b"].value  # 64 heads, 8 KV heads
    assert [ranks for ranks in range(1, 65) if splits_heads(llama, ranks)] == [1, 2, 4, 8, 16, 32, 64]
    qwen = load_models()["qwen2.5-7b"].value  # 28 heads, 4 KV heads
    assert [ranks for ranks in range(1, 29) if splits_heads(qwen, ranks)] == [1, 2, 4, 28]


def test_the_fewest_gpus_that_hold_a_model() -> None:
    models, gpus = load_models(), load_gpus()
    h100, a10g = gpus["h100-sxm"].value.memory_bytes, gpus["a10g"].value.memory_bytes

    def smallest(name: str, memory_bytes: int) -> int | None:
        return smallest_tensor_parallel(models[name].value, Budget(memory_bytes, 0.9, 16, 2048, 256))

    assert smallest("llama-3.1-8b", h100) == 1
    assert smallest("llama-3.1-70b", h100) == 2  # 131 GiB over 2 x 71
    assert smallest("llama-3.1-70b", a10g) == 8  # 131 GiB over 8 x 19.8
    assert smallest("llama-3.1-70b", 2**30) is None
