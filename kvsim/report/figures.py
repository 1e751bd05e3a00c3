"""Figures of a run folder: latency distributions, stages, KV memory, load. Each function returns a figure.

Figures are built as objects, never through pyplot, and under a style of their own, so that neither a caller's
settings nor an open notebook figure matters. The same inputs give the same SVG and PNG bytes. This module must not
compute a metric that ``summary`` holds; it draws distributions and time series from the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kvsim.report.fault_figure import fault_figure
from kvsim.report.role_figure import role_changes, role_figure
from kvsim.report.stage_figure import stage_breakdown_figure
from kvsim.report.style import (
    INK,
    MUTED,
    LineLook,
    drawing_style,
    figure_bytes,
    legend_below,
    literal,
    new_figure,
    ordered_roles,
    settle_layout,
    time_unit,
    variant_looks,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Floats: TypeAlias = npt.NDArray[np.float64]

NS_PER_S = 1e9
POINTS_PER_CURVE, POINTS_PER_SERIES = 240, 120  # more blur into each other, and a page stays small however long the run
LOG_SPAN = 100.0

LATENCIES = {
    "TTFT": ("arrival_ns", "first_token_ns", "arrival to first token"),
    "TPOT": ("first_token_ns", "finished_ns", "mean time between a request's tokens"),
    "E2E": ("arrival_ns", "finished_ns", "arrival to last token"),
    "transfer": ("transfer_start_ns", "transfer_end_ns", "start to KV usable at the target"),
}


def latency_cdf_figure(requests: "pd.DataFrame", variants: Sequence[str] | None = None) -> "Figure":
    """Which share of the requests was at most this slow, for TTFT, TPOT, E2E and transfer; one line per variant.

    ``variants`` fixes the order and with it the colours; without it the order of appearance does.
    """
    names = _names(requests, variants)
    looks = variant_looks(names)
    with drawing_style():
        figure = new_figure(6.2, "Latency: share of the requests that were at most this slow")
        for latency, panel in zip(LATENCIES, figure.subplots(2, 2).flat, strict=True):
            seconds = {name: _sorted_seconds(requests[requests["variant"] == name], latency) for name in names}
            _draw_cdf(panel, seconds, looks)
            panel.set_title(f"{latency}: {LATENCIES[latency][2]}")
            panel.set_ylabel("share of requests (%)")
        _variant_legend(figure, looks)
    return figure


def _sorted_seconds(rows: "pd.DataFrame", latency: str) -> "Floats":
    """One value for each finished request that has both instants (TPOT: and more than one output token)."""
    import numpy as np  # noqa: PLC0415

    start, end, _ = LATENCIES[latency]
    finished = rows["finished_ns"].notna() & rows["first_token_ns"].notna()  # a rejected one has no token
    known = rows[finished & rows[start].notna() & rows[end].notna()]
    if latency == "TPOT":
        known = known[known["output_tokens"] > 1]
    seconds = (known[end] - known[start]).to_numpy(dtype=np.float64) / NS_PER_S
    if latency == "TPOT":
        seconds = seconds / (known["output_tokens"].to_numpy(dtype=np.float64) - 1)
    return np.sort(seconds)


def _draw_cdf(panel: "Axes", seconds: Mapping[str, "Floats"], looks: Mapping[str, LineLook]) -> None:
    import numpy as np  # noqa: PLC0415

    present = {name: values for name, values in seconds.items() if len(values)}
    panel.set_ylim(0, 102)
    absent = [literal(name) for name in seconds if name not in present]
    if absent:
        panel.text(0.97, 0.05, f"none: {', '.join(absent)}", transform=panel.transAxes, ha="right", color=MUTED)
    least = min((float(values[0]) for values in present.values()), default=0.0)
    most = max((float(values[-1]) for values in present.values()), default=1.0)
    factor, unit = time_unit([most])
    for name, values in present.items():
        # as many ranks as a line can show, always with the first and the last
        ranks = np.unique(np.linspace(0, len(values) - 1, min(len(values), POINTS_PER_CURVE)).round().astype(np.int64))
        shares = 100.0 * (ranks + 1) / len(values)
        look = looks[name]
        panel.plot(values[ranks] * factor, shares, linestyle=look.dashes, color=look.colour, label=literal(name))
    if least > 0 and most > LOG_SPAN * least:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_xlabel(f"{unit} (log scale)")
    else:
        panel.set_xlim(left=0)
        panel.set_xlabel(unit)


@dataclass(frozen=True, slots=True)
class _RoleSeries:
    """What the workers of one role of one variant did together, as lines of at most ``POINTS_PER_SERIES`` points.

    Blocks and rates are sums over the workers, ``busy_percent`` is their mean.
    """

    pool_blocks: float
    time_s: "Floats"
    reserved_percent: "Floats"
    filled_percent: "Floats"
    busy_percent: "Floats"
    sent_bytes_per_s: "Floats"
    received_bytes_per_s: "Floats"


def _series_by_role(workers: "pd.DataFrame", variant: str) -> dict[str, _RoleSeries]:
    """Roles in the order of a request's life. Where samples are too many, neighbours are averaged."""
    import numpy as np  # noqa: PLC0415

    rows = workers[workers["variant"] == variant]
    series = {}
    for role in ordered_roles(rows["role"].tolist()):
        groups = rows[rows["role"] == role].groupby("time_ns", sort=True)
        sums = groups.sum(numeric_only=True).astype(np.float64).reset_index()
        sums["busy"] = groups["busy"].mean().to_numpy(dtype=np.float64)
        bins = np.arange(len(sums)) * min(len(sums), POINTS_PER_SERIES) // len(sums)
        weights = sums["interval_ns"]
        weighted = sums.mul(weights, axis=0).groupby(bins).sum().div(weights.groupby(bins).sum(), axis=0)
        pool_blocks = float(sums["kv_blocks"].max())
        series[role] = _RoleSeries(
            pool_blocks=pool_blocks,
            time_s=weighted["time_ns"].to_numpy() / NS_PER_S,
            reserved_percent=100 * weighted["kv_reserved_blocks"].to_numpy() / pool_blocks,
            filled_percent=100 * weighted["kv_filled_blocks"].to_numpy() / pool_blocks,
            busy_percent=100 * weighted["busy"].to_numpy(),
            sent_bytes_per_s=weighted["sent_bytes_per_s"].to_numpy(),
            received_bytes_per_s=weighted["received_bytes_per_s"].to_numpy(),
        )
    return series


