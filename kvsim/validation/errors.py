"""Simulated beside real: every latency and wait with its signed error, and whether the errors are within tolerance.

It must not know how either run was made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan
from statistics import median
from typing import Any

from kvsim.scenario.real_schema import Tolerance

METRICS: Mapping[str, str] = {
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "itl": "itl_s",
    "e2e": "e2e_s",
    "transfer": "transfer_s",
    "prefill_queue": "prefill_queue_s",
    "decode_queue": "decode_queue_s",
}
"""Key of the tolerance -> key of the summary."""
STATISTICS = ("mean", "p50", "p90", "p99")


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One statistic of one metric of one variant, in seconds. ``error`` is ``simulated / real - 1``; NaN where one of
    them does not exist or the real one is 0."""

    variant: str
    metric: str
    statistic: str
    real_s: float
    simulated_s: float

    @property
    def error(self) -> float:
        """Signed, as a share of what was real: positive where simulation is slower."""
        return self.simulated_s / self.real_s - 1 if self.real_s > 0 else nan


def error_rows(real: Mapping[str, Any], simulated: Mapping[str, Any]) -> list[ErrorRow]:
    """Rows of all variants from the ``variants`` of two summaries, in their order."""
    rows = []
    for variant, ours in real.items():
        theirs = simulated[variant]
        for metric, key in METRICS.items():
            for name in STATISTICS:
                rows.append(ErrorRow(variant, metric, name, _value(ours, key, name), _value(theirs, key, name)))  # noqa: PERF401
    return rows


def median_errors(rows: list[ErrorRow]) -> dict[str, float]:
    """By metric: the median over the variants of the absolute error of the mean. Metrics without any are left out."""
    errors: dict[str, list[float]] = {}
    for row in rows:
        if row.statistic == "mean" and not isnan(row.error):
            errors.setdefault(row.metric, []).append(abs(row.error))
    return {metric: median(values) for metric, values in errors.items()}


def beyond_tolerance(medians: Mapping[str, float], tolerance: Tolerance) -> list[str]:
    """Each metric that is further off than its tolerance, in words."""
    failures = []
    limits: dict[str, float | None] = tolerance.model_dump(include=set(METRICS))
    for metric in METRICS:
        limit = limits[metric]
        if limit is None:
            continue
        found = medians.get(metric)
        if found is None:
            failures.append(f"{metric}: nothing was measured, the tolerance is {limit:.1%}")
        elif found > limit:
            failures.append(f"{metric}: the median error of the mean is {found:.1%}, the tolerance is {limit:.1%}")
    return failures


def _value(summary: Mapping[str, Any], key: str, statistic: str) -> float:
    statistics = summary.get(key)
    return float(statistics[statistic]) if statistics is not None else nan
