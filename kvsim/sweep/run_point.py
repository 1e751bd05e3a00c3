"""One point of a sweep, simulated: a flat row of metrics per variant. It must not know who runs it."""

import traceback
from dataclasses import dataclass
from typing import Any

from kvsim.errors import KvsimError
from kvsim.metrics.flat import flat_metrics
from kvsim.study import simulate, workload_of
from kvsim.sweep.points import Point

Row = dict[str, Any]
"""``variant``; ``metrics``: dotted path of the summary -> number; ``notes``: what the user must be told."""


class SweepError(KvsimError):
    """Some points of a sweep could not be simulated. The finished ones are kept."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a point has no rows, for a reader who sees nothing else of it."""

    message: str


Outcome = list[Row] | Failure


def simulate_point(point: Point) -> list[Row]:
    """Every variant of a point. Numbers are what ``json`` gives back unchanged."""
    rows: list[Row] = []
    for variant in point.scenario.variants:
        workload = workload_of(point.scenario, variant)
        summary = simulate(variant, workload, seed=point.scenario.seed).summary
        notes = summary.pop("notes")
        rows.append({"variant": variant.name, "metrics": flat_metrics(summary), "notes": notes})
    return rows


def try_point(point: Point) -> Outcome:
    """``simulate_point``, or how it failed: one bad point must not end those that run beside it."""
    try:
        return simulate_point(point)
    except KvsimError as error:
        return Failure(str(error))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        kind, place = type(error).__name__, f"{frame.filename}:{frame.lineno}"
        return Failure(f"{kind}: {error} (at {place}; this is a defect of kvsim)")
