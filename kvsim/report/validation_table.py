"""A validation on the terminal: both worlds side by side with signed errors. It must not compute a metric."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from kvsim.report.style import decimals_for, number_text, time_unit

LABELS = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "e2e": "E2E",
    "transfer": "transfer",
    "prefill_queue": "prefill queue",
    "decode_queue": "decode queue",
}
STATISTICS = ("mean", "p50", "p90", "p99")


def validation_table(summary: Mapping[str, Any]) -> Table:
    """A row per variant and metric: both means, and the signed errors of mean and percentiles in per cent."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("unit", style="dim")
    for name in ("real", "simulated", *(f"{name} (%)" for name in STATISTICS)):
        table.add_column(name, justify="right")
    rows = {(row["variant"], row["metric"], row["statistic"]): row for row in summary["errors"]}
    variants = list(dict.fromkeys(variant for variant, _, _ in rows))
    for variant in variants:
        for place, (metric, label) in enumerate(LABELS.items()):
            found = [rows[variant, metric, statistic] for statistic in STATISTICS]
            mean = found[0]
            values = [value for value in (mean["real_s"], mean["simulated_s"]) if value is not None]
            factor, unit = time_unit(values)
            digits = decimals_for([value * factor for value in values])
            means = [
                number_text(None if value is None else value * factor, digits)
                for value in (mean["real_s"], mean["simulated_s"])
            ]
            errors = ["–" if row["error"] is None else f"{100 * row['error']:+z.1f}" for row in found]
            name = variant if place == 0 else ""
            table.add_row(*(Text(text) for text in (name, label, unit, *means, *errors)))
    return table


def verdict_lines(summary: Mapping[str, Any]) -> list[str]:
    """What is said below the table: median errors beside their tolerance, replay, ranking, failures."""
    tolerance = summary["tolerance"]
    texts = []
    for metric, found in summary["median_errors"].items():
        limit = tolerance.get(metric)
        texts.append(f"{LABELS[metric]} {found:.1%}" + (f" (at most {limit:.0%})" if limit is not None else ""))
    pairs = [pair for pair in summary["ranking"] if pair["significant"]]
    agreeing = sum([pair["agrees"] for pair in pairs])
    replays = summary["replay"]
    identical = sum([replay["identical"] for replay in replays.values()])
    lines = [
        f"median absolute error of the means: {', '.join(texts)}",
        f"ranking: {agreeing} of {len(pairs)} significant differences the same in simulation",
        f"replay: {identical} of {len(replays)} records give identical commands",
    ]
    return [*lines, *(f"failed: {failure}" for failure in summary["failures"])]
