"""``NetworkPlan``: the break-even map as values and tables. Every figure names the run that it comes from.

It must not simulate, print or write anything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING, Any

from kvsim.plan.conditions import Condition, scenario_under
from kvsim.plan.ground import Ground, ground_of
from kvsim.plan.layouts import Layout
from kvsim.plan.load import Load
from kvsim.plan.probe import Probe
from kvsim.plan.search import Found
from kvsim.scenario import Scenario
from kvsim.units import format_duration_ns
from kvsim.version import VERSION

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 0.05
"""Goodputs of the map are found to this share: smaller leads are called close."""

Row = dict[str, Any]
Place = tuple[int | None, int, int]
"""What a break-even bandwidth is given for: latency, lost NICs and prompt length."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One layout at one point of the map, and its goodput there."""

    condition: Condition
    layout: Layout
    load: Load
    found: Found


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """A map over networks and prompt lengths. ``entries`` are in the order of points, ``lengths`` were asked for."""

    name: str
    gpus: int
    ground: Ground
    load: Load
    entries: tuple[Entry, ...]
    lengths: tuple[int, ...]

    @property
    def cells(self) -> "pd.DataFrame":
        """One row a point of the map: who wins, by how much, and the goodput and layout of each mode."""
        import pandas as pd  # noqa: PLC0415  # heavy

        return pd.DataFrame(self.cell_rows())

    @property
    def break_even(self) -> "pd.DataFrame":
        """One row a latency, loss and prompt length: the bandwidth below which disaggregation does not pay."""
        import pandas as pd  # noqa: PLC0415  # heavy

        return pd.DataFrame(self.break_even_rows())

    @property
    def runs(self) -> "pd.DataFrame":
        """One row a run. Runs of colocated layouts stand at the first network of their prompt length."""
        import pandas as pd  # noqa: PLC0415  # heavy

        return pd.DataFrame(self.run_rows())

    def winners(self) -> dict[str, Scenario]:
        """The winner of each point at its goodput, by the point's name, as scenarios that ``kvsim run`` accepts."""
        scenarios = {}
        for condition, entries in self._points():
            best = _best(entries)
            if best is not None:
                scenarios[condition.name] = self._scenario_of(best)
        return scenarios

    def cell_rows(self) -> list[Row]:
        """The map as plain values. ``advantage`` is the lead of the best transfer mode over colocated, ``lead`` that of
        the winner over the best other mode; both are None where there is nothing to compare with. ``close`` names the
        modes that cannot be told from the winner."""
        return [self._cell(condition, entries) for condition, entries in self._points()]

    def break_even_rows(self) -> list[Row]:
        """For each latency, loss and prompt length where the advantage changes its sign."""
        places: dict[Place, list[Row]] = {}
        for row in self.cell_rows():
            places.setdefault((row["latency_ns"], row["nics_lost"], row["prompt_tokens"]), []).append(row)
        return [
            {"latency_ns": latency, "nics_lost": lost, "prompt_tokens": tokens, **_crossing(rows)}
            for (latency, lost, tokens), rows in places.items()
        ]

    def run_rows(self) -> list[Row]:
        """Every run as plain values, once."""
        rows: dict[str, Row] = {}
        for entry in self.entries:
            for each in entry.found.probes:
                name = _run_id(entry, each)
                point = {"point": entry.condition.name, "layout": entry.layout.name}
                rows.setdefault(name, {"run": name, **point, **each.row()})
        return list(rows.values())

    def document(self) -> Row:
        """Everything as plain values, ready for JSON."""
        return {
            "kind": "network",
            "scenario": self.name,
            "kvsim_version": VERSION,
            "seed": self.load.seed,
            "gpus": self.gpus,
            "gpu": self.ground.gpu_name,
            "model": self.ground.model.name,
            "slo": self.ground.document["slo"],
            "requests_per_run": max(entry.load.requests for entry in self.entries),
            "findings": self.findings(),
            "break_even": self.break_even_rows(),
            "cells": self.cell_rows(),
            "runs": self.run_rows(),
            "notes": self._notes(),
        }

    def findings(self) -> list[str]:
        """One sentence for each latency, loss and prompt length."""
        sentences = []
        for row in self.break_even_rows():
            network = "" if row["latency_ns"] is None else f", latency {format_duration_ns(row['latency_ns'])}"
            network += f", NICs lost: {row['nics_lost']}" if row["nics_lost"] else ""
            sentences.append(f"Prompts of {row['prompt_tokens']:,} tokens{network}: {row['verdict']}.")
        return sentences

    def _points(self) -> Iterator[tuple[Condition, list[Entry]]]:
        points: dict[Condition, list[Entry]] = {}
        for entry in self.entries:
            points.setdefault(entry.condition, []).append(entry)
        yield from points.items()

    def _cell(self, condition: Condition, entries: Sequence[Entry]) -> Row:
        colocated = [entry for entry in entries if entry.layout.colocated]
        moving = [entry for entry in entries if not entry.layout.colocated]
        best, best_moving = _best(entries), _best(moving)
        others = [entry for entry in entries if best is not None and entry.layout.mode != best.layout.mode]
        row: Row = {
            "bandwidth_bytes_per_s": condition.bytes_per_s,
            "latency_ns": condition.latency_ns,
            "nics_lost": condition.nics_lost,
            "prompt_tokens": condition.prompt_tokens,
            "winner": None if best is None else best.layout.mode,
            "lead": _ratio(best, _best(others)),
            "close": _close(best, others),
            "advantage": _ratio(best_moving, _best(colocated)),
            "goodput_disaggregated": 0.0 if best_moving is None else best_moving.found.goodput_per_s,
        }
        for entry in entries:
            beyond, run, mode = entry.found.beyond, entry.found.best, entry.layout.mode
            row[f"goodput_{mode}"] = entry.found.goodput_per_s
            row[f"layout_{mode}"] = entry.layout.name
            row[f"binding_{mode}"] = None if beyond is None else beyond.binding
            row[f"run_{mode}"] = None if run is None else _run_id(entry, run)
        return row

    def _scenario_of(self, entry: Entry) -> Scenario:
        ground = ground_of(scenario_under(self.ground, self.load, entry.condition))
        workload = entry.load.document_at(ground.document["workload"], entry.found.goodput_per_s)
        name = f"{self.name}-{entry.layout.name}"
        return ground.scenario_of(entry.layout, {"name": name, "workload": workload})

    def _notes(self) -> list[str]:
        planned = {entry.condition.prompt_tokens for entry in self.entries}
        missing = [f"{tokens:,}" for tokens in self.lengths if tokens not in planned]
        notes = list(self.load.natural.notes)
        if missing:
            notes.append(f"prompts of {', '.join(missing)} tokens do not fit the model's context or the KV memory")
        return notes


