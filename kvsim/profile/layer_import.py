"""Per-layer kernel times in the layout of casys-kaist/LLMServingSim 2.0 (profiler/perf/GPU/MODEL/DTYPE) as a profile.

``PATH`` is the folder with ``meta.yaml`` and ``tp1`` (``attention.csv``, ``dense.csv``, ``per_sequence.csv``; times in
microseconds of one run). How often a step runs a kernel follows from the model's number of layers. Nothing is fitted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from kvsim.presets import load_gpus, load_models
from kvsim.profile.importers import Imported, ProfileImportError
from kvsim.profile.layer_fields import LayerTimes
from kvsim.profile.least_squares import Floats
from kvsim.profile.plausible import implausible, preset_of
from kvsim.sim.hardware import GpuSpec, ModelShape

if TYPE_CHECKING:
    import pandas as pd

TIMES_PER_LAYER = {
    "layernorm": 2,  # before attention and before the MLP
    "qkv_proj": 1,
    "qk_norm": 1,  # of Q and K together
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
ONCE = ("embedding", "final_layernorm")
PER_SEQUENCE = ("lm_head", "sampler")
_NEEDED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
_COLUMNS = {
    "attention": ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"),
    "dense": ("layer", "tokens", "time_us"),
    "per_sequence": ("layer", "sequences", "time_us"),
}
_RANKS = 1


def load(path: Path) -> Imported:
    """Read the tables of one GPU. Raises ProfileImportError with everything that is wrong."""
    problems: list[str] = []
    meta = _read_meta(path / "meta.yaml", problems)
    tables = {
        name: _read(path / f"tp{_RANKS}" / f"{name}.csv", columns, problems) for name, columns in _COLUMNS.items()
    }
    if problems:
        raise ProfileImportError("\n".join(problems))
    preset = str(meta["model"]).rpartition("/")[2].lower()
    models = load_models()
    if preset not in models:
        known = ", ".join(models)
        problems.append(f"{path / 'meta.yaml'}: model: found {meta['model']}, expected one of the presets {known}")
        raise ProfileImportError("\n".join(problems))
    model = models[preset].value
    dense = _kernels(path, "dense", "tokens", tables["dense"], _dense_times(model), problems)
    per_sequence = _kernels(
        path, "per_sequence", "sequences", tables["per_sequence"], dict.fromkeys(PER_SEQUENCE, 1), problems
    )
    missing = [name for name in _NEEDED if name not in set(tables["dense"]["layer"])]
    if missing:
        problems.append(f"{path}/tp{_RANKS}/dense.csv: layers {', '.join(missing)} are missing, expected their times")
    attention = _attention(path, tables["attention"], problems)
    machine = str(meta["gpu"])
    notes = _check_units(path, tables["dense"], model, machine, problems)
    if problems:
        raise ProfileImportError("\n".join(problems))
    layers = LayerTimes.model_validate({**dense, **per_sequence, "attention_times": model.layers, **attention})
    fields = {
        "origin": "per-layer kernel times in the layout of casys-kaist/LLMServingSim 2.0, "
        f"{sum(map(len, tables.values())):,} rows",
        "date": str(meta.get("profiled_at", "not given by the source")),
        "machine": machine,
        "engine": f"vLLM {meta['vllm_version']}",
        "versions": {key: str(meta[key]) for key in ("profiler_version", "cuda_version") if key in meta},
        "model": dict(models[preset].fields),
        "tensor_parallel": _RANKS,
        "layers": layers,
        "notes": [
            "kernels were measured one by one: what an engine fuses beyond that, and its CUDA graphs, are not in them",
            "what the host adds between two steps was not measured and counts as 0 (host.between_steps)",
            *notes,
        ],
    }
    return Imported(fields)


def _read_meta(file: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        meta = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        problems.append(f"{file}: cannot be read: {str(error).splitlines()[0]}")
        return {}
    wanted = ("model", "gpu", "vllm_version")
    missing = [key for key in wanted if not isinstance(meta, dict) or key not in meta]
    if missing:
        problems.append(f"{file}: {', '.join(missing)} missing, expected {', '.join(wanted)}")
        return {}
    assert isinstance(meta, dict)
    return meta


def _read(file: Path, columns: tuple[str, ...], problems: list[str]) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415

    if not file.is_file():
        problems.append(f"{file}: there is no such file, expected the columns {', '.join(columns)}")
        return pd.DataFrame(columns=list(columns))
    try:
        table = pd.read_csv(file)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        problems.append(f"{file}: no table that can be read: {str(error).splitlines()[0]}")
        return pd.DataFrame(columns=list(columns))
    missing = [column for column in columns if column not in table.columns]
    if missing:
        problems.append(f"{file}: columns {', '.join(missing)} are missing, expected {', '.join(columns)}")
        return pd.DataFrame(columns=list(columns))
    text = [name for name in columns if name != "layer" and not pd.api.types.is_numeric_dtype(table[name])]
    if text:
        problems.append(f"{file}: columns {', '.join(text)} hold something else than numbers")
    elif table.empty or table[list(columns)].isna().any(axis=None):
        problems.append(f"{file}: found {'no rows' if table.empty else 'empty cells'}, expected a number in each")
    return table


def _dense_times(model: ModelShape) -> dict[str, int]:
    """How often a step runs each kernel."""
    return {**{name: times * model.layers for name, times in TIMES_PER_LAYER.items()}, **dict.fromkeys(ONCE, 1)}


def _kernels(
    path: Path, name: str, axis: str, table: "pd.DataFrame", times: Mapping[str, int], problems: list[str]
) -> dict[str, object]:
    """The rows of dense or per_sequence and their axis, which all kernels must share."""
    file = path / f"tp{_RANKS}" / f"{name}.csv"
    unknown = [str(layer) for layer in dict.fromkeys(table["layer"]) if layer not in times]
    if unknown:
        problems.append(
            f"{file}: layer: found {', '.join(unknown)}, expected only {', '.join(times)}: how often a step runs "
            "another is not known; leave its rows out, or name it as the one that it stands for"
        )
        return {}
    folded = table.groupby([axis, "layer"])["time_us"].median().unstack("layer")
    if folded.isna().any(axis=None):
        gaps = ", ".join(str(layer) for layer in folded.columns[folded.isna().any()])
        problems.append(f"{file}: {axis}: {gaps} lack some of the values that other layers have, expected all alike")
        return {}
    rows = [{"kernel": str(layer), "times": times[str(layer)], "us": _text(folded[layer])} for layer in folded.columns]
    return {axis: _axis(folded.index), name: rows}


def _attention(path: Path, table: "pd.DataFrame", problems: list[str]) -> dict[str, object]:
    """The tables of attention on their axes."""
    file = path / f"tp{_RANKS}" / "attention.csv"
    alone = table[table["n_decode"] == 0].pivot_table("time_us", "prefill_chunk", "kv_prefill", aggfunc="median")
    decode = table[table["prefill_chunk"] == 0].pivot_table("time_us", "n_decode", "kv_decode", aggfunc="median")
    both = table[(table["n_decode"] > 0) & (table["prefill_chunk"] > 0)]
    mixed = both.pivot_table("time_us", ["prefill_chunk", "kv_prefill", "n_decode"], "kv_decode", aggfunc="median")
    for what, part in (("prefill_chunk by kv_prefill", alone), ("n_decode by kv_decode", decode), ("mixed", mixed)):
        if min(part.shape) < 2 or part.isna().any(axis=None):
            problems.append(f"{file}: {what} is no full grid of at least 2 by 2, expected every combination")
    if list(mixed.columns) != list(decode.columns):
        problems.append(f"{file}: kv_decode differs between steps with and without a chunk, expected the same values")
    if problems:
        return {}
    return {
        "past_tokens": _axis(alone.columns),
        "context_tokens": _axis(decode.columns),
        "prefill": [{"chunk_tokens": int(chunk), "us": _text(alone.loc[chunk])} for chunk in alone.index],
        "decode": [{"decodes": int(count), "us": _text(decode.loc[count])} for count in decode.index],
        "mixed": [
            {"chunk_tokens": int(chunk), "past_tokens": int(past), "decodes": int(count), "us": _text(row)}
            for (chunk, past, count), row in zip(mixed.index, mixed.to_numpy(), strict=True)
        ],
    }


def _check_units(path: Path, dense: "pd.DataFrame", model: ModelShape, machine: str, problems: list[str]) -> list[str]:
    """Matrix products against the datasheet. Returns notes."""
    preset = preset_of(machine)
    if preset is None:
        return [f"no preset describes {machine}: times were not held against a datasheet"]
    gpu = load_gpus()[preset].value
    products = dense[dense["layer"].isin(_NEEDED)]
    least_s = _least_s(products, model, gpu)
    found_s = products["time_us"].to_numpy(dtype=np.float64) / 1e6
    wrong = implausible(f"{path}/tp{_RANKS}/dense.csv: time_us", least_s, found_s)
    problems += [wrong] if wrong else []
    return []


def _least_s(products: "pd.DataFrame", model: ModelShape, gpu: GpuSpec) -> Floats:
    """Seconds that the peak of the datasheet allows at least for each matrix product."""
    query, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
    elements = {
        "qkv_proj": model.hidden * (query + 2 * kv),
        "o_proj": query * model.hidden,
        "gate_up_proj": 2 * model.hidden * model.intermediate,
        "down_proj": model.intermediate * model.hidden,
    }
    weights = products["layer"].map(elements).to_numpy(dtype=np.float64)
    least: Floats = 2 * weights * products["tokens"].to_numpy(dtype=np.float64) / gpu.flops_per_s
    return least


def _axis(values: "pd.Index[Any]") -> str:
    return " ".join(str(int(value)) for value in values)


def _text(values: Any) -> str:
    return " ".join(f"{value:.6g}" for value in values)
