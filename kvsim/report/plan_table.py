"""The tables of plans on the terminal: layouts with their goodput, latency and cost, or the break-even map.

Given what ``plan.json`` holds. It must not compute anything of a plan.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from kvsim.report.style import decimals_for, number_text, time_unit
from kvsim.units import format_duration_ns

ROWS_MAX, TABLE_WIDTH = 10, 80
Rows = Sequence[Mapping[str, Any]]


def plan_table(document: Mapping[str, Any], rows_max: int = ROWS_MAX) -> Table:
    """The layouts with the largest goodput, and the best colocated one; a star marks the Pareto front.

    A layout is on it if no other is at least as good in goodput per GPU, mean latency and cost and better in one.
    """
    rows = shown_rows(document, rows_max)
    columns = layout_columns(rows, document)
    del columns["95 %"]  # 80 columns have no room for it; the report has it
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    room = TABLE_WIDTH
    for name, texts in columns.items():  # headings are folded; cells are not, but for those of the last column
        heading = name.replace(" ", "\n", 1)
        width = max(len(text) for text in (*texts, *heading.split("\n")))
        width = width if name != "binds" else max(min(width, room), len(name))
        room -= width + 2  # the gap between columns
        justify: JustifyMethod = "left" if name in ("layout", "binds") else "right"
        table.add_column(heading, justify=justify, min_width=width, max_width=width)
    best = document["winner"]
    for place, row in enumerate(rows):
        style = "bold" if row["layout"] == best else ""
        table.add_row(*(Text(texts[place], style=style) for texts in columns.values()))
    return table


def shown_rows(document: Mapping[str, Any], rows_max: int) -> Rows:
    """The first rows, and that of the best colocated layout wherever it stands."""
    rows = [row for row in document["configurations"] if row["goodput_req_per_s"]]
    return [row for place, row in enumerate(rows) if place < rows_max or row["layout"] == document["best_colocated"]]


def layout_columns(rows: Rows, document: Mapping[str, Any]) -> dict[str, list[str]]:
    """The cells of every column by its heading, with the unit in it where it has one."""
    goodput = [row["goodput_req_per_s"] for row in rows]
    columns = {
        "layout": [("* " if row["pareto"] else "  ") + layout_text(row) for row in rows],
        "req/s": _numbers(goodput),
        "95 %": [_interval(row, decimals_for(goodput)) for row in rows],
        "per GPU": _numbers([row["goodput_per_gpu"] for row in rows]),
    }
    for key, name in (("ttft_p90_s", "TTFT p90"), ("tpot_p90_s", "TPOT p90"), ("e2e_mean_s", "E2E mean")):
        values = [row[key] for row in rows]
        factor, unit = time_unit(value for value in values if value is not None)
        columns[f"{name} {unit}"] = _numbers([None if value is None else value * factor for value in values])
    if document["cost"] is not None:
        prices = [row["cost_per_million_output_tokens"] for row in rows]
        columns[f"{document['cost']['currency']}/M"] = _numbers(prices)
    columns["binds"] = [row["binding"] or "–" for row in rows]
    return columns


def layout_text(row: Mapping[str, Any]) -> str:
    """A layout in few letters: ``10×tp2+3×tp4 pull``."""
    sides = [f"{row['prefill_workers']}×tp{row['prefill_tensor_parallel']}"]
    if row["decode_workers"]:
        sides.append(f"{row['decode_workers']}×tp{row['decode_tensor_parallel']}")
    return f"{'+'.join(sides)} {row['mode']}"


def network_table(document: Mapping[str, Any]) -> Table:
    """One row a point: who wins, by how much, and how disaggregation compares with colocated workers."""
    cells = document["cells"]
    modes = [
        mode for mode in ("colocated", "pull", "push", "streamed") if any(f"goodput_{mode}" in row for row in cells)
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("prompt", "Gbit/s", *_network_heads(cells), *modes, "winner", "lead", "against\ncolocated"):
        table.add_column(name, justify="left" if name == "winner" else "right", min_width=len(name.split("\n")[-1]))
    digits = decimals_for([row.get(f"goodput_{mode}") or 0.0 for row in cells for mode in modes])
    for row in cells:
        goodputs = [number_text(row.get(f"goodput_{mode}"), digits) for mode in modes]
        last = (winner_text(row), percent_text(row["lead"]), percent_text(row["advantage"]))
        first = (f"{row['prompt_tokens']:,}", gbit_number(row["bandwidth_bytes_per_s"]), *_network_texts(cells, row))
        table.add_row(*first, *goodputs, *last)
    return table


def winner_text(row: Mapping[str, Any]) -> str:
    """Who wins, and a sign where others are too close to tell."""
    return f"{row['winner'] or 'none'}{' ≈' if row['close'] else ''}"


def gbit_number(bytes_per_s: float) -> str:
    """A rate in Gbit/s, as NICs are sold."""
    return f"{bytes_per_s * 8 / 1e9:.4g}"


def percent_text(share: float | None) -> str:
    """``+12 %``, or a dash where there is nothing to compare with."""
    return "–" if share is None else f"{100 * share:+.0f} %"


def _network_heads(cells: Rows) -> list[str]:
    heads = ["latency"] if any(row["latency_ns"] is not None for row in cells) else []
    return heads + (["NICs lost"] if any(row["nics_lost"] for row in cells) else [])


def _network_texts(cells: Rows, row: Mapping[str, Any]) -> list[str]:
    latency, lost = row["latency_ns"], row["nics_lost"]
    texts = {"latency": "–" if latency is None else format_duration_ns(latency), "NICs lost": f"{lost}"}
    return [texts[head] for head in _network_heads(cells)]


def _numbers(values: Sequence[float | None]) -> list[str]:
    digits = decimals_for([value for value in values if value is not None])
    return [number_text(value, digits) for value in values]


def _interval(row: Mapping[str, Any], digits: int) -> str:
    low = number_text(row["goodput_low"], digits) if row["goodput_low"] else "?"
    high = "?" if row["goodput_high"] is None else number_text(row["goodput_high"], digits)
    return f"{low}..{high}"
