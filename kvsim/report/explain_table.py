"""Numbers and their sources as a terminal table. It must not look anything up."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from rich.table import Table

_LAST_INDEX = re.compile(r"\[\d+\]$")


class SourcedNumber(Protocol):
    """What is shown of a number; see ``kvsim.scenario.explain.Number``."""

    @property
    def variant(self) -> str:
        """The variant that it belongs to."""

    @property
    def key(self) -> str:
        """Dotted key."""

    @property
    def value(self) -> str:
        """Without its unit."""

    @property
    def unit(self) -> str:
        """Of the value."""

    @property
    def source(self) -> str:
        """Where it comes from."""


Line = tuple[str, str, str, str]


def explain_table(numbers: Sequence[SourcedNumber]) -> "Table":
    """A line per number; what all variants share stands once, before what each has for itself. Lists take one line."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("number", "value", "unit", "source"):
        justify: Literal["left", "right"] = "right" if heading == "value" else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading == "number")
    by_variant: dict[str, list[Line]] = {}
    for one in numbers:
        by_variant.setdefault(one.variant, []).append((one.key, one.value, one.unit, _cited(one.source)[0]))
    merged = {variant: merged_lists(lines) for variant, lines in by_variant.items()}
    shared = set.intersection(*map(set, merged.values())) if merged else set()
    for line in next(iter(merged.values()), []):
        if line in shared:
            table.add_row(*line)
    for variant, lines in merged.items():
        own = [line for line in lines if line not in shared]
        if own:
            table.add_section()
            table.add_row(f"variant {variant}", style="italic")
        for line in own:
            table.add_row(*line)
    return table


def citations(numbers: Sequence[SourcedNumber]) -> list[str]:
    """What presets cite, each once; the table leaves it out."""
    cited = dict.fromkeys(_cited(one.source) for one in numbers)
    lines = [f"{source.split(' (')[0]}: {text}" for source, text in cited if text]
    return list(dict.fromkeys(lines))


def _cited(source: str) -> tuple[str, str]:
    """The source of a preset's number, and what the preset cites; others cite nothing."""
    if not source.startswith("preset "):
        return source, ""
    named, _, text = source.partition("): ")
    return f"{named})", text


def merged_lists(lines: Sequence[Line]) -> list[Line]:
    """The same with the numbers of a list on one line: how many, the first and the last of them."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(_LAST_INDEX.sub("[]", line[0]), []).append(line)
    merged = []
    for key, members in groups.items():
        (_, first, unit, source), last = members[0], members[-1]
        if len(members) == 1:
            merged.append(members[0])
        else:
            merged.append((key, f"{len(members)}: {first} {unit} to {last[1]}", last[2], source))
    return merged