def memory_figure(workers: "pd.DataFrame", variants: Sequence[str] | None = None) -> "Figure":
    """KV blocks reserved and filled over time, in per cent of each role's pool; the gap between them is shaded.

    One row per variant, one panel per role. Panels of one role share their scale, so that variants can be compared.
    """
    from matplotlib.lines import Line2D  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    series = {name: _series_by_role(workers, name) for name in _names(workers, variants)}
    looks = variant_looks(series)
    everything = [(role, one) for by_role in series.values() for role, one in by_role.items()]
    end_s = max((float(one.time_s[-1]) for _, one in everything), default=0.0) or 1.0
    with drawing_style():
        figure = new_figure(1.2 + 1.8 * len(series), "KV memory: blocks reserved, blocks filled, and the gap")
        rows = figure.add_gridspec(max(len(series), 1), 1)
        for row, (name, by_role) in enumerate(series.items()):
            cells = rows[row].subgridspec(1, max(len(by_role), 1))
            for column, (role, one) in enumerate(by_role.items()):
                panel = figure.add_subplot(cells[column])
                top = max(float(other.reserved_percent.max()) for other_role, other in everything if other_role == role)
                _draw_memory(panel, one, looks[name])
                title = literal(name) if name == role else f"{literal(name)}, {role}"
                panel.set_title(f"{title}: pool of {one.pool_blocks:,.0f} blocks")
                panel.set(xlim=(0, end_s), ylim=(0, max(1.08 * top, 1.0)), ylabel="% of the pool")
                if row == len(series) - 1:
                    panel.set_xlabel("time (s)")
        lines = [Line2D([], [], color=colour, linewidth=1.2) for colour in (MUTED, INK)]
        legend_below(figure, [*lines, Patch(color=MUTED, alpha=0.3)], ["reserved", "filled", "reserved but not filled"])
    return figure


def _draw_memory(panel: "Axes", series: _RoleSeries, look: LineLook) -> None:
    filled, reserved = series.filled_percent, series.reserved_percent
    panel.fill_between(series.time_s, filled, reserved, color=look.colour, alpha=0.35, linewidth=0)
    panel.plot(series.time_s, reserved, color=look.colour, linewidth=1.2, label="reserved")
    panel.plot(series.time_s, filled, color=INK, linewidth=1.2, label="filled")


