"""The presets as terminal tables: what ``kvsim list`` prints, every figure with its source."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kvsim.presets import Preset, load_gpus, load_models, load_nics

if TYPE_CHECKING:
    from rich.table import Table

LOADERS: dict[str, Callable[[], Mapping[str, Preset[Any]]]] = {
    "models": load_models,
    "gpus": load_gpus,
    "nics": load_nics,
}


def presets_table(kind: str) -> "Table":
    """One preset a row: its name, its values as a scenario would write them, and where they come from."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_lines=True)
    table.add_column("name", no_wrap=True)
    table.add_column("values")
    table.add_column("source", overflow="fold")
    for preset in LOADERS[kind]().values():
        values = ", ".join(f"{key} {_short(value)}" for key, value in preset.fields.items() if key != "name")
        table.add_row(preset.name, values, preset.source)
    return table


def _short(value: object) -> str:
    """A value as a scenario would write it; of measured times, what they are."""
    if isinstance(value, list):
        return "for " + ", ".join(f"{one['ranks']} ({_short(one)})" for one in value)
    if isinstance(value, dict) and "sizes" not in value:
        return "(" + ", ".join(f"{key} {_short(one)}" for key, one in value.items()) + ")"
    if isinstance(value, dict):
        return f"{len(value['sizes'])} points, {value['sizes'][0]} to {value['sizes'][-1]}"
    return str(value)
