"""The rows of ``kvsim fidelity`` as a terminal table and as Markdown. It must not compute an error."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = ("target", "metric", "error (%)", "limit (%)", "bias (%)", "points", "met")


class FidelityRow(Protocol):
    """What is shown of a row; see ``kvsim.fidelity.rows.Row``."""

    @property
    def target(self) -> str:
        """What was predicted."""

    @property
    def metric(self) -> str:
        """Which error."""

    @property
    def value(self) -> float:
        """The error, as a share."""

    @property
    def limit(self) -> float | None:
        """Its limit, as a share."""

    @property
    def bias(self) -> float | None:
        """The mean signed error, as a share."""

    @property
    def points(self) -> int:
        """Measurements."""

    @property
    def met(self) -> bool:
        """Whether the error keeps within its limit."""


def fidelity_table(rows: Sequence[FidelityRow]) -> "Table":
    """A row per number, under the name of its target."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, heading in enumerate(HEADINGS[1:]):
        table.add_column(heading if place else "", justify="right" if 0 < place < 5 else "left", overflow="fold")
    target = ""
    for row in rows:
        if row.target != target:
            target = row.target
            table.add_row(Text(target, style="italic"))
        table.add_row(*(Text(text) for text in cells(row)[1:]))
    return table


def fidelity_markdown(rows: Sequence[FidelityRow]) -> str:
    """The same table for a README."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "| --- | --- | ---: | ---: | ---: | ---: | --- |"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join(lines)


def cells(row: FidelityRow) -> tuple[str, ...]:
    """The texts of one row."""
    verdict = "" if row.limit is None else ("yes" if row.met else f"misses by {100 * (row.value - row.limit):.1f}")
    return (
        row.target,
        row.metric,
        f"{100 * row.value:.1f}",
        "" if row.limit is None else f"{100 * row.limit:g}",
        "" if row.bias is None else f"{100 * row.bias:+z.1f}",
        f"{row.points:,}",
        verdict,
    )
