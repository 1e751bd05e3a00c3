"""What a model is, as plain values: sizes, rotary embedding, biases, end-of-sequence ids.

The fields are those that change the computation of a Llama, Qwen2 or Qwen3 decoder and nothing else. It must not know
torch or the format of files: ``config_file`` reads a Hugging Face folder, ``presets`` holds random models.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Architecture: TypeAlias = Literal["llama", "qwen2", "qwen3"]
RopeKind: TypeAlias = Literal["default", "linear", "llama3", "yarn"]

ARCHITECTURES: tuple[Architecture, ...] = ("llama", "qwen2", "qwen3")
ROPE_KINDS: tuple[RopeKind, ...] = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding; see ``backends.model.rope`` for the formulas.

    ``factor`` stretches the context (all kinds but ``default``). ``original_context_tokens`` is the context that the
    model was first trained for (llama3, yarn). ``attention_factor`` multiplies cosine and sine (yarn).
    """

    kind: RopeKind = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    original_context_tokens: int = 0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A dense decoder-only transformer with grouped-query attention and a gated SiLU MLP.

    ``qkv_bias`` and ``output_bias``: biases of the attention projections; ``qk_norm``: RMSNorm of each query and key
    head. ``eos_token_ids`` end a sequence; empty means that only length limits do. ``dtype`` is that of the stored
    weights, as torch names it.
    """

    architecture: Architecture
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    context_tokens_max: int
    norm_epsilon: float = 1e-6
    rope: RopeSpec = RopeSpec()
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    eos_token_ids: tuple[int, ...] = ()
    dtype: str = "float32"

    @classmethod
    def from_folder(cls, folder: Path) -> "ModelConfig":
        """The configuration in a Hugging Face folder. Raises ``ModelError`` with everything that is wrong in it."""
        from backends.model.config_file import read_config  # noqa: PLC0415 - it makes values of this class

        return read_config(folder)

    def kv_elements_per_token(self) -> int:
        """Elements of one token's K and V over all layers: 2 x layers x kv_heads x head_dim."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    def parameters(self) -> int:
        """Number of weights, with tied embeddings counted once."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (queries + 2 * keys) + queries * self.hidden
        biases = self.qkv_bias * (queries + 2 * keys) + self.output_bias * self.hidden
        norms = 2 * self.hidden + self.qk_norm * 2 * self.head_dim
        layer = attention + biases + norms + 3 * self.hidden * self.intermediate
        embeddings = self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layers * layer + embeddings + self.hidden
