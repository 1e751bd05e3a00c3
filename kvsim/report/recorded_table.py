"""The errors of a simulated run against a recorded one on the terminal. It must not compute a latency."""

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from kvsim.report.style import decimals_for, time_unit

if TYPE_CHECKING:
    import pandas as pd

LABELS = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}


def recorded_table(errors: "pd.DataFrame") -> Table:
    """A row a latency and statistic: measured, predicted, signed error. ``errors`` as in
    ``kvsim.validation.recorded.Comparison``."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", min_width=12)
    table.add_column("unit", style="dim")
    for name in ("measured", "predicted", "error (%)", "requests"):
        table.add_column(name, justify="right")
    for row in errors.to_dict("records"):
        measured_s, predicted_s = float(row["measured_s"]), float(row["predicted_s"])
        factor, unit = time_unit([measured_s, predicted_s])
        digits = decimals_for([measured_s * factor]) + 1
        table.add_row(
            f"{LABELS[row['latency']]} {row['statistic']}",
            unit,
            f"{measured_s * factor:.{digits}f}",
            f"{predicted_s * factor:.{digits}f}",
            f"{100 * float(row['error']):+z.2f}",
            f"{int(row['requests']):,}",
        )
    return table
