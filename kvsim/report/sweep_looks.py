"""What figures and tables of a sweep share: its metrics with their labels and units, short names of knobs, values as
text. It must not know how anything is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvsim.report.style import time_unit

if TYPE_CHECKING:
    import pandas as pd

LABELS = {
    "e2e_s.mean": "E2E mean",
    "ttft_s.p99": "TTFT p99",
    "tpot_s.p99": "TPOT p99",
    "slo_attainment": "SLO attainment",
    "goodput_req_per_s": "goodput",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How a metric is shown: ``value * factor`` in ``unit``."""

    metric: str
    factor: float
    unit: str

    @property
    def label(self) -> str:
        """The metric's name for readers."""
        return LABELS[self.metric]


def short_names(columns: Sequence[str]) -> dict[str, str]:
    """The last two parts of each dotted name, or as many as tell all apart."""
    most = max((column.count(".") + 1 for column in columns), default=1)
    for parts in range(2, most + 1):
        short = {column: ".".join(column.split(" (")[0].split(".")[-parts:]) + _unit(column) for column in columns}
        if len(set(short.values())) == len(columns):
            return short
    return {column: column for column in columns}


def _unit(column: str) -> str:
    return column[column.index(" (") :] if " (" in column else ""


def shown_metrics(statistics: "pd.DataFrame") -> list[str]:
    """For figures, four at most: the latencies, and SLO attainment, or goodput where no objective is set."""
    present = [metric for metric in LABELS if metric in set(statistics["metric"])]
    if "slo_attainment" in present and "goodput_req_per_s" in present:
        present.remove("goodput_req_per_s")
    return present


def table_metrics(statistics: "pd.DataFrame") -> list[str]:
    """As many as 80 columns hold with their intervals: SLO attainment and goodput in place of TPOT, which the objective
    is about, where both are known."""
    present = [metric for metric in LABELS if metric in set(statistics["metric"])]
    if "slo_attainment" in present and "goodput_req_per_s" in present:
        present = [metric for metric in present if metric != "tpot_s.p99"]
    return present


def scales_of(statistics: "pd.DataFrame") -> list[Scale]:
    """The metrics that are shown, each in a unit that suits its values."""
    scales = []
    for metric in shown_metrics(statistics):
        if metric == "slo_attainment":
            scales.append(Scale(metric, 100.0, "%"))
        elif metric == "goodput_req_per_s":
            scales.append(Scale(metric, 1.0, "req/s"))
        else:
            scales.append(Scale(metric, *time_unit(statistics.loc[statistics["metric"] == metric, "mean"])))
    return scales


def places_of(values: "pd.Series[Any]") -> dict[Any, float]:
    """Where each value stands on an axis: numbers at themselves, in order; names one after the other."""
    unique = list(dict.fromkeys(values.tolist()))
    if any(isinstance(value, str) for value in unique):
        return {value: float(place) for place, value in enumerate(unique)}
    return {value: float(value) for value in sorted(unique)}


def value_text(value: Any) -> str:
    """A knob's value for readers."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)
