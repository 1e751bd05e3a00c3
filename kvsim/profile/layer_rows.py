"""Per-layer times of one model as tables of kernels, to fit a roofline to them.

``PATH`` is a folder with ``dense.csv`` (layer, tokens, time_us), ``per_sequence.csv`` (layer, sequences, time_us) and
``attention.csv`` (prefill_chunk, kv_prefill, n_decode, kv_decode, time_us) for one GPU, in the layout of
casys-kaist/LLMServingSim 2.0, and with ``meta.yaml`` in it or above it, which names the model. Products with weights
become rows of ``gemm``, attention of a chunk or of decodes alone rows of the attention tables.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from kvsim.errors import KvsimError
from kvsim.presets import load_models
from kvsim.sim.hardware import ModelShape

if TYPE_CHECKING:
    import pandas as pd

_TABLES = {
    "dense.csv": ("layer", "tokens", "time_us"),
    "per_sequence.csv": ("layer", "sequences", "time_us"),
    "attention.csv": ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"),
}
_SMALL = ("act_fn", "embedding", "final_layernorm", "layernorm", "rotary_emb", "sampler")


class LayerTimesError(KvsimError):
    """Per-layer times cannot be read: every problem, a line each."""


def load_layers(path: Path) -> "dict[str, pd.DataFrame]":
    """The tables. Raises LayerTimesError."""
    raw = _read(path)
    model = _model(path)
    products = _products(model)
    dense, last = raw["dense.csv"], raw["per_sequence.csv"]
    known = {*products, *_SMALL}
    unknown = sorted((set(dense["layer"]) | set(last["layer"])) - known)
    if unknown:
        raise LayerTimesError(f"{path}: found layer {', '.join(unknown)}, expected one of {', '.join(sorted(known))}")
    return {
        "gemm": _gemm(dense.rename(columns={"tokens": "m"}), last.rename(columns={"sequences": "m"}), products),
        "context_attention": _prompts(raw["attention.csv"], model),
        "generation_attention": _decodes(raw["attention.csv"], model),
    }


def _read(path: Path) -> "dict[str, pd.DataFrame]":
    import pandas as pd  # noqa: PLC0415

    found, problems = {}, []
    for name, columns in _TABLES.items():
        file = path / name
        if not file.is_file():
            problems.append(f"{file}: there is no such file, expected columns {', '.join(columns)}")
            continue
        table = pd.read_csv(file)
        missing = [column for column in columns if column not in table.columns]
        if missing:
            problems.append(f"{file}: columns {', '.join(missing)} are missing, expected {', '.join(columns)}")
        found[name] = table
    if problems:
        raise LayerTimesError("\n".join(problems))
    return found


def _model(path: Path) -> ModelShape:
    meta = next(
        (folder / "meta.yaml" for folder in (path, *path.parents[:2]) if (folder / "meta.yaml").is_file()), None
    )
    if meta is None:
        raise LayerTimesError(f"{path}: found no meta.yaml there or above, expected one that names the model")
    named = str((yaml.safe_load(meta.read_text(encoding="utf-8")) or {}).get("model"))
    models = load_models()
    key = named.rsplit("/", maxsplit=1)[-1].lower()
    if key not in models:
        raise LayerTimesError(f"{meta}: found model {named}, expected one of the presets: {', '.join(models)}")
    return models[key].value


def _products(model: ModelShape) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each product with weights, by the name of its layer."""
    width, kv_width = model.heads * model.head_dim, model.kv_heads * model.head_dim
    return {
        "qkv_proj": (width + 2 * kv_width, model.hidden),
        "o_proj": (model.hidden, width),
        "gate_up_proj": (2 * model.intermediate, model.hidden),
        "down_proj": (model.hidden, model.intermediate),
        "lm_head": (model.vocabulary, model.hidden),
    }


def _gemm(dense: "pd.DataFrame", last: "pd.DataFrame", products: dict[str, tuple[int, int]]) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415

    rows = pd.concat([dense, last])
    rows = rows[rows["layer"].isin(list(products))]
    return pd.DataFrame(
        {
            "dtype": "bfloat16",
            "m": rows["m"],
            "n": [products[layer][0] for layer in rows["layer"]],
            "k": [products[layer][1] for layer in rows["layer"]],
            "us": rows["time_us"],
        }
    ).reset_index(drop=True)


def _prompts(raw: "pd.DataFrame", model: ModelShape) -> "pd.DataFrame":
    rows = raw[(raw["prefill_chunk"] > 0) & (raw["n_decode"] == 0)]
    table = _attention(rows, model, batch=1, tokens=rows["prefill_chunk"])
    table.insert(len(table.columns) - 2, "start", rows["kv_prefill"].to_numpy())
    return table


def _decodes(raw: "pd.DataFrame", model: ModelShape) -> "pd.DataFrame":
    rows = raw[(raw["prefill_chunk"] == 0) & (raw["n_decode"] > 0)]
    return _attention(rows, model, batch=rows["n_decode"], tokens=rows["kv_decode"])


def _attention(
    rows: "pd.DataFrame", model: ModelShape, batch: "int | pd.Series[int]", tokens: "pd.Series[int]"
) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415

    return pd.DataFrame(
        {
            "dtype": "bfloat16",
            "kv_dtype": "bfloat16",
            "batch": batch,
            "heads": model.heads,
            "kv_heads": model.kv_heads,
            "head_dim": model.head_dim,
            "window": 0,
            "tokens": tokens,
            "us": rows["time_us"],
        },
        index=rows.index,
    ).reset_index(drop=True)
