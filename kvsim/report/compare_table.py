"""The differences between runs on the terminal, each with its confidence. It must not compute a metric."""

from math import isfinite
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from kvsim.report.style import decimals_for, time_unit

if TYPE_CHECKING:
    import pandas as pd

COMPARED = {
    "e2e_s.mean": "E2E mean",
    "e2e_s.p99": "E2E p99",
    "ttft_s.mean": "TTFT mean",
    "ttft_s.p99": "TTFT p99",
    "tpot_s.mean": "TPOT mean",
    "tpot_s.p99": "TPOT p99",
    "slo_attainment": "SLO attainment",
    "goodput_req_per_s": "goodput",
}
HOW = {"paired": "request by request", "unpaired": "as two samples, since their arrivals differ"}


def difference_table(comparison: "pd.DataFrame") -> Table:
    """A block per candidate that has a base: the difference of each metric, its 95 % interval where there is one."""
    stack = Table.grid()
    known = comparison[comparison["difference"].notna() & comparison["metric"].isin(list(COMPARED))]
    for (candidate, base), rows in known.groupby(["candidate", "base"], sort=False):
        hows = rows["pairing"].dropna().unique().tolist()
        how = f", {HOW[hows[0]]}" if hows else ""
        stack.add_row(Text(f"{candidate} against {base}{how}", style="italic"))
        stack.add_row(_block(rows.set_index("metric")))
    return stack


def _block(by_metric: "pd.DataFrame") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", min_width=16)
    table.add_column("unit", style="dim", min_width=6)
    for name, width in (("difference", 10), ("95 % interval", 20), ("change (%)", 10), ("requests", 8)):
        table.add_column(name, justify="right", min_width=width)
    for metric, label in COMPARED.items():
        if metric in by_metric.index:
            table.add_row(*(Text(text) for text in _texts(label, metric, by_metric.loc[metric])))
    return table


def _texts(label: str, metric: str, row: Any) -> tuple[str, ...]:
    difference, low, high = float(row["difference"]), float(row["low"]), float(row["high"])
    if metric == "slo_attainment":
        factor, unit = 100.0, "points"
    elif metric == "goodput_req_per_s":
        factor, unit = 1.0, "req/s"
    else:
        factor, unit = time_unit([row["value"], row["base_value"]])
    digits = decimals_for([max(abs(row["value"]), abs(row["base_value"])) * factor]) + 1
    interval = f"{low * factor:+z.{digits}f} to {high * factor:+z.{digits}f}" if isfinite(low) else "–"
    base = float(row["base_value"])
    change = f"{100 * difference / base:+z.1f}" if base else "–"
    requests = f"{row['requests']:,}" if isinstance(row["pairing"], str) else ""
    return label, unit, f"{difference * factor:+z.{digits}f}", interval, change, requests
