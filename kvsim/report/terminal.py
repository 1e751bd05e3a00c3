"""The comparison of variants as rows of numbers and as a terminal table.

The rows (``comparison_sections``) are plain values that the HTML page shows as well: which metrics are compared, in
which unit, and which value is best. This module must not know how a metric is computed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvsim.report.failure_rows import failure_counts
from kvsim.report.style import STAGES, decimals_for, number_text, ordered_roles, time_unit

Better: TypeAlias = Literal["lower", "higher", "neither"]
UNFILLED = "kv_reserved_unfilled_block_s"
Values: TypeAlias = Sequence[float | None]

GAP, LABEL_WIDTH, UNIT_WIDTH, NAME_WIDTH_MAX = 2, 23, 7, 12
VALUES_WIDTH = 80 - LABEL_WIDTH - GAP - UNIT_WIDTH


class Row(msgspec.Struct, frozen=True):
    """One metric over all variants, in one unit. ``key`` names its definition; ``best`` marks the best values.

    ``texts`` and ``best`` have one entry per variant. Nothing is marked where all variants show the same text.
    """

    key: str
    label: str
    unit: str
    texts: tuple[str, ...]
    best: tuple[bool, ...]


class Section(msgspec.Struct, frozen=True):
    """Rows that belong together, in order."""

    title: str
    rows: tuple[Row, ...]


def comparison_sections(summary: Mapping[str, Any]) -> tuple[Section, ...]:
    """Every metric of ``summary`` that is compared; metrics that no variant has are left out.

    ``gpu_busy``, ``link_utilisation`` and ``slo_attainment`` are fractions in the summary and per cent here.
    """
    variants = list(summary["variants"].values())
    sections = (
        Section("Requests", _request_rows(variants)),
        Section("What went wrong", _failure_rows(variants)),
        Section("Latency", (*_latency_rows(variants), *_change_row(list(summary["variants"]), variants))),
        Section("Transfer and queues", _queue_rows(variants)),
        Section("Use of the hardware", (*_hardware_rows(variants), *_role_rows(variants))),
        Section("Service", _service_rows(variants)),
        Section("Mean time by stage", _stage_rows(variants)),
    )
    return tuple(section for section in sections if section.rows)


def comparison_table(summary: Mapping[str, Any]) -> Table:
    """``comparison_sections`` with one column per variant; the best value of a row is bold.

    Variants that do not fit beside each other in 80 columns follow in a further table below, with all rows.
    """
    names = list(summary["variants"])
    sections = comparison_sections(summary)
    parts = [_part(names, sections, places) for places in _places_per_table(names, sections)]
    if len(parts) == 1:
        return parts[0]
    stack = Table.grid()
    for place, part in enumerate(parts):
        if place:
            stack.add_row("")
        stack.add_row(part)
    return stack


def _column_width(name: str, rows: Sequence[Row], place: int) -> int:
    """Columns of a variant: its widest value, and of its name what ``NAME_WIDTH_MAX`` grants; the rest is folded."""
    return max(min(len(name), NAME_WIDTH_MAX), *(len(row.texts[place]) for row in rows))


def _places_per_table(names: Sequence[str], sections: Sequence[Section]) -> list[list[int]]:
    rows = [row for section in sections for row in section.rows]
    tables: list[list[int]] = [[]]
    room = VALUES_WIDTH
    for place, name in enumerate(names):
        width = GAP + _column_width(name, rows, place)
        if width > room and tables[-1]:
            tables.append([])
            room = VALUES_WIDTH
        tables[-1].append(place)
        room -= width
    return tables


def _part(names: Sequence[str], sections: Sequence[Section], places: Sequence[int]) -> Table:
    rows = [row for section in sections for row in section.rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True, min_width=LABEL_WIDTH)
    table.add_column("unit", no_wrap=True, style="dim", min_width=UNIT_WIDTH)
    for place in places:
        width = _column_width(names[place], rows, place)
        table.add_column(Text(names[place]), justify="right", overflow="fold", min_width=width, max_width=width)
    for section in sections:
        table.add_row(Text(section.title, style="italic"))
        for row in section.rows:
            values = [Text(row.texts[place], style="bold" if row.best[place] else "") for place in places]
            table.add_row(Text(f" {row.label}"), row.unit, *values)
    return table


def _row(
    key: str, label: str, unit: str, values: Values, *, better: Better = "neither", decimals: int | None = None
) -> tuple[Row, ...]:
    """The row, or none where no variant has a value."""
    known = [value for value in values if value is not None]
    if not known:
        return ()
    digits = decimals_for(known) if decimals is None else decimals
    texts = tuple(number_text(value, digits) for value in values)
    best_value = max(known) if better == "higher" else min(known)
    shown = {number_text(value, digits) for value in known}
    best_text = number_text(best_value, digits) if better != "neither" and len(shown) > 1 else None
    return (Row(key, label, unit, texts, tuple(text == best_text for text in texts)),)


def _time_row(key: str, label: str, seconds: Values) -> tuple[Row, ...]:
    factor, unit = time_unit(value for value in seconds if value is not None)
    return _row(key, label, unit, [None if value is None else value * factor for value in seconds], better="lower")


def _percent_row(key: str, label: str, fractions: Values, better: Better = "neither") -> tuple[Row, ...]:
    return _row(
        key, label, "%", [None if value is None else 100 * value for value in fractions], better=better, decimals=1
    )


def _statistic(variants: Sequence[Mapping[str, Any]], key: str, statistic: str) -> list[float | None]:
    return [None if variant[key] is None else variant[key][statistic] for variant in variants]


def _statistic_rows(
    variants: Sequence[Mapping[str, Any]], wanted: Sequence[tuple[str, str, Sequence[str]]]
) -> tuple[Row, ...]:
    return tuple(
        row
        for key, name, statistics in wanted
        for statistic in statistics
        for row in _time_row(key, f"{name} {statistic}", _statistic(variants, key, statistic))
    )


def _request_rows(variants: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    counts = [variant["requests"] for variant in variants]
    return (
        *_row("requests.finished", "finished", "", [count["finished"] for count in counts], decimals=0),
        *_row("requests.rejected", "rejected", "", [count["rejected"] for count in counts], better="lower", decimals=0),
    )


def _failure_rows(variants: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    """Only where something went wrong in a variant, and of that only what happened."""
    rows = [row for key, label, values in failure_counts(variants) for row in _row(key, label, "", values, decimals=0)]
    for statistic in ("p50", "p99"):
        recovery = [(variant.get("failures", {}).get("recovery_s") or {}).get(statistic) for variant in variants]
        rows += _time_row("failures.recovery_s", f"recovery {statistic}", recovery)
    return tuple(rows)


def _latency_rows(variants: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    wanted = (
        ("ttft_s", "TTFT", ("p50", "p99")),
        ("tpot_s", "TPOT", ("p50", "p99")),
        ("itl_s", "ITL", ("p99",)),
        ("e2e_s", "E2E", ("mean", "p50", "p99")),
    )
    return _statistic_rows(variants, wanted)


def _change_row(names: Sequence[str], variants: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    """Mean E2E as a change against the first variant, which itself shows a dash."""
    means = _statistic(variants, "e2e_s", "mean")
    base = means[0] if means else None
    if len(means) < 2 or not base:
        return ()
    texts = ["–" if mean is None else f"{100 * (mean - base) / base:+z.1f}" for mean in means]
    label = f"E2E mean vs {names[0]}" if len(names[0]) <= 12 else "E2E mean vs first"
    return (Row("e2e_s", label, "%", ("–", *texts[1:]), (False,) * len(means)),)


def _queue_rows(variants: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    wanted = (
        ("transfer_s", "transfer", ("p50", "p99")),
        ("prefill_queue_s", "prefill queue", ("p99",)),
        ("decode_queue_s", "decode queue", ("p99",)),
    )
    return _statistic_rows(variants, wanted)


def _hardware_rows(variants: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    roles = ordered_roles(role for variant in variants for role in variant["gpu_busy"])
    most = max((value for variant in variants for value in variant[UNFILLED].values() if value), default=0)
    block_unit = "block·h" if most >= 1e6 else "block·s"

    def over_roles(make: Callable[[str], tuple[Row, ...]]) -> list[Row]:
        return [row for role in roles for row in make(role)]

    def busy(role: str) -> tuple[Row, ...]:
        return _percent_row("gpu_busy", f"GPU busy, {role}", [variant["gpu_busy"].get(role) for variant in variants])

    def unfilled(role: str) -> tuple[Row, ...]:
        values = [variant[UNFILLED].get(role) for variant in variants]
        hours = block_unit == "block·h"
        scaled = [None if value is None else value / 3600 if hours else value for value in values]
        large = any(value is not None and value >= 100 for value in scaled)
        decimals = 0 if large else None
        return _row(UNFILLED, f"KV unfilled, {role}", block_unit, scaled, better="lower", decimals=decimals)

    def link(role: str) -> tuple[Row, ...]:
        rows: list[Row] = []
        for way in ("sent", "received"):
            values = [variant["link_utilisation"].get(role, {}).get(way) for variant in variants]
            if any(values):  # a way that carries nothing anywhere is no news
                rows += _percent_row("link_utilisation", f"link {way}, {role}", values)
        return tuple(rows)

    return (*over_roles(busy), *over_roles(unfilled), *over_roles(link))


def _role_rows(variants: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    """Only where a worker changed its role."""
    changes = [variant.get("role_switches") or {} for variant in variants]
    if not any(change.get("count") for change in changes):
        return ()
    draining = [change.get("draining_worker_s", 0.0) for change in changes]
    switching = [change.get("switching_worker_s", 0.0) for change in changes]
    return (
        *_row("role_switches.count", "role switches", "", [change.get("count", 0) for change in changes], decimals=0),
        *_row("role_switches.draining_worker_s", "draining, all workers", "s", draining),
        *_row("role_switches.switching_worker_s", "switching, all workers", "s", switching),
    )


def _service_rows(variants: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    goodput = [variant["goodput_req_per_s"] for variant in variants]
    return (
        *_percent_row("slo_attainment", "SLO attainment", [v["slo_attainment"] for v in variants], "higher"),
        *_row("goodput_req_per_s", "goodput", "req/s", goodput, better="higher"),
    )


def _stage_rows(variants: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    """All stages in one unit and with the same digits, so that they can be added up by eye."""
    seconds = {stage.key: [v["stages_s"].get(stage.key) for v in variants] for stage in STAGES}
    known = [value for row in seconds.values() for value in row if value is not None]
    factor, unit = time_unit(known)
    largest = max((value * factor for value in known), default=0.0)
    digits = decimals_for([largest / 10])
    return tuple(
        row
        for stage in STAGES
        for row in _row(
            f"stages_s.{stage.key}",
            stage.label,
            unit,
            [None if value is None else value * factor for value in seconds[stage.key]],
            better="lower",
            decimals=digits,
        )
    )


def print_table(table: Table) -> None:
    """Print a table on standard output: in colour and as wide as the terminal, plain and 80 columns wide in a pipe."""
    Console(emoji=False).print(table)  # a name in colons is a name