def load_figure(workers: "pd.DataFrame", variants: Sequence[str] | None = None) -> "Figure":
    """How busy the GPUs are (upper row) and how much the links carry (lower row) over time; one column per role."""
    series = {name: _series_by_role(workers, name) for name in _names(workers, variants)}
    looks = variant_looks(series)
    roles = ordered_roles(role for by_role in series.values() for role in by_role)
    end_s = max((float(one.time_s[-1]) for by_role in series.values() for one in by_role.values()), default=0.0) or 1.0
    with drawing_style():
        figure = new_figure(5.2, "Load: how busy the GPUs are and how much the links carry")
        grid = figure.subplots(2, max(len(roles), 1), sharex=True, sharey="row", squeeze=False)
        for column, role in enumerate(roles):
            busy, link = grid[:, column]
            present = {name: by_role[role] for name, by_role in series.items() if role in by_role}
            for name, one in present.items():
                look = looks[name]
                busy.plot(
                    one.time_s, one.busy_percent, linestyle=look.dashes, color=look.colour, label=literal(name), lw=1.2
                )
            _draw_links(link, role, present, looks)
            busy.set_title(f"{role} GPUs")
            link.set_xlabel("time (s)")
        grid[0, 0].set(xlim=(0, end_s), ylim=(0, 102), ylabel="busy, mean of workers (%)")
        grid[1, 0].set_ylabel("link rate, all workers (GB/s)")
        grid[1, 0].set_ylim(bottom=0)
        _variant_legend(figure, looks)
    return figure


def _draw_links(panel: "Axes", role: str, series: Mapping[str, _RoleSeries], looks: Mapping[str, LineLook]) -> None:
    """The direction that carries most: prefill workers send KV, decode workers receive it."""
    sent = sum(float(one.sent_bytes_per_s.sum()) for one in series.values())
    received = sum(float(one.received_bytes_per_s.sum()) for one in series.values())
    if not sent and not received:
        panel.set_title(f"{role} links: no traffic")
        return
    panel.set_title(f"{role} links: {'sent' if sent >= received else 'received'}")
    for name, one in series.items():
        rate_bytes_per_s = one.sent_bytes_per_s if sent >= received else one.received_bytes_per_s
        look = looks[name]
        panel.plot(
            one.time_s, rate_bytes_per_s / 1e9, linestyle=look.dashes, color=look.colour, label=literal(name), lw=1.2
        )


def all_figures(
    summary: Mapping[str, Any],
    requests: "pd.DataFrame",
    workers: "pd.DataFrame",
    faults: Mapping[str, Any] | None = None,
) -> "dict[str, Figure]":
    """Every figure of a run folder by its file name's stem, in reading order. ``faults`` is what ``faults.json`` holds;
    without any there is no figure of them, nor one of roles if nobody changed his."""
    variants = list(summary["variants"])
    figures = {
        "latency": latency_cdf_figure(requests, variants),
        "stages": stage_breakdown_figure(summary),
        "memory": memory_figure(workers, variants),
        "load": load_figure(workers, variants),
    }
    if changing := role_changes(summary):
        figures["roles"] = role_figure(workers, changing)
    if faults and any(one["struck"] for one in faults.values()):
        figures["faults"] = fault_figure(faults, requests, list(dict.fromkeys(workers["worker"])))
    return {stem: settle_layout(figure) for stem, figure in figures.items()}


@dataclass(frozen=True, slots=True)
class DrawnFigure:
    """A figure as the contents of two files. Drawing takes a second or so: do it once and use it everywhere."""

    title: str
    svg: bytes
    png: bytes


def draw_figures(
    summary: Mapping[str, Any],
    requests: "pd.DataFrame",
    workers: "pd.DataFrame",
    faults: Mapping[str, Any] | None = None,
) -> dict[str, DrawnFigure]:
    """Every figure of a run, drawn, by the stem of its file name."""
    return {
        stem: DrawnFigure(figure.get_suptitle(), figure_bytes(figure, "svg"), figure_bytes(figure, "png"))
        for stem, figure in all_figures(summary, requests, workers, faults).items()
    }


def save_figures(folder: Path, figures: Mapping[str, DrawnFigure]) -> list[Path]:
    """Write every figure as SVG and PNG into ``folder``, which is made if need be. Returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for stem, figure in figures.items():
        for suffix, contents in (("svg", figure.svg), ("png", figure.png)):
            path = folder / f"{stem}.{suffix}"
            path.write_bytes(contents)
            paths.append(path)
    return paths


def _variant_legend(figure: "Figure", looks: Mapping[str, LineLook]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    handles = [Line2D([], [], color=look.colour, linestyle=look.dashes) for look in looks.values()]
    legend_below(figure, handles, [literal(name) for name in looks])


def _names(table: "pd.DataFrame", variants: Sequence[str] | None) -> list[str]:
    return list(table["variant"].unique()) if variants is None else list(variants)
