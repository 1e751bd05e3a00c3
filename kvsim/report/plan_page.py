"""``report.html`` of a plan: findings, the table, return on investment, figures and every run, in one file.

Given what ``plan.json`` holds. All text that comes from a scenario is escaped. It must not compute anything of a plan.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from kvsim.report.html import CSS, PAGE, themed_svg  # the looks of every page of this package
from kvsim.report.plan_table import gbit_number, layout_columns, percent_text, shown_rows, winner_text
from kvsim.report.style import figure_bytes, number_text
from kvsim.units import format_duration_ns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS_MAX = 40
_HINTS = {
    "cluster": "A star marks the Pareto front: no other layout is at least as good in goodput per GPU, mean latency "
    "and cost and better in one of them. 95 %: from a rate that meets the limits beyond doubt to one that misses them; "
    "a question mark where no such rate was tried. Costs are per million output tokens.",
    "network": "Goodput in requests per second. Lead: of the winner over the best other mode. Against colocated: of "
    "the best transfer mode. ≈: other modes are too close to tell. Every point has its own best layout for each mode; "
    "plan.parquet names them.",
}


def plan_page(document: Mapping[str, Any], figures: "Mapping[str, Figure]") -> str:
    """The whole page as text."""
    kind = document["kind"]
    facts = (
        f"{document['gpus']} × {document['gpu']} · {document['model']} · seed {document['seed']} · "
        f"{document['requests_per_run']:,} requests a run · kvsim {document['kvsim_version']}"
    )
    title = f"{document['scenario']}: {'plan' if kind == 'cluster' else 'break-even map'}"
    body = "\n".join(
        (
            f'<h1>{escape(title)}</h1>\n<p class="facts">{escape(facts)}</p>',
            '<section class="finding">'
            + "".join(f"<p>{escape(text)}</p>" for text in document["findings"])
            + "</section>",
            _notes(document["notes"]),
            "<h2>Layouts</h2>" if kind == "cluster" else "<h2>Map</h2>",
            _layouts(document) if kind == "cluster" else _cells(document),
            f'<p class="hint">{escape(_HINTS[kind])}</p>',
            _investment(document),
            "<h2>Figures</h2>",
            *(_inline_figure(stem, figure) for stem, figure in figures.items()),
            _runs(document["runs"]),
        )
    )
    return PAGE.format(title=escape(f"{title}: kvsim"), css=CSS, body=body)


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return '<h2>Notes</h2><ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _layouts(document: Mapping[str, Any]) -> str:
    rows = shown_rows(document, ROWS_MAX)
    columns = layout_columns(rows, document)
    columns["run"] = [row["run"] for row in rows]
    lines = [[texts[place] for texts in columns.values()] for place in range(len(rows))]
    return _table(list(columns), lines)


def _cells(document: Mapping[str, Any]) -> str:
    rows = document["cells"]
    modes = [mode for mode in ("colocated", "pull", "push", "streamed", "message") if f"goodput_{mode}" in rows[0]]
    heads = ["prompt tokens", "Gbit/s of a NIC", "latency", "NICs lost", *modes, "winner", "lead", "against colocated"]
    lines = [
        [
            f"{row['prompt_tokens']:,}",
            gbit_number(row["bandwidth_bytes_per_s"]),
            "–" if row["latency_ns"] is None else format_duration_ns(row["latency_ns"]),
            str(row["nics_lost"]),
            *(number_text(row.get(f"goodput_{mode}"), 3) for mode in modes),
            winner_text(row),
            percent_text(row["lead"]),
            percent_text(row["advantage"]),
        ]
        for row in rows
    ]
    return _table(heads, lines)


def _investment(document: Mapping[str, Any]) -> str:
    """Return on investment, line by line, with the runs that it rests on."""
    saved, cost = document.get("return_on_investment"), document.get("cost")
    if saved is None or cost is None:
        return ""
    money = cost["currency"]
    span = [saved["colocated_gpus_low"], saved["colocated_gpus_high"]]
    bounds = " .. ".join("?" if gpus is None else f"{gpus:,}" for gpus in span)
    payback = "never" if saved["payback_years"] is None else f"{saved['payback_years']:.2f} years"
    lines = [
        ["load served within the limits", f"{saved['load_per_s']:.4g} req/s"],
        ["GPUs, disaggregated", f"{saved['disaggregated_gpus']:,}"],
        ["GPUs, colocated, for the same load (95 %)", f"{saved['colocated_gpus']:,} ({bounds})"],
        ["price of a GPU hour", f"{cost['gpu_hour']:,.2f} {money}"],
        ["hours a year", f"{cost['utilisation_hours_per_year']:,.0f}"],
        ["GPU hours saved in a year", f"{saved['gpu_saving_per_year']:,.0f} {money}"],
        ["NICs for disaggregation", f"{saved['nic_investment']:,.0f} {money}"],
        ["integration", f"{saved['integration']:,.0f} {money}"],
        ["payback time", payback],
        [f"net over {saved['years']:g} years", f"{saved['net']:+,.0f} {money}"],
        ["runs", ", ".join(saved["runs"])],
    ]
    return "<h2>Return on investment</h2>" + _table(["", ""], lines)


def _runs(runs: Sequence[Mapping[str, Any]]) -> str:
    heads = ["run", "rate (req/s)", "requests", "attainment", "95 %", "binds"]
    lines = [
        [
            run["run"],
            f"{run['rate_per_s']:g}",
            f"{run['requests']:,}",
            f"{run['attainment']:.1%}",
            f"{run['low']:.1%} .. {run['high']:.1%}",
            run["binding"] or "–",
        ]
        for run in runs
    ]
    return f"<details><summary>All {len(lines)} runs</summary>{_table(heads, lines)}</details>"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(line[0])}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in line[1:])
        + "</tr>"
        for line in lines
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _inline_figure(stem: str, figure: "Figure") -> str:
    """The figure as SVG within the page: ids made unique, inks taken from the page."""
    svg = themed_svg(stem, figure_bytes(figure, "svg"), figure.get_suptitle())
    return f'<figure><div class="wide">{svg}</div></figure>'
