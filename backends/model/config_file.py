"""Hugging Face ``config.json`` and ``generation_config.json`` to and from ``ModelConfig``.

Keys and their defaults are those of the ``LlamaConfig``, ``Qwen2Config`` and ``Qwen3Config`` classes of transformers
5.23; both spellings of the rotary embedding are read (``rope_parameters``, and the older ``rope_theta`` with
``rope_scaling``). Whatever would change the computation in a way that ``transformer`` does not follow is refused by
name. This module must not know torch or weights.
"""

import json
import math
from pathlib import Path

from backends.model.config import ARCHITECTURES, ROPE_KINDS, ModelConfig, RopeKind, RopeSpec
from backends.model.errors import ModelError
from backends.model.fields import Fields, read_object
from kvsim.errors import Problem

HUGGING_FACE_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
DTYPES = ("float32", "bfloat16", "float16")


def read_config(folder: Path) -> ModelConfig:
    """The configuration of the model in ``folder``. Raises ``ModelError`` with every problem at once."""
    problems: list[Problem] = []
    values = read_object(folder / "config.json", problems)
    if values is None:
        raise ModelError(problems)
    fields = Fields(str(folder / "config.json"), values, problems)
    name = fields.text("model_type")
    architecture = next((known for known in ARCHITECTURES if known == name), None)
    if architecture is None:  # the meaning of every other key depends on it
        fields.wrong("model_type", f"found {name!r}; supported are {', '.join(ARCHITECTURES)}")
        raise ModelError(problems)
    _refuse_variants(fields, architecture)
    layers = fields.integer("num_hidden_layers")
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    context_tokens_max = fields.integer("max_position_embeddings", {"llama": 2048}.get(architecture, 32768))
    vocabulary = fields.integer("vocab_size", least=2)
    attention_bias = fields.flag("attention_bias", False) if architecture != "qwen2" else False
    config = ModelConfig(
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=fields.integer("num_key_value_heads", heads),
        head_dim=fields.integer("head_dim", 128 if architecture == "qwen3" else max(1, hidden // heads)),
        intermediate=fields.integer("intermediate_size"),
        vocabulary=vocabulary,
        context_tokens_max=context_tokens_max,
        norm_epsilon=fields.positive("rms_norm_eps", 1e-6),
        rope=_read_rope(fields, context_tokens_max),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        qkv_bias=attention_bias or architecture == "qwen2",
        output_bias=attention_bias,
        qk_norm=architecture == "qwen3",
        eos_token_ids=_read_eos(folder, fields, vocabulary, problems),
        dtype=_read_dtype(fields),
    )
    if fields.sound("num_attention_heads", "num_key_value_heads") and config.heads % config.kv_heads:
        fields.wrong("num_key_value_heads", f"found {config.kv_heads}; must divide {config.heads} attention heads")
    if fields.sound("hidden_size", "num_attention_heads", "head_dim") and config.head_dim % 2:
        fields.wrong("head_dim", f"found {config.head_dim}; rotary embedding needs an even number")
    if problems:
        raise ModelError(problems)
    return config


def _refuse_variants(fields: Fields, architecture: str) -> None:
    """Note every feature that the folder asks for and ``transformer`` does not compute."""
    if (activation := fields.text("hidden_act", "silu")) != "silu":
        fields.wrong("hidden_act", f"found {activation!r}; only silu is supported")
    if fields.has("quantization_config"):
        fields.wrong(
            "quantization_config", "quantized weights are not supported; use a float32, bfloat16 or float16 copy"
        )
    if fields.flag("mlp_bias", False):
        fields.wrong("mlp_bias", "biases in the MLP are not supported")
    windowed = fields.flag("use_sliding_window", False) and architecture != "llama"
    layers_before = fields.integer("max_window_layers", 28, least=0)
    by_layer = sorted({kind for kind in fields.texts("layer_types") if kind != "full_attention"})
    if by_layer:
        fields.wrong("layer_types", f"found {', '.join(by_layer)}; only full_attention is supported")
    elif windowed and layers_before < fields.integer("num_hidden_layers"):
        fields.wrong(
            "use_sliding_window", "sliding window attention is not supported; set it to false if prompts are short"
        )


def _read_rope(fields: Fields, context_tokens_max: int) -> RopeSpec:
    """The rotary embedding, from ``rope_parameters`` or from ``rope_theta`` and ``rope_scaling``."""
    source = "rope_parameters" if fields.has("rope_parameters") else "rope_scaling"
    table = fields.table(source)
    name = table.text("rope_type", table.text("type", "default"))
    kind: RopeKind | None = next((known for known in ROPE_KINDS if known == name), None)
    theta = table.positive("rope_theta", fields.positive("rope_theta", 10_000.0))
    if kind is None:
        table.wrong("rope_type", f"found {name!r}; supported are {', '.join(ROPE_KINDS)}")
        return RopeSpec()
    if table.positive("partial_rotary_factor", fields.positive("partial_rotary_factor", 1.0)) != 1.0:
        table.wrong("partial_rotary_factor", "only 1.0 is supported: the whole head is rotated")
    if kind == "default":
        return RopeSpec(theta=theta)
    factor = table.positive("factor")
    if kind == "linear":
        return RopeSpec("linear", theta, factor)
    original = table.integer("original_max_position_embeddings", context_tokens_max)
    if kind == "llama3":
        low, high = table.positive("low_freq_factor"), table.positive("high_freq_factor")
        if not low < high:
            table.wrong("high_freq_factor", f"found {high:g}; must be above low_freq_factor, {low:g}")
        return RopeSpec("llama3", theta, factor, original, low_frequency_factor=low, high_frequency_factor=high)
    return RopeSpec(
        "yarn",
        theta,
        factor,
        original,
        beta_fast=table.positive("beta_fast", 32.0),
        beta_slow=table.positive("beta_slow", 1.0),
        truncate=table.flag("truncate", True),
        attention_factor=_yarn_attention_factor(table, factor),
    )


def _yarn_attention_factor(table: Fields, factor: float) -> float:
    """The factor on cosine and sine: 0.1 ln(factor) + 1 (YaRN, arXiv 2309.00071, section 3.4) unless the folder says
    another one; with ``mscale`` and ``mscale_all_dim`` the ratio of two such terms, as transformers has it."""
    if table.has("attention_factor"):
        return table.positive("attention_factor")

    def term(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1.0 else 1.0

    if table.has("mscale") and table.has("mscale_all_dim"):
        return term(table.positive("mscale")) / term(table.positive("mscale_all_dim"))
    return term(1.0)


def _read_eos(folder: Path, fields: Fields, vocabulary: int, problems: list[Problem]) -> tuple[int, ...]:
    """End-of-sequence ids: of ``generation_config.json`` where it names any, else of ``config.json``."""
    path = folder / "generation_config.json"
    values = read_object(path, problems) if path.exists() else None
    generation = Fields(str(path), values or {}, problems)
    source = generation if generation.has("eos_token_id") else fields
    return source.ids("eos_token_id", vocabulary)


def _read_dtype(fields: Fields) -> str:
    key = "dtype" if fields.has("dtype") else "torch_dtype"
    dtype = fields.text(key, "float32")
    if dtype not in DTYPES:
        fields.wrong(key, f"found {dtype!r}; supported are {', '.join(DTYPES)}")
    return dtype


def write_config(folder: Path, config: ModelConfig) -> None:
    """Write ``config.json`` and ``generation_config.json`` so that transformers and ``read_config`` understand them."""
    assert config.architecture == "qwen2" or config.qkv_bias == config.output_bias, (
        f"{config.architecture} has one key for both: qkv_bias {config.qkv_bias}, output_bias {config.output_bias}"
    )
    rope: dict[str, object] = {"rope_type": config.rope.kind, "rope_theta": config.rope.theta}
    if config.rope.kind != "default":
        rope["factor"] = config.rope.factor
    if config.rope.kind in {"llama3", "yarn"}:
        rope["original_max_position_embeddings"] = config.rope.original_context_tokens
    if config.rope.kind == "llama3":
        rope["low_freq_factor"] = config.rope.low_frequency_factor
        rope["high_freq_factor"] = config.rope.high_frequency_factor
    if config.rope.kind == "yarn":
        rope |= {"beta_fast": config.rope.beta_fast, "beta_slow": config.rope.beta_slow}
        rope |= {"truncate": config.rope.truncate, "attention_factor": config.rope.attention_factor}
    eos = list(config.eos_token_ids) or None
    values: dict[str, object] = {
        "architectures": [HUGGING_FACE_CLASSES[config.architecture]],
        "model_type": config.architecture,
        "num_hidden_layers": config.layers,
        "hidden_size": config.hidden,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context_tokens_max,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": config.output_bias,
        "bos_token_id": None,
        "eos_token_id": eos,
        "dtype": config.dtype,
    }
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}, indent=2) + "\n")
