"""Figures of plans: goodput against latency and with its intervals, and the break-even map.

Given what ``plan.json`` holds. It must not compute anything of a plan.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvsim.report.plan_table import gbit_number, layout_text, percent_text, winner_text
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
from kvsim.units import format_duration_ns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODES = ("colocated", "pull", "push", "streamed", "message")
BARS_MAX = 14
GBIT_BYTES = 1e9 / 8
ADVANTAGE_SHOWN = 0.5  # colours of the map end here: beyond it a lead is a lead
Row = Mapping[str, Any]


def plan_figures(document: Mapping[str, Any]) -> "dict[str, Figure]":
    """Every figure of a plan by its file name's stem, in reading order."""
    if document["kind"] == "network":
        figures = {"break_even": break_even_figure(document), "goodput": bandwidth_figure(document)}
    else:
        figures = {"pareto": pareto_figure(document), "goodput": goodput_figure(document)}
    return {stem: settle_layout(figure) for stem, figure in figures.items()}


def pareto_figure(document: Mapping[str, Any]) -> "Figure":
    """Goodput per GPU against mean latency; the layouts that no other beats in both are joined and named."""
    rows = [row for row in document["configurations"] if row["goodput_req_per_s"]]
    factor, unit = time_unit(row["e2e_mean_s"] for row in rows)
    looks = variant_looks(MODES)
    with drawing_style():
        figure = new_figure(4.6, "Layouts: goodput and latency (up and left is better)")
        panel = figure.subplots()
        for mode in MODES:
            mine = [row for row in rows if row["mode"] == mode]
            latency = [row["e2e_mean_s"] * factor for row in mine]
            panel.scatter(latency, [row["goodput_per_gpu"] for row in mine], color=looks[mode].colour, s=40, zorder=3)
        front = sorted((row for row in rows if row["pareto"]), key=lambda row: float(row["e2e_mean_s"]))
        latency = [row["e2e_mean_s"] * factor for row in front]
        panel.plot(latency, [row["goodput_per_gpu"] for row in front], color=MUTED, linestyle=":", zorder=1)
        for row in front:
            place = (row["e2e_mean_s"] * factor, row["goodput_per_gpu"])
            panel.annotate(layout_text(row), place, textcoords="offset points", xytext=(5, 5), fontsize=8)
        panel.set_xlabel(f"mean E2E latency at the goodput ({unit})")
        panel.set_ylabel("goodput per GPU (req/s)")
        panel.margins(x=0.18, y=0.12)
        _mode_legend(figure, rows)
    return figure


def goodput_figure(document: Mapping[str, Any]) -> "Figure":
    """The goodput of each layout, the interval that runs leave for it, and what binds it."""
    rows = [row for row in document["configurations"] if row["goodput_req_per_s"]][:BARS_MAX]
    looks = variant_looks(MODES)
    with drawing_style():
        figure = new_figure(1.5 + 0.32 * len(rows), "Goodput by layout, and the resource that binds it")
        panel = figure.subplots()
        for place, row in enumerate(rows):
            goodput = row["goodput_req_per_s"]
            panel.barh(place, goodput, height=0.66, color=looks[row["mode"]].colour)
            low, high = row["goodput_low"] or goodput, row["goodput_high"] or goodput
            panel.plot([low, high], [place, place], color=INK, linewidth=1.4)
            panel.text(max(goodput, high), place, f"  {row['binding'] or ''}", va="center", fontsize=8)
        panel.set_yticks(range(len(rows)), [layout_text(row) for row in rows])
        panel.invert_yaxis()
        panel.margins(x=0.2)
        panel.grid(visible=False, axis="y")
        panel.set_xlabel("goodput (req/s); lines: from a rate that surely meets the limits to one that surely misses")
        _mode_legend(figure, rows)
    return figure


