"""How much memory weights, activations and KV cache take on one GPU of a tensor-parallel worker.

Plain arithmetic over a model's shape. ``per rank`` means on one of ``tensor_parallel`` GPUs; all are alike, so one
of them decides how many blocks a worker has. It must not know scenario files.
"""

from typing import NamedTuple

from kvsim.core.integers import div_ceil
from kvsim.sim.hardware import ModelShape

LOGIT_BYTES = 32.0
"""What an engine's sampler takes at its peak for each of requests x vocabulary logits (copies, sorted values and their
indices). vLLM profiles it with the largest batch. From what is left over beside weights and runtime in published runs:
38.3 with vLLM 0.11 (five models on an H100, 38.26 to 38.55, whatever the tensor parallelism: logits are gathered), 32
with vLLM 0.19 (Llama-3.1-8B on an RTX 4090, casys-kaist/LLMServingSim 2.0: one run, 2,588 blocks, 2,586 with this)."""

RUNTIME_BYTES = int(0.13 * 2**30)
RUNTIME_PARALLEL_BYTES = int(0.55 * 2**30)
"""What CUDA and libraries take outside of the framework while an engine profiles itself, on a worker of one GPU and of
several (NCCL's buffers): vLLM 0.11 on H100 logs 0.13 to 0.14 GiB and, with two GPUs, 0.54 to 0.55 GiB."""

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


def rotary_bytes(model: ModelShape) -> int:
    """The table of rotary embeddings, cosine and sine of half a head for every position; each rank has a copy."""
    return model.context_tokens_max * model.head_dim * model.dtype_bytes


def forward_bytes_per_rank(model: ModelShape, step_tokens: int, tensor_parallel: int) -> int:
    """What one rank needs at the widest point of a step of ``step_tokens`` tokens.

    That is its MLP: gate and up (cut over the ranks, one pair for each active expert) beside four tensors of the hidden
    state (residual, norm, input and output).
    """
    widest = 4 * model.hidden + 2 * model.experts_active * div_ceil(model.intermediate, tensor_parallel)
    return step_tokens * widest * model.dtype_bytes


def kv_block_bytes_per_rank(model: ModelShape, block_tokens: int, tensor_parallel: int) -> int:
    """Bytes of one block on one rank: K and V of every layer for ``block_tokens`` tokens and the rank's KV heads."""
    heads = kv_heads_per_rank(model, tensor_parallel)
    return 2 * model.layers * block_tokens * heads * model.head_dim * model.kv_dtype_bytes


class Budget(NamedTuple):
    """What decides on the KV cache of a GPU beside the model. ``step_requests`` is the largest batch, ``graph_bytes``
    what CUDA graphs are charged; ``runtime_bytes`` None takes the constants of this module."""

    gpu_memory_bytes: int
    memory_utilization: float
    block_tokens: int
    step_tokens: int
    step_requests: int
    logit_bytes: float = LOGIT_BYTES
    runtime_bytes: int | None = None
    graph_bytes: int = 0


class KvMemory(NamedTuple):
    """How the KV cache of one GPU follows, as engines such as vLLM v1 derive it at start.

    ``usable_bytes`` less weights, rotary table, the larger of the two peaks, runtime and graphs, in whole blocks.
    """

    usable_bytes: int
    weights_bytes: int
    rotary_bytes: int
    forward_bytes: int
    sampler_bytes: int
    runtime_bytes: int
    graph_bytes: int
    block_bytes: int

    @property
    def taken_bytes(self) -> int:
        """Everything but the KV cache."""
        fixed_bytes = self.weights_bytes + self.rotary_bytes + self.runtime_bytes + self.graph_bytes
        return fixed_bytes + max(self.forward_bytes, self.sampler_bytes)

    @property
    def blocks(self) -> int:
        """0 or less where the model itself does not fit."""
        return (self.usable_bytes - self.taken_bytes) // self.block_bytes


def kv_memory(model: ModelShape, tensor_parallel: int, budget: Budget) -> KvMemory:
    """The derivation for one of ``tensor_parallel`` GPUs.

    While the sampler works on the logits of the largest batch, the hidden states of the step are still there.
    """
    requests = min(budget.step_requests, budget.step_tokens)
    runtime_bytes = budget.runtime_bytes
    if runtime_bytes is None:
        runtime_bytes = RUNTIME_BYTES if tensor_parallel == 1 else RUNTIME_PARALLEL_BYTES
    hidden_bytes = budget.step_tokens * model.hidden * model.dtype_bytes
    return KvMemory(
        usable_bytes=int(budget.gpu_memory_bytes * budget.memory_utilization),
        weights_bytes=weights_bytes_per_rank(model, tensor_parallel),
        rotary_bytes=rotary_bytes(model),
        forward_bytes=forward_bytes_per_rank(model, budget.step_tokens, tensor_parallel),
        sampler_bytes=round(budget.logit_bytes * requests * model.vocabulary) + hidden_bytes,
        runtime_bytes=runtime_bytes,
        graph_bytes=budget.graph_bytes,
        block_bytes=kv_block_bytes_per_rank(model, budget.block_tokens, tensor_parallel),
    )


def smallest_tensor_parallel(model: ModelShape, budget: Budget) -> int | None:
    """The fewest GPUs that hold the model and at least one block; None if no number up to 64 does."""
    for ranks in range(1, _RANKS_MAX + 1):
        if splits_heads(model, ranks) and kv_memory(model, ranks, budget).blocks > 0:
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
