"""The figure of a comparison of runs: mean latencies side by side, and their differences with intervals.

It must not compute a metric; it is given the comparison.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from kvsim.report.style import (
    INK,
    MUTED,
    LineLook,
    decimals_for,
    drawing_style,
    literal,
    new_figure,
    number_text,
    settle_layout,
    time_unit,
    variant_looks,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {"ttft_s.mean": "mean TTFT", "tpot_s.mean": "mean TPOT", "e2e_s.mean": "mean E2E"}


def compare_figure(comparison: "pd.DataFrame") -> "Figure":
    """Upper row: the mean latencies of each candidate. Lower row: its difference to its base in per cent of that, with
    the 95 % interval where there is one."""
    names = list(dict.fromkeys(comparison["candidate"]))
    compared = [name for name in names if comparison.loc[comparison["candidate"] == name, "base"].notna().any()]
    looks = variant_looks(names)
    with drawing_style():
        figure = new_figure(1.8 + 0.34 * (len(names) + len(compared)), "Comparison: mean latencies and differences")
        heights = [len(names) + 0.5, len(compared) + 0.5]
        grid = figure.subplots(2, len(METRICS), sharey="row", gridspec_kw={"height_ratios": heights})
        for (metric, label), (above, below) in zip(METRICS.items(), grid.T, strict=True):
            rows = comparison[comparison["metric"] == metric].set_index("candidate")
            _draw_values(above, rows, names, looks)
            above.set_title(label)
            _draw_differences(below, rows, compared, looks)
        grid[0, 0].set_yticks(range(len(names)), [literal(name) for name in names])
        grid[0, 0].invert_yaxis()
        bases = comparison.dropna(subset=["base"]).drop_duplicates("candidate").set_index("candidate")["base"]
        grid[1, 0].set_yticks(range(len(compared)), [literal(f"{name} – {bases[name]}") for name in compared])
        grid[1, 0].set_ylim(len(compared) - 0.5, -0.5)
    return settle_layout(figure)


def _draw_values(panel: "Axes", rows: "pd.DataFrame", names: Sequence[str], looks: Mapping[str, LineLook]) -> None:
    factor, unit = time_unit(rows["value"])
    digits = decimals_for([float(rows["value"].max()) * factor]) if len(rows) else 0
    values: dict[str, float] = dict(zip(rows.index, rows["value"], strict=True))
    for place, name in enumerate(names):
        if name not in values:
            panel.text(0, place, " none", va="center", color=MUTED)
            continue
        value = values[name] * factor
        panel.barh(place, value, height=0.62, color=looks[name].colour)
        panel.text(value, place, f" {number_text(value, digits)}", va="center")
    panel.set_xlim(0, 1.25 * float(rows["value"].max()) * factor if len(rows) else 1)
    panel.grid(visible=False, axis="y")
    panel.set_xlabel(unit)


def _draw_differences(
    panel: "Axes", rows: "pd.DataFrame", compared: Sequence[str], looks: Mapping[str, LineLook]
) -> None:
    panel.axvline(0, color=INK, linewidth=0.8)
    known: dict[str, tuple[float, float, float]] = {
        name: (base, difference, high)
        for name, base, difference, high in rows[["base_value", "difference", "high"]].itertuples()
        if base > 0
    }
    for place, name in enumerate(compared):
        if name not in known:
            continue
        base, difference, high = known[name]
        percent = 100 / base
        reach = [(high - difference) * percent] if isfinite(high) else None
        panel.errorbar([difference * percent], [place], xerr=reach, color=looks[name].colour, marker="o", capsize=4)
    panel.grid(visible=False, axis="y")
    panel.set_xlabel("difference (%)")
