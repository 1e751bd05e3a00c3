"""The HTML page: it stands alone, escapes what users wrote, and says no more than the numbers do."""

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_report_inputs import make_requests, make_summary, make_workers

from kvsim.report.figures import draw_figures
from kvsim.report.html import findings, write_report

HOSTILE = "<script>alert('x')</script>"
DEFINITIONS = {
    "ttft_s": ("s", 'From "arrival" to the first token.'),
    "stages_s": ("s", "Mean time of a finished request in a stage."),
}
VOID = {"meta", "br", "hr", "img", "input", "link"}


class _Page(HTMLParser):
    """Every tag with its attributes, all ids, all text; asserts that tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _write(folder: Path, summary: dict[str, Any], resolved_yaml: str = "name: chat\n") -> str:
    path = write_report(
        folder, summary, draw_figures(summary, make_requests(40), make_workers(20)), resolved_yaml, DEFINITIONS
    )
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _write(tmp_path_factory.mktemp("page"), make_summary())


def _parse(page: str) -> _Page:
    parsed = _Page()
    parsed.feed(page)
    parsed.close()
    assert not parsed.open
    return parsed


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    for tag, attributes in _parse(page).tags:
        assert tag not in ("script", "link", "iframe", "img", "object", "embed")
        assert "src" not in attributes
        reference = attributes.get("href", attributes.get("xlink:href"))
        assert reference is None or reference.startswith("#")


def test_tags_are_balanced_and_ids_unique_although_four_figures_are_inlined(page: str) -> None:
    tags = _parse(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 50
    assert sum(tag == "figure" for tag, _ in tags) == 4
    references = {ref for _, attributes in tags if (ref := attributes.get("xlink:href")) is not None}
    assert {reference[1:] for reference in references} <= set(ids)


def test_figures_take_their_inks_from_the_page_so_that_dark_mode_reaches_them(page: str) -> None:
    figures = page[page.index("<h2>Figures</h2>") :]
    assert "var(--ink)" in figures
    assert "#1b1f24" not in figures
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert "@media print" in page


def test_everything_that_a_user_wrote_is_escaped(tmp_path: Path) -> None:
    summary = make_summary(scenario=HOSTILE)
    summary["variants"][HOSTILE] = copy.deepcopy(summary["variants"]["push"])
    summary["variants"][HOSTILE]["notes"] = [HOSTILE]
    page = _write(tmp_path, summary, resolved_yaml=f"name: {HOSTILE}\n")
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;") >= 5  # title, h1, column, note, scenario
    assert _parse(page).text.count(HOSTILE) >= 5


def test_the_page_holds_header_finding_notes_tooltips_and_the_scenario(page: str) -> None:
    text = _parse(page).text
    assert "seed 7 · kvsim 0.1.0 · variants: pull, push, colocated" in text
    assert findings(make_summary())[0] in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "push: 1 request was rejected: it fits no block pool" in text
    assert "name: chat" in text
    tooltips = [attributes["title"] for tag, attributes in _parse(page).tags if tag == "abbr"]
    assert tooltips.count('From "arrival" to the first token.') == 2  # p50 and p99
    assert tooltips.count("Mean time of a finished request in a stage.") == 6


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    assert "The run was interrupted" in _parse(_write(tmp_path, make_summary() | {"interrupted": True})).text


def test_the_same_inputs_give_the_same_page(page: str, tmp_path: Path) -> None:
    assert _write(tmp_path, make_summary()) == page


def _summary(means_s: dict[str, float | None]) -> dict[str, Any]:
    summary = make_summary()
    template = summary["variants"]["pull"]
    summary["variants"] = {}
    for name, mean_s in means_s.items():
        variant = copy.deepcopy(template)
        variant["slo_attainment"] = None
        variant["e2e_s"] = None if mean_s is None else {"mean": mean_s, "p50": 1, "p90": 1, "p99": 1}
        variant["stages_s"] = {"prefill": 0.5, "decode": (mean_s or 0.5) - 0.5}
        summary["variants"][name] = variant
    return summary


def test_the_headline_names_the_fastest_variant_and_its_lead() -> None:
    assert findings(_summary({"push": 4.0, "pull": 3.0, "colocated": 6.0})) == [
        "pull has the lowest mean end-to-end latency, 3.00 s: 25.0 % below push (4.00 s) and 50.0 % below colocated "
        "(6.00 s).",
        "It gains most on push in the stage “decode”: 2.50 s instead of 3.50 s for a mean request.",
    ]


def test_differences_below_two_per_cent_are_called_too_close() -> None:
    some = findings(_summary({"push": 3.05, "pull": 3.0, "colocated": 6.0}))
    assert some == [
        "pull and push have the lowest means and are less than 2 % apart in mean end-to-end latency (3.00 s to "
        "3.05 s): too close to call from one seed."
    ]
    (every,) = findings(_summary({"push": 3.05, "pull": 3.0}))
    assert every.startswith("All variants are less than 2 % apart")
    assert "lowest mean" in findings(_summary({"push": 3.07, "pull": 3.0}))[0]


def test_where_means_are_close_a_difference_in_the_first_token_is_told() -> None:
    summary = _summary({"push": 3.0, "pull": 3.0})
    summary["variants"]["push"]["ttft_s"] = {"mean": 0.1, "p50": 0.1, "p90": 0.5, "p99": 2.0}
    summary["variants"]["pull"]["ttft_s"] = {"mean": 0.1, "p50": 0.1, "p90": 0.5, "p99": 0.5}
    assert findings(summary)[1] == (
        "They differ more in the p99 of the time to the first token: from 0.50 s (pull) to 2.00 s (push)."
    )


def test_one_variant_gets_no_comparison_and_none_finished_is_said() -> None:
    assert findings(_summary({"pull": 3.0})) == ["pull: the mean end-to-end latency is 3.00 s."]
    assert findings(_summary({"pull": None})) == ["No variant finished a request, so there is no latency to report."]


def test_slo_shares_are_ranked_and_lost_requests_call_for_care() -> None:
    summary = _summary({"pull": 3.0, "push": 4.0})
    summary["variants"]["pull"]["slo_attainment"] = 0.5
    summary["variants"]["push"]["slo_attainment"] = 0.75
    summary["variants"]["push"]["requests"] = {"arrived": 1000, "finished": 900, "rejected": 60}
    assert findings(summary)[2:] == [
        "Share of requests that meet the SLO: push 75.0 %, pull 50.0 %.",
        "Compare with care: push rejected 60 and did not finish 40 of 1,000 requests, and latencies cover finished "
        "requests only.",
    ]
