"""The figure that says where the time of a mean request goes, stage by stage.

It must not compute a stage: it draws ``stages_s`` of the summary.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvsim.report.style import (
    STAGES,
    Stage,
    decimals_for,
    drawing_style,
    legend_below,
    literal,
    new_figure,
    number_text,
    time_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def stage_breakdown_figure(summary: Mapping[str, Any]) -> "Figure":
    """Where the mean request spends its time: one stacked bar per variant, with the time in and behind the bars. Decode
    often dwarfs the rest, so a second panel shows what comes before it at its own scale."""
    stages = {name: variant["stages_s"] for name, variant in summary["variants"].items()}
    with drawing_style():
        figure = new_figure(1.6 + 0.5 * len(stages), "Stages: where the time of a mean request goes")
        whole, before_decode = figure.subplots(1, 2, sharey=True)
        _draw_stages(whole, stages, STAGES, "from arrival to the last token")
        _draw_stages(before_decode, stages, [stage for stage in STAGES if stage.key != "decode"], "before decode")
        whole.set_yticks(range(len(stages)), [literal(name) for name in stages])
        whole.invert_yaxis()
        handles, labels = whole.get_legend_handles_labels()
        legend_below(figure, handles, labels, columns=3)
    return figure


def _draw_stages(
    panel: "Axes", stages: Mapping[str, Mapping[str, float | None]], shown: Sequence[Stage], title: str
) -> None:
    """One stacked bar per variant of the stages that are shown."""
    totals = [sum(seconds.get(stage.key) or 0.0 for stage in shown) for seconds in stages.values()]
    longest = max(totals, default=0.0) or 1.0
    factor, unit = time_unit([longest])
    digits = decimals_for([longest * factor])
    lefts = [0.0] * len(stages)
    for stage in shown:
        widths = [(seconds.get(stage.key) or 0.0) * factor for seconds in stages.values()]
        panel.barh(range(len(stages)), widths, left=lefts, height=0.62, color=stage.colour, label=stage.label)
        for place, (left, width) in enumerate(zip(lefts, widths, strict=True)):
            if width > 0.12 * longest * factor:  # a narrower one has no room for a number
                text = number_text(width, digits)
                panel.text(left + width / 2, place, text, ha="center", va="center", color=stage.label_colour)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    for place, total in enumerate(lefts):
        panel.text(total, place, f" {number_text(total, digits)} {unit}", va="center", fontweight="bold")
    panel.set_title(title)
    panel.set_xlim(0, 1.25 * longest * factor)
    panel.grid(visible=False, axis="y")
    panel.set_xlabel(f"mean time per request ({unit})")
