"""Per-layer kernel times in the layout of casys-kaist/LLMServingSim 2.0 (profiler/perf/GPU/MODEL/DTYPE) as a profile.

How often a step runs a kernel follows from the model's number of layers. With several GPUs the times are those of one
of them, and all-reduces come on top in the simulator. Nothing is fitted. ``kvsim.profile.layer_folder`` reads files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim.presets import load_gpus
from kvsim.profile.importers import Imported, ProfileImportError
from kvsim.profile.layer_fields import LayerTimes
from kvsim.profile.layer_folder import ONCE, PER_SEQUENCE, TIMES_PER_LAYER, LayerFolder, read_layer_folder
from kvsim.profile.least_squares import Floats
from kvsim.profile.plausible import implausible, preset_of
from kvsim.profile.product_shapes import product_shapes
from kvsim.sim.hardware import GpuSpec, ModelShape

if TYPE_CHECKING:
    import pandas as pd

_NEEDED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def load(path: Path) -> Imported:
    """Read the tables of one GPU. Raises ProfileImportError with everything that is wrong."""
    folder = read_layer_folder(path)
    model, tables, meta = folder.model.value, folder.tables, folder.meta
    problems: list[str] = []
    dense = _kernels(folder, "dense", "tokens", _dense_times(model), problems)
    per_sequence = _kernels(folder, "per_sequence", "sequences", dict.fromkeys(PER_SEQUENCE, 1), problems)
    missing = [name for name in _NEEDED if name not in set(tables["dense"]["layer"])]
    if missing:
        problems.append(f"{folder.file('dense')}: layers {', '.join(missing)} are missing, expected their times")
    attention = _attention(folder, problems)
    notes = _check_units(folder, problems)
    if problems:
        raise ProfileImportError("\n".join(problems))
    layers = LayerTimes.model_validate({**dense, **per_sequence, "attention_times": model.layers, **attention})
    if folder.ranks > 1:
        notes.append("of one of several GPUs: all-reduces are not in the times, they are those of the pool's gpu")
    fields = {
        "origin": "per-layer kernel times in the layout of casys-kaist/LLMServingSim 2.0, "
        f"{sum(map(len, tables.values())):,} rows",
        "date": str(meta.get("profiled_at", "not given by the source")),
        "machine": str(meta["gpu"]),
        "engine": f"vLLM {meta['vllm_version']}",
        "versions": {key: str(meta[key]) for key in ("profiler_version", "cuda_version") if key in meta},
        "model": dict(folder.model.fields),
        "tensor_parallel": folder.ranks,
        "layers": layers,
        "notes": [
            "kernels were measured one by one: what an engine fuses beyond that, and its CUDA graphs, are not in them",
            "what the host adds between two steps was not measured and counts as 0 (host.between_steps)",
            *notes,
        ],
    }
    return Imported(fields)


def _dense_times(model: ModelShape) -> dict[str, int]:
    """How often a step runs each kernel."""
    return {**{name: times * model.layers for name, times in TIMES_PER_LAYER.items()}, **dict.fromkeys(ONCE, 1)}


def _kernels(
    folder: LayerFolder, name: str, axis: str, times: Mapping[str, int], problems: list[str]
) -> dict[str, object]:
    """The rows of dense or per_sequence and their axis, which all kernels must share."""
    folded = folder.tables[name].groupby([axis, "layer"])["time_us"].median().unstack("layer")
    if folded.isna().any(axis=None):
        gaps = ", ".join(str(layer) for layer in folded.columns[folded.isna().any()])
        problems.append(
            f"{folder.file(name)}: {axis}: {gaps} lack some of the values that other layers have, expected all alike"
        )
        return {}
    rows = [{"kernel": str(layer), "times": times[str(layer)], "us": _text(folded[layer])} for layer in folded.columns]
    return {axis: _axis(folded.index), name: rows}


def _attention(folder: LayerFolder, problems: list[str]) -> dict[str, object]:
    """The tables of attention on their axes."""
    file, table = folder.file("attention"), folder.tables["attention"]
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


def _check_units(folder: LayerFolder, problems: list[str]) -> list[str]:
    """Matrix products against the datasheet. Returns notes."""
    machine, dense = str(folder.meta["gpu"]), folder.tables["dense"]
    preset = preset_of(machine)
    if preset is None:
        return [f"no preset describes {machine}: times were not held against a datasheet"]
    products = dense[dense["layer"].isin(_NEEDED)]
    least_s = _least_s(products, folder.model.value, folder.ranks, load_gpus()[preset].value)
    found_s = products["time_us"].to_numpy(dtype=np.float64) / 1e6
    wrong = implausible(f"{folder.file('dense')}: time_us", least_s, found_s)
    problems += [wrong] if wrong else []
    return []


def _least_s(products: "pd.DataFrame", model: ModelShape, ranks: int, gpu: GpuSpec) -> Floats:
    """Seconds that the peak of the datasheet allows at least for each matrix product."""
    elements = {name: outputs * inputs for name, (outputs, inputs) in product_shapes(model, ranks).items()}
    weights = products["layer"].map(elements).to_numpy(dtype=np.float64)
    least: Floats = 2 * weights * products["tokens"].to_numpy(dtype=np.float64) / gpu.flops_per_s
    return least


def _axis(values: "pd.Index[Any]") -> str:
    return " ".join(str(int(value)) for value in values)


def _text(values: Any) -> str:
    return " ".join(f"{value:.6g}" for value in values)