def _best(entries: Sequence[Entry]) -> Entry | None:
    """The largest goodput; of equals the first."""
    best = max(entries, key=lambda entry: entry.found.goodput_per_s, default=None)
    return best if best is not None and best.found.goodput_per_s else None


def _close(best: Entry | None, others: Sequence[Entry]) -> str:
    """The other modes that the search cannot tell from the winner, in alphabetical order."""
    if best is None:
        return ""
    least = best.found.goodput_per_s / (1 + TOLERANCE)
    return ", ".join(sorted(entry.layout.mode for entry in others if entry.found.goodput_per_s >= least))


def _ratio(first: Entry | None, second: Entry | None) -> float | None:
    """By how much the first leads. None if the second does not meet the limits; -1 if the first does not."""
    if second is None:
        return None
    return (first.found.goodput_per_s if first is not None else 0.0) / second.found.goodput_per_s - 1


def _crossing(rows: Sequence[Row]) -> Row:
    """Where the advantage over colocated becomes positive for good, on a logarithmic scale of the bandwidth.

    ``rows`` are in ascending order of bandwidth. Without a colocated layout that meets the limits disaggregation pays
    wherever it meets them.
    """
    gains = [_gain(row) for row in rows]
    rates = [row["bandwidth_bytes_per_s"] for row in rows]
    top = f"{gbit_text(rates[-1])} per NIC"
    if not any(row["winner"] for row in rows):
        return {"bandwidth_bytes_per_s": None, "verdict": "no layout meets the limits, with or without a network"}
    if gains[-1] <= 0:
        best = "it meets no limit" if max(gains) == -1 else f"it carries {abs(gains[-1]):.0%} less at {top}"
        return {"bandwidth_bytes_per_s": None, "verdict": f"disaggregation does not pay at any bandwidth; {best}"}
    last = max((place for place, gain in enumerate(gains) if gain <= 0), default=None)
    lead = "colocated meets no limit" if gains[-1] == float("inf") else f"it carries {gains[-1]:.0%} more at {top}"
    if last is None:
        verdict = f"disaggregation pays at every bandwidth from {gbit_text(rates[0])} per NIC on; {lead}"
        return {"bandwidth_bytes_per_s": 0.0, "verdict": verdict}
    low, high = gains[last], gains[last + 1]
    share = 1.0 if high == float("inf") else -low / (high - low)
    rate = exp(log(rates[last]) + share * (log(rates[last + 1]) - log(rates[last])))
    verdict = (
        f"disaggregation stops paying below about {gbit_text(rate)} per NIC (between {gbit_text(rates[last])} and "
        f"{gbit_text(rates[last + 1])}); {lead}"
    )
    return {"bandwidth_bytes_per_s": rate, "verdict": verdict}


def gbit_text(bytes_per_s: float) -> str:
    """A rate as NICs are sold: ``25 Gbit/s``."""
    return f"{bytes_per_s * 8 / 1e9:.3g} Gbit/s"


def _gain(row: Row) -> float:
    if row["advantage"] is not None:
        return float(row["advantage"])
    return float("inf") if row["goodput_disaggregated"] else -1.0


def _run_id(entry: Entry, run: Probe) -> str:
    """Names a run by its prompt length, network (unless colocated), layout, rate and seed."""
    point = f"{entry.condition.prompt_tokens}tok" if entry.layout.colocated else entry.condition.name
    return f"{point}/{entry.layout.name}@{run.rate_per_s:g}#{run.seed}"
