"""``report.html``: one file that says in words, a table and figures what a run found. It loads nothing from outside.

Colours follow the reader's light or dark setting: figures are inlined as SVG and their inks replaced by the page's. All
text that comes from a scenario is escaped. This module must not compute a metric; the finding compares given numbers.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from kvsim.report.figures import DrawnFigure
from kvsim.report.style import GRID, INK, MUTED, STAGES, duration_texts
from kvsim.report.terminal import Row, comparison_sections

CLOSE_SHARE = 0.02  # means of one run that differ by less are not called different

_CAPTIONS = {
    "latency": "A line further to the left is faster. Each line covers the requests that got an answer.",
    "stages": "The stages follow each other and add up to the mean E2E latency. “Transfer, not hidden” is "
    "what remains of the transfer after its overlap with prefill.",
    "memory": "The shaded gap is memory that is reserved but holds no KV yet: no other request can use it. "
    "Panels of the same role have the same scale.",
    "faults": "A bar is as long as the fault lasted, or until a worker that was gone was back. The line is how many "
    "requests had arrived and not ended. "
    "The last lanes show what the scheduler did: transfers that it began anew, leases that ended.",
    "roles": "A worker computes prompts or decodes. Within a lane: it drains, which is to finish what it has, and "
    "switches.",
    "load": "Busy is the share of the time in which a worker computes. Links show the direction that carries the most.",
}


def write_report(
    folder: Path,
    summary: Mapping[str, Any],
    figures: Mapping[str, DrawnFigure],
    resolved_yaml: str,
    definitions: Mapping[str, tuple[str, str]],
) -> Path:
    """Write ``report.html`` into ``folder`` and return its path.

    ``definitions`` maps a key of the summary (``ttft_s``, or ``stages_s.prefill`` for one of several) to its unit and
    its meaning; both are shown as they are, the meaning also as a tooltip in the table.
    """
    body = "\n".join(
        (
            _header(summary),
            '<section class="finding">'
            + "".join(f"<p>{_unbroken(text)}</p>" for text in findings(summary))
            + "</section>",
            _notes(summary),
            "<h2>Comparison</h2>",
            _table(summary, definitions),
            _definitions(definitions),
            "<h2>Figures</h2>",
            *(_inline_figure(stem, figure) for stem, figure in figures.items()),
            "<details><summary>The scenario, fully resolved</summary>",
            f"<pre>{escape(resolved_yaml)}</pre></details>",
        )
    )
    path = folder / "report.html"
    title = escape(f"{summary['scenario']}: kvsim report")
    path.write_text(PAGE.format(title=title, css=CSS, body=body), encoding="utf-8", newline="\n")
    return path


def findings(summary: Mapping[str, Any]) -> list[str]:
    """What the numbers say, in sentences; the first one is the headline. Small differences are called small."""
    variants = summary["variants"]
    means = {name: variant["e2e_s"]["mean"] for name, variant in variants.items() if variant["e2e_s"] is not None}
    ranking = sorted(means, key=lambda name: means[name])  # stable: ties stay in the order of the scenario
    sentences = [_headline(means, ranking), *_lead_by_stage(variants, means, ranking), *_slo(variants)]
    for name, variant in variants.items():
        counts = variant["requests"]
        cancelled = variant.get("failures", {}).get("requests_cancelled", 0)
        unfinished = counts["arrived"] - counts["finished"] - counts["rejected"] - cancelled
        parts = [f"rejected {counts['rejected']:,}"] if counts["rejected"] else []
        parts += [f"lost {cancelled:,} to clients that went away"] if cancelled else []
        parts += [f"did not finish {unfinished:,}"] if unfinished else []
        if parts:
            sentences.append(
                f"Compare with care: {name} {' and '.join(parts)} of {counts['arrived']:,} requests, and latencies "
                "cover finished requests only."
            )
    return sentences


def _headline(means: Mapping[str, float], ranking: Sequence[str]) -> str:
    if not ranking:
        return "No variant finished a request, so there is no latency to report."
    texts = dict(zip(ranking, duration_texts([means[name] for name in ranking]), strict=True))
    best = ranking[0]
    if len(ranking) == 1:
        return f"{best}: the mean end-to-end latency is {texts[best]}."
    close = [name for name in ranking if _are_close(means[best], means[name])]
    if len(close) > 1:
        everybody = len(close) == len(ranking)
        who = "All variants" if everybody else f"{', '.join(close[:-1])} and {close[-1]} have the lowest means and"
        return (
            f"{who} are less than {100 * CLOSE_SHARE:.0f} % apart in mean end-to-end latency ({texts[best]} to "
            f"{texts[close[-1]]}): too close to call from one seed."
        )
    others = [ranking[1]] if len(ranking) == 2 else [ranking[1], ranking[-1]]
    leads = [f"{100 * (1 - means[best] / means[name]):.1f} % below {name} ({texts[name]})" for name in others]
    return f"{best} has the lowest mean end-to-end latency, {texts[best]}: {' and '.join(leads)}."


def _are_close(best_s: float, other_s: float) -> bool:
    return other_s - best_s < CLOSE_SHARE * other_s or other_s == best_s


def _lead_by_stage(
    variants: Mapping[str, Mapping[str, Any]], means: Mapping[str, float], ranking: Sequence[str]
) -> list[str]:
    """In which stage the best variant gains most on the next one. Where the two are close: how far TTFT differs."""
    if len(ranking) < 2:
        return []
    if _are_close(means[ranking[0]], means[ranking[1]]):
        ttft = {name: v["ttft_s"]["p99"] for name, v in variants.items() if v["ttft_s"] is not None}
        low, high = min(ttft, key=lambda name: ttft[name]), max(ttft, key=lambda name: ttft[name])
        if _are_close(ttft[low], ttft[high]):
            return []
        least, most = duration_texts([ttft[low], ttft[high]])
        return [f"They differ more in the p99 of the time to the first token: from {least} ({low}) to {most} ({high})."]
    best, following = (variants[name]["stages_s"] for name in ranking[:2])
    gains = {stage: (following.get(stage.key) or 0.0) - (best.get(stage.key) or 0.0) for stage in STAGES}
    stage = max(STAGES, key=lambda stage: gains[stage])
    if gains[stage] <= 0:
        return []
    shorter, longer = duration_texts([best.get(stage.key) or 0.0, following.get(stage.key) or 0.0])
    return [
        f"It gains most on {ranking[1]} in the stage “{stage.label}”: {shorter} instead of {longer} for a mean request."
    ]


def _slo(variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    known = {name: v["slo_attainment"] for name, v in variants.items() if v["slo_attainment"] is not None}
    if not known:
        return []
    ranking = sorted(known, key=lambda name: -known[name])
    shares = ", ".join(f"{name} {100 * known[name]:.1f} %" for name in ranking)
    return [f"Share of requests that meet the SLO: {shares}."]


def _unbroken(text: str) -> str:
    """Escaped, with numbers kept together with their per cent sign."""
    return escape(text).replace(" %", "&nbsp;%")


def _header(summary: Mapping[str, Any]) -> str:
    facts = f"seed {summary['seed']} · kvsim {summary['kvsim_version']} · variants: {', '.join(summary['variants'])}"
    return f'<h1>{escape(str(summary["scenario"]))}</h1>\n<p class="facts">{escape(facts)}</p>'


def _notes(summary: Mapping[str, Any]) -> str:
    notes = [f"{name}: {note}" for name, variant in summary["variants"].items() for note in variant["notes"]]
    if summary.get("interrupted"):
        notes.insert(0, "The run was interrupted: the scenario has more variants than these.")
    if not notes:
        return ""
    return '<h2>Notes</h2>\n<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _table(summary: Mapping[str, Any], definitions: Mapping[str, tuple[str, str]]) -> str:
    names = list(summary["variants"])
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    lines = [f'<div class="wide"><table><thead><tr><td></td><th scope="col" class="unit">unit</th>{head}</tr></thead>']
    for section in comparison_sections(summary):
        title = f'<th scope="rowgroup" colspan="{len(names) + 2}">{escape(section.title)}</th>'
        lines.append(f'<tbody><tr class="section">{title}</tr>')
        lines += [_table_row(row, definitions) for row in section.rows]
        lines.append("</tbody>")
    lines.append(
        '</table></div><p class="hint">Marked: the best value of a row. Underlined: hover for the meaning.</p>'
    )
    return "\n".join(lines)


def _table_row(row: Row, definitions: Mapping[str, tuple[str, str]]) -> str:
    label = escape(row.label)
    definition = definitions.get(row.key) or definitions.get(row.key.split(".")[0])
    if definition is not None:
        label = f'<abbr title="{escape(definition[1])}">{label}</abbr>'
    cells = "".join(
        f'<td class="best">{escape(text)}</td>' if best else f"<td>{escape(text)}</td>"
        for text, best in zip(row.texts, row.best, strict=True)
    )
    return f'<tr><th scope="row">{label}</th><td class="unit">{escape(row.unit)}</td>{cells}</tr>'


def _definitions(definitions: Mapping[str, tuple[str, str]]) -> str:
    if not definitions:
        return ""
    items = "".join(
        f"<dt>{escape(key)} <small>{escape(unit)}</small></dt><dd>{escape(meaning)}</dd>"
        for key, (unit, meaning) in definitions.items()
    )
    return f"<details><summary>What the numbers mean</summary><dl>{items}</dl></details>"


def themed_svg(stem: str, svg_file: bytes, title: str) -> str:
    """A drawn figure as SVG within a page: ids made unique, inks taken from the page, no prologue, no namespaces, and
    the white sheet that it is drawn on (its first patch) taken away."""
    svg = svg_file.decode()
    svg = svg[svg.index("<svg") :].replace("fill: #ffffff", "fill: none", 1)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\bid="', f'id="{stem}-', svg)
    svg = svg.replace("url(#", f"url(#{stem}-").replace('href="#', f'href="#{stem}-')
    svg = svg.replace("*{stroke-linejoin", "figure svg *{stroke-linejoin")
    for ink, variable in ((INK, "ink"), (MUTED, "muted"), (GRID, "grid")):
        svg = svg.replace(ink, f"var(--{variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _inline_figure(stem: str, figure: DrawnFigure) -> str:
    svg = themed_svg(stem, figure.svg, figure.title)
    return f'<figure><div class="wide">{svg}</div><figcaption>{_CAPTIONS[stem]}</figcaption></figure>'


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
{body}
</body>
</html>
"""

CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --card: #f6f8fa; --ink: #1b1f24; --muted: #5b6470;
  --grid: #d5dae0; --best: #dff0e3; --warn: #fff4d6; --accent: #4477aa; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1d2126; --ink: #e6e9ed;
  --muted: #a2abb6; --grid: #39404a; --best: #1f3d29; --warn: #42371a; --accent: #7aa7d6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
.facts { color: var(--muted); margin: 0 0 1.25rem; }
.finding { background: var(--card); border-left: 4px solid var(--accent); padding: .75rem 1rem; }
.finding p { margin: 0 0 .4rem; } .finding p:first-child { font-size: 1.1rem; font-weight: 600; }
.finding p:last-child { margin: 0; }
.notes { background: var(--warn); padding: .75rem 1rem .75rem 2rem; margin: 0; }
.hint { color: var(--muted); font-size: .9rem; margin: .25rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .22rem .6rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--muted); white-space: normal;
  overflow-wrap: break-word; max-width: 12rem; }
tbody th { text-align: left; font-weight: 400; position: sticky; left: 0; background: var(--paper); }
tbody tr.section th { font-weight: 600; padding-top: .9rem; }
td.unit, th.unit { color: var(--muted); text-align: left; }
td.best { background: var(--best); font-weight: 600; }
abbr { text-decoration: underline dotted var(--muted); text-underline-offset: 3px; cursor: help; }
figure { margin: 1.5rem 0; } figure svg { display: block; width: 100%; min-width: 40rem; height: auto; }
figcaption { color: var(--muted); font-size: .9rem; }
details { margin-top: 1.25rem; } summary { cursor: pointer; font-weight: 600; }
dl { margin: .5rem 0; } dt { font-weight: 600; margin-top: .5rem; } dd { margin: 0 0 0 1rem; }
pre { background: var(--card); padding: .75rem 1rem; overflow-x: auto; font-size: .85rem; line-height: 1.4; }
@media (max-width: 40rem) { tbody th { max-width: 9.5rem; white-space: normal; } td.unit, th.unit { padding-left: 0; } }
@media print { html { font-size: 10px; } body { max-width: none; padding: 0; font-size: 1rem; }
  h2 { break-after: avoid; } figure, tr, .finding { break-inside: avoid; }
  .wide { overflow: visible; } figure svg { min-width: 0; } tbody th { position: static; }
  pre { white-space: pre-wrap; } td.best, .finding, .notes { print-color-adjust: exact; } }
"""
