"""A figure of what went wrong when, and how many requests were waiting for it to be over.

One part per variant in which faults struck: lanes with a bar for each fault of a worker, a link or the controller and a
tick for each of a transfer or a client, then lanes of what the scheduler did about them, and below the requests in the
system. It must not know how faults work.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvsim.report.style import INK, MUTED, drawing_style, legend_below, literal, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NS_PER_S = 1e9
POINTS = 400

_LOOKS = {
    "worker gone": ("#D55E00", ("worker_crash", "worker_hang", "worker_drained")),
    "worker slow": ("#E69F00", ("worker_slow",)),
    "worker joins": ("#009E73", ("worker_joins",)),
    "link": ("#0072B2", ("link_down", "link_flapping", "link_degraded", "link_latency", "nic_lost")),
    "controller gone": ("#CC79A7", ("controller_restart",)),
    "transfer": (INK, ("transfer_failed", "completion_lost", "completion_duplicated", "completion_reordered")),
    "client gone": (MUTED, ("client_cancels",)),
}
"""What the legend calls a group of kinds: its colour (Okabe-Ito, see ``kvsim.report.style``) and the kinds."""

_GROUPS = {kind: group for group, (_, kinds) in _LOOKS.items() for kind in kinds}
_LANES = {"controller gone": "controller", "transfer": "transfers", "client gone": "clients"}
_MOMENTS = ("transfer", "client gone", "worker joins")
_ANSWERS = {"transfer_retried": ("retries", "#56B4E9"), "lease_expired": ("leases expired", "#882255")}
"""Lane and colour of what the scheduler does, as ``faults.json`` calls it."""


def fault_figure(faults: Mapping[str, Any], requests: "pd.DataFrame", workers: Sequence[str]) -> "Figure":
    """``faults`` is what ``faults.json`` holds; ``workers`` orders the lanes."""
    from matplotlib.lines import Line2D  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    struck = {name: one["struck"] for name, one in faults.items() if one["struck"]}
    answered = {name: _answers_by_lane(faults[name].get("answered", ())) for name in struck}
    lanes = {name: [*_lanes(those, workers), *answered[name]] for name, those in struck.items()}
    end_s = float(requests["finished_ns"].max() or 0) / NS_PER_S or 1.0
    heights = [ratio for name in struck for ratio in (0.24 * len(lanes[name]) + 0.1, 1.2)]
    with drawing_style():
        figure = new_figure(1.0 + sum(heights) + 0.55 * len(struck), "Faults: what struck when, and who waited")
        grid = figure.subplots(2 * len(struck), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for place, (name, those) in enumerate(struck.items()):
            upper, lower = grid[2 * place], grid[2 * place + 1]
            _draw_lanes(upper, those, lanes[name], end_s)
            _draw_answers(upper, answered[name], len(lanes[name]))
            upper.set_title(literal(name))
            _draw_waiting(lower, requests[requests["variant"] == name], end_s)
        grid[-1].set(xlim=(0, end_s), xlabel="time (s)")
        seen = {_GROUPS[fault["kind"]] for those in struck.values() for fault in those}
        groups = [group for group in _LOOKS if group in seen]
        handles = [
            Line2D([], [], color=_LOOKS[group][0], marker="|", markersize=9, linestyle="none", markeredgewidth=1.5)
            if group in _MOMENTS
            else Patch(color=_LOOKS[group][0])
            for group in groups
        ]
        legend_below(figure, handles, groups)
    return figure


def _lanes(struck: Sequence[Mapping[str, Any]], workers: Sequence[str]) -> list[str]:
    """Every lane that has something on it: workers in their order, uplinks, controller, transfers, clients."""
    present = {_lane_of(fault) for fault in struck}
    others = [*_LANES.values()]
    uplinks = sorted(lane for lane in present if lane not in workers and lane not in others)
    return [lane for lane in (*workers, *uplinks, *others) if lane in present]


def _answers_by_lane(answered: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Instants in s of what the scheduler did, by lane; lanes without any are left out."""
    instants_s: dict[str, list[float]] = {lane: [] for lane, _ in _ANSWERS.values()}
    for answer in answered:
        if answer["what"] in _ANSWERS:
            instants_s[_ANSWERS[answer["what"]][0]].append(answer["at_ns"] / NS_PER_S)
    return {lane: instants for lane, instants in instants_s.items() if instants}


def _draw_answers(panel: "Axes", answered: Mapping[str, Sequence[float]], lanes: int) -> None:
    """Ticks in the last lanes."""
    colours = dict(_ANSWERS.values())
    for place, (lane, instants_s) in enumerate(answered.items(), lanes - len(answered)):
        panel.plot(instants_s, [-place] * len(instants_s), "|", color=colours[lane], markersize=7)


def _lane_of(fault: Mapping[str, Any]) -> str:
    return fault.get("worker") or fault.get("uplink") or _LANES[_GROUPS[fault["kind"]]]


def _draw_lanes(panel: "Axes", struck: Sequence[Mapping[str, Any]], lanes: Sequence[str], end_s: float) -> None:
    heights = {lane: -place for place, lane in enumerate(lanes)}
    for group, (colour, _) in _LOOKS.items():
        mine = [fault for fault in struck if _GROUPS[fault["kind"]] == group]
        if group in _MOMENTS:
            points = [(fault["at_ns"] / NS_PER_S, heights[_lane_of(fault)]) for fault in mine]
            panel.plot(*zip(*points, strict=True), "|", color=colour, markersize=7) if points else None
            continue
        for fault in mine:
            start_s = fault["at_ns"] / NS_PER_S
            until_s = fault["until_ns"] / NS_PER_S if "until_ns" in fault else end_s
            height = heights[_lane_of(fault)]
            panel.plot([start_s], [height], "|", color=colour, markersize=8, markeredgewidth=1.5)  # however short it is
            panel.barh(height, min(until_s, end_s) - start_s, left=start_s, height=0.62, color=colour, alpha=0.75)
    panel.set_yticks(list(heights.values()), [literal(lane) for lane in lanes])
    panel.set_ylim(-len(lanes) + 0.4, 0.6)
    panel.grid(visible=False, axis="y")
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _draw_waiting(panel: "Axes", requests: "pd.DataFrame", end_s: float) -> None:
    """How many requests had arrived and not ended at each instant."""
    import numpy as np  # noqa: PLC0415

    at_s = np.linspace(0.0, end_s, POINTS)
    arrived = np.searchsorted(np.sort(requests["arrival_ns"].to_numpy(dtype=float) / NS_PER_S), at_s, side="right")
    ended_ns = requests["finished_ns"].dropna().to_numpy(dtype=float)
    ended = np.searchsorted(np.sort(ended_ns / NS_PER_S), at_s, side="right")
    panel.fill_between(at_s, 0, arrived - ended, color=MUTED, alpha=0.25, linewidth=0)
    panel.plot(at_s, arrived - ended, color=INK, linewidth=1.0)
    panel.set_ylabel("requests\nin the system")
    panel.set_ylim(bottom=0)
