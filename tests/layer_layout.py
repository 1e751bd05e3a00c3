"""A small folder of per-layer kernel times in the layout that vLLM's profiler of public runs writes."""

from pathlib import Path

import yaml

META = {"model": "meta-llama/Llama-3.1-8B", "gpu": "NVIDIA GeForce RTX 4090", "vllm_version": "0.19.0"}
# microseconds that such a GPU needs about, for products of 1 and of 512 tokens
DENSE = {
    "layernorm": (2, 6),
    "qkv_proj": (55, 166),
    "o_proj": (38, 108),
    "gate_up_proj": (247, 737),
    "act_fn": (3, 28),
    "down_proj": (127, 376),
    "embedding": (3, 5),
}


def write_layout(root: Path) -> Path:
    """Chunks of 16 and 512 tokens, 1 or 8 decoding requests with 16 or 4096 tokens each; the folder to import."""
    tables = root / "profile" / "tp1"
    tables.mkdir(parents=True)
    (tables.parent / "meta.yaml").write_text(yaml.safe_dump(META))
    dense = [f"{name},{tokens},{us}" for name, pair in DENSE.items() for tokens, us in zip((1, 512), pair, strict=True)]
    (tables / "dense.csv").write_text("\n".join(["layer,tokens,time_us", *dense]))
    (tables / "per_sequence.csv").write_text("layer,sequences,time_us\nlm_head,1,1097\nlm_head,64,1212\n")
    rows = [f"{chunk},{past},0,0,{chunk + past / 10}" for chunk in (16, 512) for past in (0, 1024)]
    rows += [f"0,0,{count},{context},{count + context / 100}" for count in (1, 8) for context in (16, 4096)]
    rows += [
        f"{chunk},{past},{count},{context},{chunk + past / 10 + count + context / 100}"
        for chunk in (16, 512)
        for past in (0, 1024)
        for count in (1, 8)
        for context in (16, 4096)
    ]
    header = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
    (tables / "attention.csv").write_text("\n".join([header, *rows]))
    return tables.parent
