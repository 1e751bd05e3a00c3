"""Per-layer times of one model as tables of kernels, to fit a roofline to them.

Products with weights become rows of ``gemm``, attention of a chunk or of decodes alone rows of the attention tables. It
must not know files (``kvsim.profile.layer_folder``).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from kvsim.core.integers import div_ceil
from kvsim.profile.layer_folder import read_layer_folder
from kvsim.profile.product_shapes import product_shapes
from kvsim.sim.hardware import ModelShape

if TYPE_CHECKING:
    import pandas as pd


def load_layers(path: Path) -> "dict[str, pd.DataFrame]":
    """The tables. Raises ProfileImportError."""
    folder = read_layer_folder(path)
    model, ranks, raw = folder.model.value, folder.ranks, folder.tables
    dense = raw["dense"].rename(columns={"tokens": "m"})
    last = raw["per_sequence"].rename(columns={"sequences": "m"})
    return {
        "gemm": _gemm(dense, last, product_shapes(model, ranks)),
        "context_attention": _prompts(raw["attention"], model, ranks),
        "generation_attention": _decodes(raw["attention"], model, ranks),
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


def _prompts(raw: "pd.DataFrame", model: ModelShape, ranks: int) -> "pd.DataFrame":
    rows = raw[(raw["prefill_chunk"] > 0) & (raw["n_decode"] == 0)]
    table = _attention(rows, model, ranks, batch=1, tokens=rows["prefill_chunk"])
    table.insert(len(table.columns) - 2, "start", rows["kv_prefill"].to_numpy())
    return table


def _decodes(raw: "pd.DataFrame", model: ModelShape, ranks: int) -> "pd.DataFrame":
    rows = raw[(raw["prefill_chunk"] == 0) & (raw["n_decode"] > 0)]
    return _attention(rows, model, ranks, batch=rows["n_decode"], tokens=rows["kv_decode"])


def _attention(
    rows: "pd.DataFrame", model: ModelShape, ranks: int, batch: "int | pd.Series[int]", tokens: "pd.Series[int]"
) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415

    return pd.DataFrame(
        {
            "dtype": "bfloat16",
            "kv_dtype": "bfloat16",
            "batch": batch,
            "heads": model.heads // ranks,
            "kv_heads": div_ceil(model.kv_heads, ranks),
            "head_dim": model.head_dim,
            "window": 0,
            "tokens": tokens,
            "us": rows["time_us"],
        },
        index=rows.index,
    ).reset_index(drop=True)
