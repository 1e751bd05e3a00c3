"""A figure of which worker had which role when: lanes of workers, for each variant in which one changed.

It draws what ``workers.parquet`` holds, in its intervals: a worker is shown draining or switching in the part of an
interval in which it was. It must not know policies.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from kvsim.report.style import INK, MUTED, STAGES, drawing_style, legend_below, literal, new_figure, ordered_roles

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NS_PER_S = 1e9
ROLE_COLOURS = {stage.key: stage.colour for stage in STAGES if stage.key in ("prefill", "decode")}
CHANGES = {"draining": MUTED, "switching": INK}
LANE, STRIP = 0.8, 0.3
"""Heights, in lanes, of a role and of the strip that shows a change."""


def role_changes(summary: Mapping[str, Any]) -> list[str]:
    """The variants in which a worker changed its role."""
    return [name for name, one in summary["variants"].items() if (one.get("role_switches") or {}).get("count")]


def role_figure(workers: "pd.DataFrame", variants: Sequence[str]) -> "Figure":
    """One panel a variant, one lane a worker, in the order of the table."""
    from matplotlib.patches import Patch  # noqa: PLC0415

    rows = {name: workers[workers["variant"] == name] for name in variants}
    lanes = {name: list(dict.fromkeys(mine["worker"])) for name, mine in rows.items()}
    heights = [0.24 * len(lanes[name]) + 0.3 for name in variants]
    end_s = max(float((mine["time_ns"] + mine["interval_ns"]).max()) for mine in rows.values()) / NS_PER_S
    with drawing_style():
        figure = new_figure(1.1 + sum(heights) + 0.35 * len(heights), "Roles: who computed prompts, who decoded")
        panels = figure.subplots(len(variants), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for panel, name in zip(panels, variants, strict=True):
            _draw_lanes(panel, rows[name], lanes[name])
            panel.set_title(literal(name))
        panels[-1].set(xlim=(0, end_s), xlabel="time (s)")
        roles = [role for role in ordered_roles(workers["role"].tolist()) if role in ROLE_COLOURS]
        handles = [Patch(color=ROLE_COLOURS[role]) for role in roles] + [
            Patch(color=colour) for colour in CHANGES.values()
        ]
        legend_below(figure, handles, [*roles, *CHANGES])
    return figure


def _draw_lanes(panel: "Axes", rows: "pd.DataFrame", lanes: Sequence[str]) -> None:
    """A broad bar of the role, with neighbours of one role in one piece; a strip inside it where it is about to
    change."""
    for place, worker in enumerate(lanes):
        mine = rows[rows["worker"] == worker].sort_values("time_ns")
        begins_s = mine["time_ns"].to_numpy(dtype=float) / NS_PER_S
        ends_s = begins_s + mine["interval_ns"].to_numpy(dtype=float) / NS_PER_S
        for role, first, last in _stretches(mine["role"].tolist()):
            colour = ROLE_COLOURS.get(role, MUTED)
            panel.barh(-place, ends_s[last] - begins_s[first], left=begins_s[first], height=LANE, color=colour)
        for change, colour in CHANGES.items():
            shares = mine[change].to_numpy(dtype=float)
            for index in range(len(shares)):
                if shares[index] > 0:
                    panel.barh(
                        -place,
                        (ends_s[index] - begins_s[index]) * shares[index],
                        left=begins_s[index],
                        height=STRIP,
                        color=colour,
                    )
    panel.set_yticks([-place for place in range(len(lanes))], [literal(worker) for worker in lanes])
    panel.set_ylim(-len(lanes) + 0.4, 0.6)
    panel.grid(visible=False, axis="y")
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _stretches(roles: Sequence[str]) -> list[tuple[str, int, int]]:
    """Role, first and last place of each stretch of equal neighbours."""
    found = []
    for role, group in groupby(range(len(roles)), key=roles.__getitem__):
        places = list(group)
        found.append((role, places[0], places[-1]))
    return found
