"""GEMM and attention tables in the layout of ai-dynamo/aiconfigurator (systems/data/GPU/vllm), Parquet, as a profile.

``PATH`` is the folder with ``gemm_perf``, ``context_attention_perf`` and ``generation_attention_perf``; a table that is
not there is left out. Times are in milliseconds there and in microseconds here. Only what was measured once or more
often under the same conditions is folded (median); nothing is fitted.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from kvsim.presets import load_gpus
from kvsim.profile.importers import Imported, ProfileImportError
from kvsim.profile.kernel_tables import COLUMNS, least_seconds
from kvsim.profile.plausible import implausible, preset_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

_CONDITIONS = {
    "gemm": {"gemm_dtype": "dtype", "m": "m", "n": "n", "k": "k"},
    "context_attention": {
        "attn_dtype": "dtype",
        "kv_cache_dtype": "kv_dtype",
        "batch_size": "batch",
        "isl": "tokens",
        "num_heads": "heads",
        "num_key_value_heads": "kv_heads",
        "head_dim": "head_dim",
        "window_size": "window",
    },
}
_CONDITIONS["generation_attention"] = _CONDITIONS["context_attention"]
_COMMON = ("framework", "version", "device", "latency")
_US_PER_MS = 1000.0


def load(path: Path) -> Imported:
    """Read the tables. Raises ProfileImportError with everything that is wrong."""
    files = {name: path / f"{name}_perf.parquet" for name in _CONDITIONS}
    found = {name: file for name, file in files.items() if file.is_file()}
    if not found:
        names = ", ".join(file.name for file in files.values())
        raise ProfileImportError(f"{path}: found none of {names}, expected a folder with at least one")
    problems: list[str] = []
    raw = {name: _read(name, file, problems) for name, file in found.items()}
    if problems:
        raise ProfileImportError("\n".join(problems))
    engine, machine = _one(raw, ("framework", "version")), _one(raw, ("device",))
    preset = preset_of(machine)
    tables = {name: _folded(name, table) for name, table in raw.items()}
    notes = [_left_out(files, found)] if len(found) < len(files) else []
    if preset is None:
        notes.append(f"no preset describes {machine}: times were not held against a datasheet")
    else:
        gpu = load_gpus()[preset].value
        for name, table in tables.items():
            wrong = implausible(
                f"{found[name]}: latency", least_seconds(name, table, gpu), table["us"].to_numpy() / 1e6
            )
            problems += [wrong] if wrong else []
    if problems:
        raise ProfileImportError("\n".join(problems))
    fields = {
        "origin": f"kernel times in the layout of ai-dynamo/aiconfigurator, {sum(map(len, tables.values())):,} rows",
        "date": "not given by the source",
        "machine": machine,
        "engine": engine,
        "notes": notes,
    }
    return Imported(fields, tables, {name: COLUMNS[name] for name in tables})


def _read(name: str, file: Path, problems: list[str]) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415
    from pyarrow import ArrowInvalid  # noqa: PLC0415

    try:
        table = pd.read_parquet(file)
    except (ArrowInvalid, OSError) as error:
        problems.append(f"{file}: no Parquet file that can be read: {str(error).splitlines()[0]}")
        return pd.DataFrame()
    wanted = [*_COMMON, *_CONDITIONS[name], *(["step"] if name == "generation_attention" else [])]
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        problems.append(f"{file}: columns {', '.join(missing)} are missing, expected {', '.join(wanted)}")
    elif table.empty:
        problems.append(f"{file}: found no rows")
    elif not all(pd.api.types.is_numeric_dtype(table[column]) for column in _numbers(name)):
        text = [column for column in _numbers(name) if not pd.api.types.is_numeric_dtype(table[column])]
        problems.append(f"{file}: columns {', '.join(text)} hold something else than numbers")
    return table


def _numbers(name: str) -> list[str]:
    return ["latency", *(column for column in _CONDITIONS[name] if not column.endswith("dtype"))]


def _one(tables: "Mapping[str, pd.DataFrame]", columns: tuple[str, ...]) -> str:
    """The one combination of values that all tables have. Raises ProfileImportError where there are several."""
    found = {
        " ".join(map(str, values))
        for table in tables.values()
        for values in table[list(columns)].drop_duplicates().itertuples(index=False)
    }
    if len(found) != 1:
        words = " and ".join(columns)
        raise ProfileImportError(f"found several values of {words}: {', '.join(sorted(found))}; expected tables of one")
    return found.pop()


def _folded(name: str, raw: "pd.DataFrame") -> "pd.DataFrame":
    """Our columns and unit, one row per condition, in their order."""
    names = _CONDITIONS[name]
    table = raw[list(names)].rename(columns=names)
    if name == "generation_attention":
        table["tokens"] = raw["isl"] + raw["step"]
    elif name == "context_attention":
        table["start"] = 0
    table["us"] = raw["latency"].astype("float64") * _US_PER_MS
    conditions = [column for column in COLUMNS[name] if column != "us"]
    return table.groupby(conditions, sort=True)[["us"]].median().reset_index()[list(COLUMNS[name])]


def _left_out(files: "Mapping[str, Path]", found: "Mapping[str, Path]") -> str:
    return f"without {', '.join(file.name for name, file in files.items() if name not in found)}"
