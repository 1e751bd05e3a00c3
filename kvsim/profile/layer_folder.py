"""Reads per-layer kernel times in the layout of casys-kaist/LLMServingSim 2.0 (profiler/perf/GPU/MODEL/DTYPE).

A folder ``tpN`` holds the times of one of N GPUs: ``dense.csv`` (layer, tokens, time_us), ``per_sequence.csv`` (layer,
sequences, time_us) and ``attention.csv`` (prefill_chunk, kv_prefill, n_decode, kv_decode, time_us), microseconds of one
run each; ``meta.yaml``, in it or above it, names model, GPU and engine. It must not know what becomes of the times.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kvsim.presets import Preset, load_models
from kvsim.profile.importers import ProfileImportError
from kvsim.sim.hardware import ModelShape

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

_COLUMNS = {
    "attention": ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"),
    "dense": ("layer", "tokens", "time_us"),
    "per_sequence": ("layer", "sequences", "time_us"),
}
_LAYERS = {"dense": (*TIMES_PER_LAYER, *ONCE), "per_sequence": PER_SEQUENCE}
_META = ("model", "gpu", "vllm_version")


@dataclass(frozen=True, slots=True)
class LayerFolder:
    """``tables`` by name as they were written, from ``path``; ``ranks`` GPUs of a worker share the model."""

    path: Path
    meta: Mapping[str, Any]
    model: Preset[ModelShape]
    ranks: int
    tables: "Mapping[str, pd.DataFrame]"

    def file(self, name: str) -> Path:
        """The file of a table."""
        return self.path / f"{name}.csv"


def read_layer_folder(path: Path) -> LayerFolder:
    """``path`` is a folder tpN, or one with a single tpN in it. Raises ProfileImportError with all that is wrong."""
    problems: list[str] = []
    folder, ranks = _folder(path)
    meta = _read_meta(folder, problems)
    tables = {name: _read(folder / f"{name}.csv", columns, problems) for name, columns in _COLUMNS.items()}
    for name, known in _LAYERS.items():
        unknown = [str(layer) for layer in dict.fromkeys(tables[name]["layer"]) if layer not in known]
        if unknown:
            problems.append(
                f"{folder / name}.csv: layer: found {', '.join(unknown)}, expected only {', '.join(known)}: how often "
                "a step runs another is not known; leave its rows out, or name it as the one that it stands for"
            )
    model = _model(folder, meta, ranks, problems) if meta else None
    if problems:
        raise ProfileImportError("\n".join(problems))
    assert model is not None, path
    return LayerFolder(folder, meta, model, ranks, tables)


def _folder(path: Path) -> tuple[Path, int]:
    """The folder with the tables, and N. A folder of another name that holds the tables is of one GPU."""
    own = re.fullmatch(r"tp([1-9]\d*)", path.name)
    if own:
        return path, int(own.group(1))
    inside = sorted(child for child in path.glob("tp*") if child.is_dir() and re.fullmatch(r"tp[1-9]\d*", child.name))
    if len(inside) > 1:
        names = ", ".join(child.name for child in inside)
        raise ProfileImportError(f"{path}: found {names}, expected PATH to name one of them: a profile is of one")
    if inside:
        return inside[0], int(inside[0].name.removeprefix("tp"))
    return path, 1


def _read_meta(folder: Path, problems: list[str]) -> Mapping[str, Any]:
    places = [place / "meta.yaml" for place in (folder, *folder.parents[:2])]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        problems.append(f"{folder}: found no meta.yaml in it or above it, expected one with {', '.join(_META)}")
        return {}
    try:
        meta = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"{file}: cannot be read: {str(error).splitlines()[0]}")
        return {}
    missing = [key for key in _META if not isinstance(meta, dict) or key not in meta]
    if missing:
        problems.append(f"{file}: {', '.join(missing)} missing, expected {', '.join(_META)}")
        return {}
    assert isinstance(meta, dict)
    return meta


def _model(folder: Path, meta: Mapping[str, Any], ranks: int, problems: list[str]) -> Preset[ModelShape] | None:
    models = load_models()
    name = str(meta["model"]).rpartition("/")[2].lower()
    if name not in models:
        problems.append(f"{folder}: model: found {meta['model']}, expected one of the presets {', '.join(models)}")
        return None
    model = models[name]
    if model.value.experts > 1:
        problems.append(
            f"{folder}: model: found {meta['model']}, a mixture of experts, expected a dense model: the layout has no "
            "times by experts"
        )
    if model.value.heads % ranks:
        problems.append(f"{folder}: found {ranks} GPUs, expected a divisor of the {model.value.heads} heads of {name}")
    return model


def _read(file: Path, columns: tuple[str, ...], problems: list[str]) -> "pd.DataFrame":
    """A table, empty where something is wrong with it."""
    import pandas as pd  # noqa: PLC0415

    nothing = pd.DataFrame(columns=list(columns))
    if not file.is_file():
        problems.append(f"{file}: there is no such file, expected the columns {', '.join(columns)}")
        return nothing
    try:
        table = pd.read_csv(file)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        problems.append(f"{file}: no table that can be read: {str(error).splitlines()[0]}")
        return nothing
    missing = [column for column in columns if column not in table.columns]
    if missing:
        problems.append(f"{file}: columns {', '.join(missing)} are missing, expected {', '.join(columns)}")
        return nothing
    text = [name for name in columns if name != "layer" and not pd.api.types.is_numeric_dtype(table[name])]
    if text:
        problems.append(f"{file}: columns {', '.join(text)} hold something else than numbers")
    elif table.empty or table[list(columns)].isna().any(axis=None):
        problems.append(f"{file}: found {'no rows' if table.empty else 'empty cells'}, expected a number in each")
    return table
