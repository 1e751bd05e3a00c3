"""Small random models by name, so that real workers run without any download.

``tiny`` is for tests (KV cache 2 KiB a token in fp32), ``small`` for validation on a CPU (8 KiB a token): large enough
that steps take milliseconds and transfers matter, small enough for a laptop. Their weights come from a seed, their
text from the byte-level tokenizer (``backends.model.tokenizer``), whose end-of-sequence id is 257.
"""

from collections.abc import Mapping
from types import MappingProxyType

from backends.model.config import ModelConfig
from backends.model.errors import ModelError, problem

MODEL_PRESETS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "tiny": ModelConfig(
            architecture="llama",
            layers=4,
            hidden=256,
            heads=8,
            kv_heads=2,
            head_dim=32,
            intermediate=704,
            vocabulary=512,
            context_tokens_max=8192,
            eos_token_ids=(257,),
        ),
        "small": ModelConfig(
            architecture="llama",
            layers=8,
            hidden=512,
            heads=8,
            kv_heads=2,
            head_dim=64,
            intermediate=1408,
            vocabulary=8192,
            context_tokens_max=32768,
            eos_token_ids=(257,),
        ),
    }
)


def model_preset(name: str) -> ModelConfig:
    """The random model of this name. Raises ``ModelError`` naming the accepted ones."""
    if name not in MODEL_PRESETS:
        known = ", ".join(MODEL_PRESETS)
        raise ModelError([problem("model", name, f"no such random model; accepted: {known}, or a model folder")])
    return MODEL_PRESETS[name]
