"""What a profile measured, drawn: times over tokens, requests or context, a line for each of a few shapes.

It must not fit anything.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim.errors import KvsimError
from kvsim.report.style import drawing_style, new_figure, settle_layout

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LINES = 6
"""Shapes that are drawn of a table: those with the most points."""

_OVER = {
    "gemm": ("m", "tokens"),
    "context_attention": ("tokens", "tokens of each prompt"),
    "generation_attention": ("tokens", "tokens of context of each request"),
}


class NothingToDrawError(KvsimError):
    """A profile holds neither steps nor tables of kernels."""


def draw_profile(profile: Mapping[str, Any], folder: Path, out: Path) -> None:
    """Write the figure of a profile as its file holds it; the format is that of the name. Tables lie in ``folder``.
    Raises NothingToDrawError."""
    panels: list[Callable[[Axes], None]] = []
    if profile.get("steps"):
        panels += [lambda axes: _draw_prefill(axes, profile), lambda axes: _draw_decode(axes, profile)]
    for name in profile["tables"]:
        if name in _OVER:
            panels.append(lambda axes, name=name: _draw_table(axes, name, _read(profile, folder, name)))  # type: ignore[misc]
    if not panels:
        raise NothingToDrawError(
            f"{profile['name']}: found neither steps nor tables of kernels, expected something to draw"
        )
    with drawing_style():
        figure = new_figure(1.0 + 2.6 * len(panels), f"{profile['name']}: {profile['machine']}")
        grid = figure.subplots(len(panels), 1, squeeze=False)
        for axes, draw in zip(grid[:, 0], panels, strict=True):
            draw(axes)
        settle_layout(figure).savefig(out)


def _read(profile: Mapping[str, Any], folder: Path, name: str) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415

    file = folder / profile["tables"][name]["file"]
    if not file.is_file():
        raise NothingToDrawError(f"found no file {file}, expected the table {name} beside the profile")
    return pd.read_parquet(file)


def _draw_prefill(axes: "Axes", profile: Mapping[str, Any]) -> None:
    rows = profile["steps"]["prefill"]["tokens"]
    axes.plot([row["tokens"] for row in rows], [row["ns"] / 1e6 for row in rows], marker=".")
    axes.set(title="prefill steps", xlabel="prompt tokens", ylabel="ms")


def _draw_decode(axes: "Axes", profile: Mapping[str, Any]) -> None:
    rows = profile["steps"]["decode"]
    axes.plot([row["requests"] for row in rows], [row["ns"] / 1e6 for row in rows], marker=".")
    axes.set(title="decode steps, beside attention to context", xlabel="requests", ylabel="ms")


def _draw_table(axes: "Axes", name: str, table: "pd.DataFrame") -> None:
    over, label = _OVER[name]
    shape = [column for column in table.columns if column not in (over, "us")]
    sizes = table.groupby(shape).size().sort_values(ascending=False, kind="stable")
    for key in sizes.index[:: max(1, len(sizes) // LINES)][:LINES]:
        rows = table.set_index(shape).sort_index().loc[[key]].sort_values(over)
        named = ", ".join(f"{column} {value}" for column, value in zip(shape, key, strict=True))
        axes.plot(rows[over], rows["us"], marker=".", label=named)
    axes.set(title=name.replace("_", " "), xlabel=label, ylabel="us", xscale="log", yscale="log")
    axes.legend(fontsize="x-small")
