"""The weights of a model as the step wants them: fused projections, one dtype, one device.

``assemble`` copies tensors by their Hugging Face names into place, one at a time, so that the peak is the model plus
one tensor; a folder (``checkpoint``) and a seed (``random_tensors``) are its two sources.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backends.model.checkpoint import Checkpoint
from backends.model.config import ModelConfig
from backends.model.random_tensors import random_tensor
from backends.model.tensors import EMBEDDING, FINAL_NORM, HEAD, layer_prefix


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer. ``qkv`` [(heads + 2 kv_heads) x head_dim, hidden] holds queries, keys, values in this order;
    ``gate_up`` [2 x intermediate, hidden] the gate and then the up projection."""

    attention_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights. With tied embeddings ``head`` is the same tensor as ``embedding``, [vocabulary, hidden]."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor
    head: Tensor

    @property
    def device(self) -> torch.device:
        """Where the weights, and so the steps, are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and activations."""
        return self.embedding.dtype


def load_weights(
    folder: Path, config: ModelConfig, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Weights:
    """The weights of a Hugging Face folder, cast to ``dtype``.

    Raises ``ModelError`` with every missing, unexpected or mismatching tensor at once.
    """
    with Checkpoint(folder, config) as checkpoint:
        return assemble(config, checkpoint.tensor, dtype, device)


def random_weights(
    config: ModelConfig, seed: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Weights:
    """Random weights, equal for equal seeds on any machine; see ``random_tensors`` for their distribution."""
    return assemble(config, lambda name: random_tensor(config, seed, name), dtype, device)


def assemble(
    config: ModelConfig, tensor: Callable[[str], Tensor], dtype: torch.dtype, device: torch.device | str
) -> Weights:
    """Weights from a source of tensors by name, whose names and shapes are those of ``tensors.tensor_shapes``."""

    def fused(*names: str) -> Tensor:
        parts = [tensor(name).to(dtype) for name in names]
        # A copy even of a single part: a source may hand out views of a file that is about to be closed.
        return torch.cat(parts).to(device)

    def layer_weights(layer: int) -> LayerWeights:
        prefix = layer_prefix(layer)
        attention = [f"{prefix}self_attn.{letter}_proj" for letter in "qkv"]
        return LayerWeights(
            attention_norm=fused(prefix + "input_layernorm.weight"),
            qkv=fused(*(name + ".weight" for name in attention)),
            qkv_bias=fused(*(name + ".bias" for name in attention)) if config.qkv_bias else None,
            query_norm=fused(prefix + "self_attn.q_norm.weight") if config.qk_norm else None,
            key_norm=fused(prefix + "self_attn.k_norm.weight") if config.qk_norm else None,
            output=fused(prefix + "self_attn.o_proj.weight"),
            output_bias=fused(prefix + "self_attn.o_proj.bias") if config.output_bias else None,
            mlp_norm=fused(prefix + "post_attention_layernorm.weight"),
            gate_up=fused(prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight"),
            down=fused(prefix + "mlp.down_proj.weight"),
        )

    embedding = fused(EMBEDDING)
    return Weights(
        embedding=embedding,
        layers=tuple(layer_weights(layer) for layer in range(config.layers)),
        final_norm=fused(FINAL_NORM),
        head=embedding if config.tied_embeddings else fused(HEAD),
    )
