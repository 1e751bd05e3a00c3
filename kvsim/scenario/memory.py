"""How much memory weights, activations and KV cache take on one GPU of a tensor-parallel worker.

Plain arithmetic over a model's shape. ``per rank`` means on one of ``tensor_parallel`` GPUs; all are alike, so one
of them decides how many blocks a worker has. It must not know scenario files.
"""

from kvsim.sim.hardware import ModelShape
from kvsim.units import div_ceil

FIXED_BYTES = 2**30
"""CUDA context, CUDA graphs, communication buffers, logits and workspaces of one GPU. With it, a vLLM 0.19 run of
Llama-3.1-8B on an RTX 4090 (casys-kaist/LLMServingSim 2.0: 2,588 blocks at a memory utilization of 0.9) is met within
1 %. Engines measure it at start, and it differs between them: give ``kv_blocks`` where the true figure is known."""

_RANKS_MAX = 64  # more GPUs than any node that shares memory bandwidth has


def splits_heads(model: ModelShape, tensor_parallel: int) -> bool:
    """Whether each rank gets whole query heads, and whole KV heads or one copy of a KV head."""
    divides_kv = model.kv_heads % tensor_parallel == 0 or tensor_parallel % model.kv_heads == 0
    return model.heads % tensor_parallel == 0 and divides_kv


def kv_heads_per_rank(model: ModelShape, tensor_parallel: int) -> int:
    """KV heads on one rank. With more ranks than KV heads each rank holds one, and some hold the same."""
    return div_ceil(model.kv_heads, tensor_parallel)


def parameters(model: ModelShape) -> int:
    """Weights of the whole model, norms and biases left out (below 0.02 % in the presets)."""
    return _layer_parameters(model, 1) * model.layers + _embedding_parameters(model)


def weights_bytes_per_rank(model: ModelShape, tensor_parallel: int) -> int:
    """Bytes of weights on one rank: matrices are cut evenly, copies of KV heads and the MoE router are not."""
    embedding = div_ceil(_embedding_parameters(model), tensor_parallel)
    return model.dtype_bytes * (_layer_parameters(model, tensor_parallel) * model.layers + embedding)


def activation_bytes_per_rank(model: ModelShape, step_tokens: int, tensor_parallel: int) -> int:
    """What one rank needs beside weights and KV cache for steps of up to ``step_tokens`` tokens.

    The widest point of a layer is its MLP: gate and up (cut over the ranks, one pair for each active expert) beside
    four tensors of the hidden state (residual, norm, input and output); on top of FIXED_BYTES.
    """
    widest = 4 * model.hidden + 2 * model.experts_active * div_ceil(model.intermediate, tensor_parallel)
    return FIXED_BYTES + step_tokens * widest * model.dtype_bytes


def kv_block_bytes_per_rank(model: ModelShape, block_tokens: int, tensor_parallel: int) -> int:
    """Bytes of one block on one rank: K and V of every layer for ``block_tokens`` tokens and the rank's KV heads."""
    heads = kv_heads_per_rank(model, tensor_parallel)
    return 2 * model.layers * block_tokens * heads * model.head_dim * model.kv_dtype_bytes


def kv_blocks_auto(
    model: ModelShape,
    gpu_memory_bytes: int,
    memory_utilization: float,
    tensor_parallel: int,
    block_tokens: int,
    step_tokens: int,
) -> int:
    """Blocks that fit beside weights and activations; 0 or less where the model itself does not fit."""
    usable_bytes = int(gpu_memory_bytes * memory_utilization)
    taken_bytes = weights_bytes_per_rank(model, tensor_parallel)
    taken_bytes += activation_bytes_per_rank(model, step_tokens, tensor_parallel)
    return (usable_bytes - taken_bytes) // kv_block_bytes_per_rank(model, block_tokens, tensor_parallel)


def smallest_tensor_parallel(
    model: ModelShape, gpu_memory_bytes: int, memory_utilization: float, block_tokens: int, step_tokens: int
) -> int | None:
    """The fewest GPUs that hold the model and at least one block; None if no number up to 64 does."""
    for ranks in range(1, _RANKS_MAX + 1):
        if splits_heads(model, ranks):
            blocks = kv_blocks_auto(model, gpu_memory_bytes, memory_utilization, ranks, block_tokens, step_tokens)
            if blocks > 0:
                return ranks
    return None


def _layer_parameters(model: ModelShape, tensor_parallel: int) -> int:
    """Of one layer on one rank: Q, K, V and output projections, gated MLPs (three matrices each), router."""
    query_width = div_ceil(model.heads, tensor_parallel) * model.head_dim
    kv_width = kv_heads_per_rank(model, tensor_parallel) * model.head_dim
    attention = model.hidden * (query_width + 2 * kv_width) + query_width * model.hidden
    mlp = 3 * model.hidden * div_ceil(model.intermediate, tensor_parallel) * model.experts
    router = model.hidden * model.experts if model.experts > 1 else 0
    return attention + mlp + router


def _embedding_parameters(model: ModelShape) -> int:
    """The embedding table and, unless it shares the table, the LM head."""
    return model.vocabulary * model.hidden * (1 if model.tied_embeddings else 2)
