"""The figure of a validation: mean latencies for real and simulated side by side, and the errors of all statistics.

It must not compute a metric; it is given the rows.
"""

from typing import TYPE_CHECKING

from kvsim.report.style import (
    INK,
    MUTED,
    drawing_style,
    legend_below,
    literal,
    new_figure,
    settle_layout,
    time_unit,
    variant_looks,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LATENCIES = {"ttft": "mean TTFT", "tpot": "mean TPOT", "e2e": "mean E2E"}
MARKERS = {"mean": "o", "p50": "s", "p90": "^", "p99": "D"}
BAR = 0.38


def validation_figure(errors: "pd.DataFrame") -> "Figure":
    """``errors`` as in ``errors.parquet``. Upper row: the means of each variant in both worlds. Lower row: the signed
    error of every statistic in per cent of what was real."""
    names = list(dict.fromkeys(errors["variant"]))
    with drawing_style():
        figure = new_figure(2.2 + 0.8 * len(names), "Validation: reality and simulation of the same requests")
        grid = figure.subplots(2, len(LATENCIES), sharey=True)
        for (metric, label), (above, below) in zip(LATENCIES.items(), grid.T, strict=True):
            rows = errors[errors["metric"] == metric]
            _draw_means(above, rows[rows["statistic"] == "mean"].set_index("variant"), names)
            above.set_title(label)
            _draw_errors(below, rows, names)
        for row in grid:
            row[0].set_yticks(range(len(names)), [literal(name) for name in names])
            row[0].set_ylim(len(names) - 0.4, -0.6)
        bars, worlds = above.get_legend_handles_labels()
        points, statistics = below.get_legend_handles_labels()
        legend_below(figure, [*bars, *points], [*worlds, *statistics])
    return settle_layout(figure)


def _draw_means(panel: "Axes", rows: "pd.DataFrame", names: list[str]) -> None:
    looks = variant_looks(("real", "simulated"))
    factor, unit = time_unit([*rows["real_s"], *rows["simulated_s"]])
    for world, column, offset in (("real", "real_s", -BAR / 2), ("simulated", "simulated_s", BAR / 2)):
        values = rows[column].reindex(names) * factor
        places = [place + offset for place in range(len(names))]
        panel.barh(places, values, height=BAR, color=looks[world].colour, label=world)
    panel.grid(visible=False, axis="y")
    panel.set_xlabel(unit)


def _draw_errors(panel: "Axes", rows: "pd.DataFrame", names: list[str]) -> None:
    panel.axvline(0, color=INK, linewidth=0.8)
    for offset, (statistic, marker) in enumerate(MARKERS.items()):
        chosen = rows[rows["statistic"] == statistic].set_index("variant")
        places = [place + 0.16 * (offset - 1.5) for place in range(len(names))]
        percent = 100 * chosen["error"].reindex(names)
        colour = INK if statistic == "mean" else MUTED
        panel.plot(percent, places, marker=marker, linestyle="none", color=colour, markersize=5, label=statistic)
    panel.grid(visible=False, axis="y")
    panel.set_xlabel("error (% of real)")
