"""What ``kvsim chaos`` shows of what happened. It must not know how anything was done or measured."""

from typing import TYPE_CHECKING

from backends.chaos.conduct import Trouble
from backends.chaos.run import measured

if TYPE_CHECKING:
    from rich.table import Table

WRONG_SHOWN = 5


def trouble_table(trouble: Trouble) -> "Table":
    """One row a kind of duration, in ms, with how many were within what is aimed at."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    for title in ("count", "median ms", "longest ms", "aim ms", "within"):
        table.add_column(title, justify="right")
    for row in measured(trouble):
        times_ms = [f"{duration / 1e6:,.0f}" for duration in (row.median_ns, max(row.durations_ns), row.aim_ns)]
        count = len(row.durations_ns)
        table.add_row(row.what, str(count), *times_ms, f"{row.within} of {count}")
    return table


def verdict(trouble: Trouble) -> str:
    """Whether every output was what it is without trouble."""
    mishaps = ", ".join(f"{count} {kind}" for kind, count in sorted(trouble.mishaps.items()))
    lines = [f"{trouble.requests} requests through {sum(trouble.mishaps.values())} mishaps ({mishaps})"]
    if not trouble.wrong:
        lines.append("all finished with exactly the tokens of the calm round; every pool ended empty")
    else:
        lines.append(f"{len(trouble.wrong)} WRONG: " + "; ".join(trouble.wrong[:WRONG_SHOWN]))
    return "\n".join(lines)
