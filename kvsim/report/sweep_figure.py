"""Figures of a sweep: how the metrics of each variant follow one knob or two, with the intervals over the seeds.

One knob: a panel per metric with a line per variant. Two: such panels side by side, or heat maps where both have many
values. More: a figure per combination of the others. This module must not compute a metric; it is given statistics.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvsim.report.style import (
    MUTED,
    LineLook,
    decimals_for,
    drawing_style,
    legend_below,
    literal,
    new_figure,
    number_text,
    settle_layout,
    variant_looks,
)
from kvsim.report.sweep_looks import Scale, places_of, scales_of, short_names, value_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES_MAX = 24
COLUMNS_MAX = 4  # panels side by side
TICKS_MAX = 9
LOG_SPAN_X, LOG_SPAN_Y = 20.0, 50.0


def sweep_figures(statistics: "pd.DataFrame", knobs: Sequence[str], variants: Sequence[str]) -> "dict[str, Figure]":
    """Every figure of a sweep by its file name's stem; at most ``FIGURES_MAX``.

    ``statistics`` has a row per combination, variant and metric, with the columns of ``knobs``, ``variant``,
    ``metric``, ``mean``, ``low``, ``high``. ``variants`` fixes the order and with it the colours.
    """
    scales = scales_of(statistics)
    across, beside, *others = _ranked(statistics, knobs)
    names = short_names(knobs)
    groups = [("", statistics)]
    if others:
        groups = [
            (
                ", ".join(f"{names[knob]} = {value_text(value)}" for knob, value in zip(others, values, strict=True)),
                rows,
            )
            for values, rows in statistics.groupby(list(others), sort=False)
        ][:FIGURES_MAX]
    figures = {}
    for number, (fixed, rows) in enumerate(groups, 1):
        many = beside is not None and rows[beside].nunique() > COLUMNS_MAX
        draw = _heat_maps if many else _panels
        figure = draw(rows, across, beside, scales, variants, names, fixed)
        figures["sweep" if len(groups) == 1 else f"sweep-{number}"] = settle_layout(figure)
    return figures


def _ranked(statistics: "pd.DataFrame", knobs: Sequence[str]) -> list[Any]:
    """The knobs, numbers before names and many values before few; at least two places, None where there is no knob."""
    from pandas.api.types import is_numeric_dtype  # noqa: PLC0415

    ranked: list[Any] = sorted(
        knobs, key=lambda knob: (not is_numeric_dtype(statistics[knob]), -statistics[knob].nunique())
    )
    return ranked + [None] * (2 - len(ranked))


def _title(fixed: str, knobs: Sequence[str | None], names: Mapping[str, str]) -> str:
    over = " and ".join(literal(names[knob].split(" (")[0]) for knob in knobs if knob is not None)
    title = f"Sweep over {over}" if over else "Sweep over seeds"
    return f"{title}, {literal(fixed)}" if fixed else title


def _panels(
    rows: "pd.DataFrame",
    across: str | None,
    beside: str | None,
    scales: Sequence[Scale],
    variants: Sequence[str],
    names: Mapping[str, str],
    fixed: str,
) -> "Figure":
    """Lines over ``across``. Without ``beside`` two panels in a row; with it a row per metric, a column per value."""
    looks = variant_looks(variants)
    with drawing_style():
        title = _title(fixed, (across, beside), names)
        if beside is None:
            figure = new_figure(0.9 + 2.7 * ((len(scales) + 1) // 2), title)
            panels = list(figure.subplots((len(scales) + 1) // 2, 2, squeeze=False).flat)
            for panel, scale in zip(panels, scales, strict=False):
                _draw_lines(panel, rows, across, scale, looks)
                _set_y(panel, rows, scale)
                panel.set_title(scale.label)
                panel.set_ylabel(scale.unit + panel.get_ylabel())
                panel.set_xlabel(literal(names[across]) if across is not None else "")
            for panel in panels[len(scales) :]:
                panel.set_visible(False)
        else:
            values = list(dict.fromkeys(rows[beside]))
            figure = new_figure(0.9 + 1.9 * len(scales), title)
            grid = figure.subplots(len(scales), len(values), sharex=True, sharey="row", squeeze=False)
            for line, scale in zip(grid, scales, strict=True):
                for panel, value in zip(line, values, strict=True):
                    _draw_lines(panel, rows[rows[beside] == value], across, scale, looks)
                _set_y(line[0], rows, scale)  # the others share it
                line[0].set_ylabel(f"{scale.label}\n{scale.unit}{line[0].get_ylabel()}")
            for panel, value in zip(grid[0], values, strict=True):
                panel.set_title(f"{literal(names[beside])}: {literal(value_text(value))}")
            for panel in grid[-1]:
                panel.set_xlabel(literal(names[across]) if across is not None else "")
        _legend(figure, rows, looks)
    return figure


def _draw_lines(
    panel: "Axes", rows: "pd.DataFrame", across: str | None, scale: Scale, looks: Mapping[str, LineLook]
) -> None:
    """A line per variant; its interval is shaded, or without a knob a bar at each variant's point."""
    of_metric = rows[rows["metric"] == scale.metric]
    if across is None:
        _draw_points(panel, of_metric, scale, looks)
        return
    places = places_of(rows[across])
    for name, look in looks.items():
        line = of_metric[of_metric["variant"] == name]
        line = line.assign(place=line[across].map(places)).sort_values("place", kind="stable")
        x = line["place"].to_numpy()
        mean, low, high = (line[column].to_numpy() * scale.factor for column in ("mean", "low", "high"))
        panel.plot(x, mean, linestyle=look.dashes, color=look.colour, marker="o", markersize=3, label=literal(name))
        panel.fill_between(x, low, high, color=look.colour, alpha=0.2, linewidth=0)
    ticks = list(places.items())
    if any(isinstance(value, str) for value in places):
        panel.set_xticks([place for _, place in ticks], [literal(str(value)) for value, _ in ticks])
        panel.set_xlim(-0.3, len(ticks) - 0.7)
        return
    numbers = list(places.values())
    if min(numbers) > 0 and max(numbers) >= LOG_SPAN_X * min(numbers):
        panel.set_xscale("log")
        panel.set_xticks([], minor=True)
        panel.set_xticks(numbers[:: -(-len(numbers) // TICKS_MAX)])
        panel.xaxis.set_major_formatter("{x:g}")
    elif len(numbers) <= TICKS_MAX:
        panel.set_xticks(numbers, [value_text(number) for number in numbers])


def _draw_points(panel: "Axes", rows: "pd.DataFrame", scale: Scale, looks: Mapping[str, LineLook]) -> None:
    for place, (name, look) in enumerate(looks.items()):
        row = rows[rows["variant"] == name]
        mean = row["mean"].to_numpy() * scale.factor
        reach = (row["high"] - row["mean"]).to_numpy() * scale.factor
        panel.errorbar(
            [place] * len(mean), mean, yerr=reach, color=look.colour, marker="o", capsize=4, linestyle="none"
        )
    panel.set_xticks(range(len(looks)), [literal(name) for name in looks])
    panel.set_xlim(-0.5, len(looks) - 0.5)


def _set_y(panel: "Axes", rows: "pd.DataFrame", scale: Scale) -> None:
    means = rows.loc[rows["metric"] == scale.metric, "mean"] * scale.factor
    if scale.unit == "%":
        panel.set_ylim(0, 102)
    elif scale.metric != "goodput_req_per_s" and means.min() > 0 and means.max() > LOG_SPAN_Y * means.min():
        panel.set_yscale("log")
        panel.set_ylim(means.min() / 1.5, means.max() * 1.5)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_ylabel(" (log scale)")
    else:
        panel.set_ylim(bottom=0)


def _heat_maps(
    rows: "pd.DataFrame",
    across: str | None,
    beside: str | None,
    scales: Sequence[Scale],
    variants: Sequence[str],
    names: Mapping[str, str],
    fixed: str,
) -> "Figure":
    """A row per variant, a column each for the first and the last metric; the variants share the colours."""
    assert across is not None, "heat maps need two knobs"
    assert beside is not None, "heat maps need two knobs"
    x, y = list(places_of(rows[across])), list(places_of(rows[beside]))
    shown = list(dict.fromkeys((scales[0], scales[-1])))
    with drawing_style():
        figure = new_figure(0.9 + 2.8 * len(variants), _title(fixed, (across, beside), names))
        grid = figure.subplots(len(variants), len(shown), sharex=True, sharey=True, squeeze=False)
        for column, scale in enumerate(shown):
            of_metric = rows[rows["metric"] == scale.metric]
            least, most = of_metric["mean"].min() * scale.factor, of_metric["mean"].max() * scale.factor
            for panel, name in zip(grid[:, column], variants, strict=True):
                table = of_metric[of_metric["variant"] == name].pivot_table(index=beside, columns=across, values="mean")
                values = table.reindex(index=y, columns=x).to_numpy() * scale.factor
                image = panel.imshow(values, origin="lower", aspect="auto", cmap="cividis", vmin=least, vmax=most)
                _write_values(panel, values, (least + most) / 2)
                panel.set_title(f"{literal(name)}: {scale.label} ({scale.unit})")
                panel.set_xticks(range(len(x)), [literal(value_text(value)) for value in x])
                panel.set_yticks(range(len(y)), [literal(value_text(value)) for value in y])
                panel.grid(visible=False)
            figure.colorbar(image, ax=list(grid[:, column]), shrink=0.6)
            grid[-1, column].set_xlabel(literal(names[across]))
        for panel in grid[:, 0]:
            panel.set_ylabel(literal(names[beside]))
    return figure


def _write_values(panel: "Axes", values: Any, middle: float) -> None:
    """The number in each cell, dark on light and light on dark; none where they would not fit."""
    from numpy import isfinite  # noqa: PLC0415

    if values.shape[1] > 8:
        return
    digits = decimals_for([float(abs(values[isfinite(values)]).max(initial=0.0))])
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            colour = "#000000" if value > middle else "#ffffff"
            panel.text(x, y, number_text(float(value), digits), ha="center", va="center", color=colour, fontsize=8)


def _legend(figure: "Figure", rows: "pd.DataFrame", looks: Mapping[str, LineLook]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    handles: list[Any] = [Line2D([], [], color=look.colour, linestyle=look.dashes) for look in looks.values()]
    names = [literal(name) for name in looks]
    if rows["low"].notna().any():
        handles.append(Patch(color=MUTED, alpha=0.2))
        names.append("95 % interval over seeds")
    legend_below(figure, handles, names)
