"""The figure of a simulated run beside the recorded one: predicted against measured, and the error by load.

It must not compute a latency; it is given the requests.
"""

from typing import TYPE_CHECKING

from kvsim.report.style import (
    INK,
    MUTED,
    drawing_style,
    legend_below,
    new_figure,
    settle_layout,
    time_unit,
    variant_looks,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
_BINS = 12


def recorded_figure(requests: "pd.DataFrame") -> "Figure":
    """``requests`` as in ``kvsim.validation.recorded.Comparison``. Upper row: a point a request, and the line on which
    a true prediction lies. Lower row: its signed error by the requests that were in the system when it arrived, and
    the median of each twelfth of the range."""
    looks = variant_looks(LABELS)
    with drawing_style():
        figure = new_figure(6.4, "Simulation held against a recorded run, request by request")
        grid = figure.subplots(2, len(LABELS))
        for (latency, label), (above, below) in zip(LABELS.items(), grid.T, strict=True):
            colour = looks[latency].colour
            _draw_points(above, requests, latency, colour)
            above.set_title(label)
            _draw_errors(below, requests, latency, colour)
        grid[0, 0].set_ylabel("predicted")
        grid[1, 0].set_ylabel("error (% of measured)")
        handles, labels = zip(*(grid[row, 0].get_legend_handles_labels() for row in (0, 1)), strict=True)
        legend_below(figure, [*handles[0], *handles[1]], [*labels[0], *labels[1]])
    return settle_layout(figure)


def _draw_points(panel: "Axes", requests: "pd.DataFrame", latency: str, colour: str) -> None:
    measured, predicted = requests[f"{latency}_measured_s"], requests[f"{latency}_predicted_s"]
    factor, unit = time_unit([*measured.dropna(), *predicted.dropna()])
    end = 1.05 * factor * max(measured.max(), predicted.max())
    panel.plot([0, end], [0, end], color=INK, linewidth=0.8, label="true prediction")
    panel.plot(measured * factor, predicted * factor, linestyle="none", marker=".", markersize=3, color=colour)
    panel.set_xlim(0, end)
    panel.set_ylim(0, end)
    panel.set_xlabel(f"measured ({unit})")


def _draw_errors(panel: "Axes", requests: "pd.DataFrame", latency: str, colour: str) -> None:
    import pandas as pd  # noqa: PLC0415  # heavy

    load, error = requests["in_system"], 100 * requests[f"{latency}_error"]
    panel.axhline(0, color=INK, linewidth=0.8)
    panel.plot(load, error, linestyle="none", marker=".", markersize=3, color=colour)
    bins = pd.cut(load, min(_BINS, max(1, load.nunique())))
    medians = error.groupby(bins, observed=True).median()
    panel.plot([edge.mid for edge in medians.index], medians, color=MUTED, marker="o", markersize=4, label="median")
    panel.set_xlabel("requests in the system at its arrival")
