"""Names and shapes of a model's tensors in a Hugging Face folder. It must not know torch or files."""

from backends.model.config import ModelConfig

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


def layer_prefix(layer: int) -> str:
    """What the names of a layer's tensors begin with."""
    return f"model.layers.{layer}."


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that the folder must hold, in a fixed order (random weights are drawn in it)."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocabulary, config.hidden)}
    for layer in range(config.layers):
        prefix = layer_prefix(layer)
        shapes |= {prefix + name: shape for name, shape in _layer_shapes(config).items()}
    shapes[FINAL_NORM] = (config.hidden,)
    if not config.tied_embeddings:
        shapes[HEAD] = (config.vocabulary, config.hidden)
    return shapes


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (config.hidden,),
        "self_attn.q_proj.weight": (queries, config.hidden),
        "self_attn.k_proj.weight": (keys, config.hidden),
        "self_attn.v_proj.weight": (keys, config.hidden),
        "self_attn.o_proj.weight": (config.hidden, queries),
        "post_attention_layernorm.weight": (config.hidden,),
        "mlp.gate_proj.weight": (config.intermediate, config.hidden),
        "mlp.up_proj.weight": (config.intermediate, config.hidden),
        "mlp.down_proj.weight": (config.hidden, config.intermediate),
    }
    if config.qkv_bias:
        shapes |= {"self_attn.q_proj.bias": (queries,), "self_attn.k_proj.bias": (keys,)}
        shapes |= {"self_attn.v_proj.bias": (keys,)}
    if config.output_bias:
        shapes["self_attn.o_proj.bias"] = (config.hidden,)
    if config.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (config.head_dim,), "self_attn.k_norm.weight": (config.head_dim,)}
    return shapes


def may_be_ignored(name: str, config: ModelConfig) -> bool:
    """Whether an extra tensor changes nothing: old folders store rotary frequencies, some store a tied head."""
    return name.endswith("rotary_emb.inv_freq") or (name == HEAD and config.tied_embeddings)
