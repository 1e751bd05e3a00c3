"""Where a user sees what went wrong: the run folder, the table, the figure, the timeline, the sentences of a report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from kvsim.replay import replay_file
from kvsim.report.fault_figure import fault_figure
from kvsim.report.html import findings
from kvsim.report.style import figure_bytes
from kvsim.report.terminal import comparison_sections
from kvsim.run_folder import RunFolder, load_run
from kvsim.scenario import load_scenario
from kvsim.study import run_scenario

SMALL = Path(__file__).parent / "golden" / "small.yaml"
FAULTS = """faults=[
  {kind: worker_crash, worker: decode0, at: 20 ms, restart: 10 ms},
  {kind: link_degraded, worker: prefill0, at: 10 ms, lasts: 5 ms, share: 0.5},
  {kind: client_cancels, probability: 0.2, after: 5 ms},
  {kind: transfer_failed, probability: 0.2}]"""
FASTER = "detection={crash: 1 ms, hang: 2 ms, transfer: 5 ms}"
ONE = [
    FAULTS,
    FASTER,
    "variants.push=null",
    "variants.streamed=null",
    "variants.message=null",
    "variants.colocated=null",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    scenario = load_scenario(SMALL, [*ONE, "variants.calm={transfer.mode: pull, faults: []}"])
    return run_scenario(scenario, tmp_path_factory.mktemp("faulty"), record=True, timeline=True)


def test_the_run_folder_holds_what_was_planned_and_what_struck(run: RunFolder) -> None:
    assert list(run.faults) == ["pull"]
    faults = run.faults["pull"]
    assert faults["detection"] == {"crash_ns": 10**6, "hang_ns": 2 * 10**6, "transfer_ns": 5 * 10**6}
    (crash,) = [fault for fault in faults["struck"] if fault["kind"] == "worker_crash"]
    assert (crash["worker"], crash["at_ns"], crash["until_ns"]) == ("decode0", 20 * 10**6, 30 * 10**6)
    assert {fault["kind"] for fault in faults["planned"]} == {"worker_crash", "link_degraded", "client_cancels"}
    assert [chance["kind"] for chance in faults["chances"]] == ["transfer_failed"]
    assert load_run(run.path).faults == run.faults


def test_the_summary_counts_what_struck_and_what_came_of_it(run: RunFolder) -> None:
    failures = run.summary["variants"]["pull"]["failures"]
    struck = run.faults["pull"]["struck"]
    for kind, count in failures["struck"].items():
        assert count == sum(fault["kind"] == kind for fault in struck) > 0
    assert (failures["workers_lost"], failures["workers_joined"]) == (1, 1)
    assert failures["transfers_failed"] >= failures["struck"]["transfer_failed"]  # and what was stopped for a client
    answered = [answer["what"] for answer in run.faults["pull"]["answered"]]
    assert answered.count("transfer_retried") == failures["transfers_retried"] == len(answered)
    assert failures["transfers_cut"] > 0  # given up with the worker, before they were by themselves
    assert failures["requests_cancelled"] == failures["struck"]["client_cancels"]
    counts = run.summary["variants"]["pull"]["requests"]
    assert counts["finished"] + failures["requests_cancelled"] == counts["arrived"] == 40
    assert "failures" not in run.summary["variants"]["calm"]


def test_a_record_with_faults_replays(run: RunFolder) -> None:
    for path in run.records.values():
        assert replay_file(path).identical


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_faults(run: RunFolder, tmp_path: Path) -> None:
    again = run_scenario(load_scenario(run.path / "scenario.yaml"), tmp_path / "again", report=False)
    for name in ("summary.json", "faults.json", "requests.parquet"):
        assert (again.path / name).read_bytes() == (run.path / name).read_bytes()
    other = run_scenario(load_scenario(SMALL, ONE, seed=6), tmp_path / "other", report=False)
    assert other.faults["pull"]["planned"] != run.faults["pull"]["planned"]


def test_a_run_without_faults_takes_away_what_one_with_faults_has_left(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run_scenario(load_scenario(SMALL, ONE), folder, report=False).faults
    assert not run_scenario(load_scenario(SMALL, [*ONE, "faults=[]"]), folder, report=False).faults


def test_the_table_shows_what_happened_and_zeros_where_nothing_did(run: RunFolder) -> None:
    (section,) = [one for one in comparison_sections(run.summary) if one.title == "What went wrong"]
    rows = {row.label: row.texts for row in section.rows}
    assert rows["workers lost"] == ("1", "0")
    assert rows["requests cancelled"][1] == "0"
    assert "requests unfinished" not in rows
    assert rows["recovery p50"][1] == "–"


def test_a_report_says_how_many_requests_clients_gave_up(run: RunFolder) -> None:
    cancelled = run.summary["variants"]["pull"]["failures"]["requests_cancelled"]
    (warning,) = [text for text in findings(run.summary) if text.startswith("Compare with care")]
    assert warning.startswith(f"Compare with care: pull lost {cancelled} to clients that went away of 40 requests")


def test_the_figure_has_a_lane_for_each_thing_that_was_struck(run: RunFolder) -> None:
    figure = fault_figure(run.faults, run.requests, ["prefill0", "decode0", "decode1"])
    upper, lower = figure.axes
    assert [text.get_text() for text in upper.get_yticklabels()] == [
        *("prefill0", "decode0", "transfers", "clients"),
        "retries",
    ]
    answered = [answer["at_ns"] / 1e9 for answer in run.faults["pull"]["answered"]]
    assert answered
    assert upper.get_lines()[-1].get_xdata() == pytest.approx(answered)
    bars = {to_hex(b.get_facecolor()): (b.get_x(), b.get_width()) for b in upper.patches if isinstance(b, Rectangle)}
    assert bars == {"#d55e00": pytest.approx((0.02, 0.01)), "#0072b2": pytest.approx((0.01, 0.005))}
    assert np.asarray(lower.get_lines()[0].get_ydata())[-1] == 0
    again = fault_figure(run.faults, run.requests, ["prefill0", "decode0", "decode1"])
    assert figure_bytes(figure, "svg") == figure_bytes(again, "svg")
    assert (run.path / "figures" / "faults.png").is_file()
    assert "A bar is as long as the fault lasted" in (run.path / "report.html").read_text(encoding="utf-8")


def test_in_the_timeline_every_span_ends_and_a_lost_worker_is_marked(run: RunFolder) -> None:
    events: list[dict[str, Any]] = json.loads((run.path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    opened: dict[tuple[int, int], int] = {}
    for event in events:
        track = event["pid"], event["tid"]
        if event["ph"] in "BE":
            opened[track] = opened.get(track, 0) + (1 if event["ph"] == "B" else -1)
            assert opened[track] in (0, 1), "spans of one track overlap"
    assert not any(opened.values())
    moments = [(event["name"], event["ts"]) for event in events if event["ph"] == "i" and event["cat"] == "worker"]
    assert moments == [("lost", 21_000.0), ("joined", 30_000.0)]
    spans = [(event["name"], event["ts"], event["dur"]) for event in events if event["ph"] == "X"]
    assert ("worker_crash", 20_000.0, 10_000.0) in spans
    assert any(event["ph"] == "E" and event["args"].get("failed") for event in events)
