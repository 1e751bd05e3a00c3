"""One step of a decoder-only transformer over a paged KV cache.

RMSNorm before attention and MLP, rotary embedding, grouped-query attention, gated SiLU MLP: the Llama architecture,
with the biases of Qwen2 and the query and key norms of Qwen3. Everything but attention treats the batch as flat
tokens. This module must not know requests, transfers or what a token means.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, rms_norm, silu

from backends.model.attention import AttentionKernel, StepAttention
from backends.model.attention_gather import GatherAttention
from backends.model.batch import Batch, SequenceSlice, clear_entered_blocks, flatten
from backends.model.config import ModelConfig
from backends.model.kv_cache import PagedKvCache
from backends.model.rope import cosine_and_sine, inverse_frequencies, rotate
from backends.model.weights import LayerWeights, Weights


class Transformer:
    """A model that computes steps. ``attention`` defaults to gather + SDPA."""

    def __init__(self, config: ModelConfig, weights: Weights, attention: AttentionKernel | None = None) -> None:
        assert len(weights.layers) == config.layers, f"{len(weights.layers)} layers of {config.layers}"
        self.config = config
        self.weights = weights
        self.attention = GatherAttention() if attention is None else attention
        self._frequencies = inverse_frequencies(config.rope, config.head_dim).to(weights.device)

    @torch.inference_mode()
    def step(
        self,
        slices: Sequence[SequenceSlice],
        cache: PagedKvCache,
        on_layer: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Compute these tokens: their KV goes into the cache, and the logits of the slices that want them come back as
        [slices that want logits, vocabulary], in the order of the slices.

        ``on_layer(i)`` is called when the KV of layer ``i`` of all slices has been written; on a GPU it has been
        queued, and the caller must synchronize before another process reads it.
        """
        self._check(cache)
        batch = flatten(slices, cache, self.config.vocabulary)
        clear_entered_blocks(batch, cache)
        device, dtype = self.weights.device, self.weights.dtype
        slots = torch.from_numpy(batch.slots).to(device)
        positions = torch.from_numpy(batch.positions).to(device)
        factor = self.config.rope.attention_factor
        rotation = cosine_and_sine(self._frequencies, positions, factor, dtype)
        attend = self.attention.prepare(batch, cache)
        hidden = embedding(torch.from_numpy(batch.token_ids).to(device), self.weights.embedding)
        for index, layer in enumerate(self.weights.layers):
            queries, keys, values = self._project(layer, hidden, rotation)
            cache.write(index, slots, keys, values)
            if on_layer is not None:
                on_layer(index)
            hidden = self._finish_layer(layer, hidden, attend, index, queries, keys, values)
        return self._logits(hidden, batch)

    def _check(self, cache: PagedKvCache) -> None:
        config, tensor = self.config, cache.tensor
        found = (cache.layers, cache.kv_heads, cache.head_dim, tensor.dtype, tensor.device)
        wanted = (config.layers, config.kv_heads, config.head_dim, self.weights.dtype, self.weights.device)
        assert found == wanted, f"layers, KV heads, head dimension, type, device: cache {found}, model {wanted}"

    def _project(self, layer: LayerWeights, hidden: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a layer, each [tokens, its heads, head_dim], rotated by their positions."""
        config = self.config
        projected = linear(self._norm(hidden, layer.attention_norm), layer.qkv, layer.qkv_bias)
        heads = projected.view(len(hidden), -1, config.head_dim)
        rotated, values = heads[:, : -config.kv_heads], heads[:, -config.kv_heads :]
        if layer.query_norm is not None and layer.key_norm is not None:
            queries = self._norm(rotated[:, : config.heads], layer.query_norm)
            keys = self._norm(rotated[:, config.heads :], layer.key_norm)
            rotated = torch.cat((queries, keys), dim=1)
        rotated = rotate(rotated, rotation)
        return rotated[:, : config.heads], rotated[:, config.heads :], values

    def _finish_layer(
        self,
        layer: LayerWeights,
        hidden: Tensor,
        attend: StepAttention,
        index: int,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """Attention, its output projection and the MLP, each added to the residual stream."""
        attended = attend(index, queries, keys, values).reshape(len(hidden), -1)
        hidden = hidden + linear(attended, layer.output, layer.output_bias)
        gate_up = linear(self._norm(hidden, layer.mlp_norm), layer.gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return hidden + linear(silu(gate) * up, layer.down)

    def _logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        rows = torch.from_numpy(batch.logit_rows).to(hidden.device)
        last = hidden.index_select(0, rows)
        return linear(self._norm(last, self.weights.final_norm), self.weights.head)

    def _norm(self, values: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm over the last dimension (Zhang and Sennrich, arXiv 1910.07467)."""
        return rms_norm(values, (values.shape[-1],), weight, self.config.norm_epsilon)