def break_even_figure(document: Mapping[str, Any]) -> "Figure":
    """Who wins at which bandwidth and prompt length; blue where disaggregation carries more than colocated workers."""
    cells = document["cells"]
    networks = list(dict.fromkeys((row["latency_ns"], row["nics_lost"]) for row in cells))
    lengths = sorted({row["prompt_tokens"] for row in cells})
    rates = sorted({row["bandwidth_bytes_per_s"] for row in cells})
    with drawing_style():
        height = 1.2 + len(networks) * (0.8 + 0.55 * len(lengths))
        figure = new_figure(height, "Where disaggregation pays: the winner, and its lead over colocated workers")
        panels = figure.subplots(len(networks), 1, squeeze=False)[:, 0]
        for panel, network in zip(panels, networks, strict=True):
            mine = [row for row in cells if (row["latency_ns"], row["nics_lost"]) == network]
            _draw_map(panel, mine, lengths, rates)
            panel.set_title(network_text(*network))
            panel.set_ylabel("prompt tokens")
        panels[-1].set_xlabel("bandwidth of a NIC, each way (Gbit/s)")
    return figure


def _draw_map(panel: "Axes", rows: Sequence[Row], lengths: Sequence[int], rates: Sequence[float]) -> None:
    import numpy as np  # noqa: PLC0415

    colours = np.full((len(lengths), len(rates)), np.nan)
    for row in rows:
        at = lengths.index(row["prompt_tokens"]), rates.index(row["bandwidth_bytes_per_s"])
        colours[at] = _colour_value(row)
        panel.text(
            at[1], at[0], f"{winner_text(row)}\n{percent_text(row['advantage'])}", ha="center", va="center", fontsize=8
        )
    panel.imshow(colours, cmap="RdBu", vmin=-ADVANTAGE_SHOWN, vmax=ADVANTAGE_SHOWN, aspect="auto", alpha=0.55)
    panel.set_xticks(range(len(rates)), [gbit_number(rate) for rate in rates])
    panel.set_yticks(range(len(lengths)), [f"{tokens:,}" for tokens in lengths])
    panel.grid(visible=False)


def _colour_value(row: Row) -> float:
    """The advantage; where colocated workers meet no limit, a full one for whoever does."""
    if row["advantage"] is None:
        return ADVANTAGE_SHOWN if row["goodput_disaggregated"] else float("nan")
    return float(max(-ADVANTAGE_SHOWN, min(ADVANTAGE_SHOWN, row["advantage"])))


def bandwidth_figure(document: Mapping[str, Any]) -> "Figure":
    """Goodput over bandwidth, a line per mode; one panel per network and prompt length."""
    cells = document["cells"]
    panels_of: dict[tuple[int, int | None, int], list[Row]] = {}
    for row in cells:
        panels_of.setdefault((row["prompt_tokens"], row["latency_ns"], row["nics_lost"]), []).append(row)
    looks = variant_looks(MODES)
    columns = min(3, len(panels_of))
    lines = -(-len(panels_of) // columns)
    with drawing_style():
        figure = new_figure(0.9 + 2.5 * lines, "Goodput over bandwidth")
        panels = list(figure.subplots(lines, columns, squeeze=False).flat)
        for panel, ((tokens, latency, lost), rows) in zip(panels, panels_of.items(), strict=False):
            rates = [row["bandwidth_bytes_per_s"] / GBIT_BYTES for row in rows]
            for mode in MODES:
                if any(f"goodput_{mode}" in row for row in rows):
                    goodputs = [row.get(f"goodput_{mode}") for row in rows]
                    known = [value if value is not None else float("nan") for value in goodputs]
                    panel.plot(rates, known, color=looks[mode].colour, linestyle=looks[mode].dashes, marker=".")
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter("{x:g}")
            panel.set_ylim(bottom=0)
            panel.set_title(f"{tokens:,} tokens" + (f", {network_text(latency, lost)}" if latency or lost else ""))
            panel.set_xlabel("Gbit/s of a NIC")
            panel.set_ylabel("req/s")
        for panel in panels[len(panels_of) :]:
            panel.set_axis_off()
        _mode_legend(figure, [{"mode": mode} for mode in MODES if any(f"goodput_{mode}" in row for row in cells)])
    return figure


def network_text(latency_ns: int | None, nics_lost: int) -> str:
    """A network in words."""
    latency = "latency as in the scenario" if latency_ns is None else f"latency {format_duration_ns(latency_ns)}"
    return latency + (f", NICs that each worker has lost: {nics_lost}" if nics_lost else "")


def _mode_legend(figure: "Figure", rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    looks = variant_looks(MODES)
    present = [mode for mode in MODES if any(row["mode"] == mode for row in rows)]
    handles = [Line2D([], [], color=looks[mode].colour, linewidth=5) for mode in present]
    legend_below(figure, handles, [literal(mode) for mode in present])
