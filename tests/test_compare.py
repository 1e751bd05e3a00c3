"""Runs side by side: which are compared with which, pairs of requests, two samples, and what is refused."""

import json
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from kvsim.cli import app
from kvsim.compare import BATCHES, REQUESTS_MIN, compare_runs, find_candidates, joint_summary, write_comparison
from kvsim.confidence import difference_interval, mean_interval
from kvsim.errors import RunFolderError
from kvsim.report.compare_figure import compare_figure
from kvsim.run_folder import REQUESTS, SUMMARY, load_run
from kvsim.scenario import load_scenario
from kvsim.study import run_scenario

SMALL = Path(__file__).parent / "golden" / "small.yaml"
NS = 1_000_000_000
COUNT = 5 * BATCHES  # five requests in each batch


def make_run(folder: Path, latencies_s: dict[str, list[float]], first_arrival_ns: int = 0) -> Path:
    """A run folder made by hand: requests arrive every second, TTFT is a tenth of E2E, 11 output tokens each.

    A latency of NaN is a request that was rejected.
    """
    tables, variants = [], {}
    for name, seconds in latencies_s.items():
        arrival = first_arrival_ns + NS * np.arange(len(seconds), dtype=np.int64)
        e2e = pd.Series([pd.NA if np.isnan(one) else round(one * NS) for one in seconds], dtype="Int64")
        tables.append(
            pd.DataFrame(
                {
                    "variant": name,
                    "request": np.arange(len(seconds)),
                    "prompt_tokens": 100,
                    "output_tokens": 11,
                    "arrival_ns": pd.array(arrival, dtype="Int64"),
                    "first_token_ns": arrival + e2e // 10,
                    "finished_ns": arrival + e2e,
                }
            )
        )
        known = [one for one in seconds if not np.isnan(one)]
        variants[name] = {
            "requests": {"arrived": len(seconds), "finished": len(known)},
            "ttft_s": {"mean": float(np.mean(known)) / 10},
            "tpot_s": {"mean": float(np.mean(known)) * 0.09},
            "e2e_s": {"mean": float(np.mean(known)), "p99": max(known)},
            "transfer_s": None,
            "notes": ["a note"],
        }
    folder.mkdir(parents=True)
    pd.concat(tables).to_parquet(folder / REQUESTS)
    (folder / SUMMARY).write_text(json.dumps({"scenario": "made up", "variants": variants}))
    return folder


def row_of(comparison: pd.DataFrame, candidate: str, metric: str) -> dict[str, Any]:
    rows = comparison[(comparison["candidate"] == candidate) & (comparison["metric"] == metric)]
    assert len(rows) == 1
    return {str(key): value for key, value in rows.iloc[0].to_dict().items()}


def bases_of(*paths: Path) -> list[tuple[str, str | None]]:
    candidates = find_candidates(paths)
    return [(one.label, None if one.base is None else candidates[one.base].label) for one in candidates]


def drawn(seed: int, mean_s: float = 2.0) -> list[float]:
    return [round(value, 6) for value in np.random.default_rng(seed).normal(mean_s, 0.3, COUNT).tolist()]


def test_variants_of_the_same_name_are_compared_with_the_first_run(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"pull": [1.0], "push": [1.0]})
    b = make_run(tmp_path / "b", {"push": [1.0], "other": [1.0]})
    assert bases_of(a, b) == [("a:pull", None), ("a:push", None), ("b:push", "a:push"), ("b:other", None)]


def test_lone_variants_are_compared_whatever_they_are_called(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name / "run", {name: [1.0]}) for name in ("x", "y", "z")]
    assert bases_of(*runs) == [("x/run", None), ("y/run", "x/run"), ("z/run", "x/run")]


def test_the_variants_of_one_run_are_compared_with_its_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {"pull": [1.0], "push": [1.0], "colocated": [1.0]})
    assert bases_of(run) == [("pull", None), ("push", "pull"), ("colocated", "pull")]


def test_requests_of_the_same_arrivals_are_compared_one_by_one(tmp_path: Path) -> None:
    base = drawn(1)
    change = [0.5 + 0.01 * (number % BATCHES) for number in range(COUNT)]
    a = make_run(tmp_path / "a", {"v": base})
    b = make_run(tmp_path / "b", {"v": [one + by for one, by in zip(base, change, strict=True)]})
    row = row_of(compare_runs([a, b]), "b", "e2e_s.mean")
    batches = np.array(change).reshape(BATCHES, 5).mean(axis=1)
    expected = mean_interval(batches)
    assert row["difference"] == pytest.approx(0.595)  # 0.5 and the mean of 0 to 0.19
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    assert (row["base"], row["pairing"], row["requests"]) == ("a", "paired", COUNT)
    assert row["base_value"] == pytest.approx(np.mean(base))
    ttft = row_of(compare_runs([a, b]), "b", "ttft_s.mean")
    assert ttft["difference"] == pytest.approx(0.0595)
    tpot = row_of(compare_runs([a, b]), "b", "tpot_s.mean")
    assert tpot["difference"] == pytest.approx(0.595 * 0.9 / 10)


def test_pairs_see_a_small_difference_that_two_samples_do_not(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"v": drawn(1)})
    b = make_run(tmp_path / "b", {"v": [one + 0.01 for one in drawn(1)]})
    c = make_run(tmp_path / "c", {"v": [one + 0.01 for one in drawn(1)]}, first_arrival_ns=5)
    paired = row_of(compare_runs([a, b]), "b", "e2e_s.mean")
    unpaired = row_of(compare_runs([a, c]), "c", "e2e_s.mean")
    assert paired["low"] == pytest.approx(0.01)
    assert paired["high"] == pytest.approx(0.01)
    assert unpaired["pairing"] == "unpaired"
    assert unpaired["low"] < 0 < unpaired["high"]


def test_runs_of_other_arrivals_are_two_samples(tmp_path: Path) -> None:
    ours, theirs = drawn(2, 2.5), drawn(1)
    a = make_run(tmp_path / "a", {"v": theirs})
    b = make_run(tmp_path / "b", {"v": ours}, first_arrival_ns=1)
    row = row_of(compare_runs([a, b]), "b", "e2e_s.mean")
    means = [np.array(sample).reshape(BATCHES, 5).mean(axis=1) for sample in (ours, theirs)]
    expected = difference_interval(*means)
    assert row["difference"] == pytest.approx(expected.mean)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    assert (row["pairing"], row["requests"]) == ("unpaired", COUNT)


def test_a_request_that_only_one_run_finished_has_no_pair(tmp_path: Path) -> None:
    base = [1.0] * COUNT + [50.0]
    a = make_run(tmp_path / "a", {"v": base})
    b = make_run(tmp_path / "b", {"v": [2.0] * COUNT + [nan]})
    row = row_of(compare_runs([a, b]), "b", "e2e_s.mean")
    assert row["base_value"] == pytest.approx(150 / 101)
    assert row["value"] == 2
    assert (row["difference"], row["low"], row["high"]) == (1, 1, 1)
    assert row["requests"] == COUNT


def test_short_runs_have_differences_without_limits(tmp_path: Path) -> None:
    short = [1.0] * (REQUESTS_MIN - 1)
    a = make_run(tmp_path / "a", {"v": short})
    b = make_run(tmp_path / "b", {"v": [2.0] * len(short)})
    row = row_of(compare_runs([a, b]), "b", "e2e_s.mean")
    assert (row["difference"], row["pairing"], row["requests"]) == (1, "paired", REQUESTS_MIN - 1)
    assert np.isnan(row["low"])


def test_percentiles_and_counts_have_differences_only(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"v": [1.0] * COUNT})
    b = make_run(tmp_path / "b", {"v": [1.0] * COUNT + [3.0]})
    comparison = compare_runs([a, b])
    assert row_of(comparison, "b", "e2e_s.p99")["difference"] == 2
    assert pd.isna(row_of(comparison, "b", "e2e_s.p99")["pairing"])
    assert row_of(comparison, "b", "requests.arrived")["difference"] == 1
    assert row_of(comparison, "b", "e2e_s.p99")["unit"] == "s"
    assert pd.isna(row_of(comparison, "a", "e2e_s.p99")["base"])
    assert "notes" not in set(comparison["metric"])
    assert not comparison["metric"].str.startswith("transfer_s").any()


def test_variants_of_a_simulated_run_are_paired(tmp_path: Path) -> None:
    options = ["workload.requests=120", *(f"variants.{name}=null" for name in ("streamed", "message", "colocated"))]
    run = run_scenario(load_scenario(SMALL, options), tmp_path / "run", report=False)
    row = row_of(compare_runs([run.path]), "push", "e2e_s.mean")
    requests = run.requests.set_index(["variant", "request"])
    e2e_s = (requests["finished_ns"] - requests["arrival_ns"]).astype("float64") / 1e9
    assert row["pairing"] == "paired"
    means = e2e_s.groupby(level="variant").mean()
    assert row["difference"] == pytest.approx(means["push"] - means["pull"])
    assert row["low"] < row["difference"] < row["high"]
    push, pull = (run.summary["variants"][name]["tpot_s"]["mean"] for name in ("push", "pull"))
    assert row_of(compare_runs([run.path]), "push", "tpot_s.mean")["difference"] == pytest.approx(push - pull)


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", {"v": [1.0]}), make_run(tmp_path / "b", {"x": [1.0], "y": [1.0]})
    with pytest.raises(RunFolderError, match="give two runs, or one with several variants"):
        compare_runs([a])
    with pytest.raises(RunFolderError, match=r"no variant in common: .*a has v; .*b has x, y"):
        compare_runs([a, b])
    with pytest.raises(RunFolderError, match="the same run is given twice"):
        compare_runs([a, tmp_path / "b" / ".." / "a"])
    with pytest.raises(RunFolderError, match=r"no run folder: it holds no summary\.json"):
        compare_runs([a, tmp_path])
    summary = json.loads((a / SUMMARY).read_text())
    (a / SUMMARY).write_text(json.dumps({**summary, "interrupted": True}))
    with pytest.raises(RunFolderError, match="this run was interrupted"):
        compare_runs([a, b])


def test_the_joint_summary_is_that_of_each_candidate(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", {"v": [1.0]}), make_run(tmp_path / "b", {"v": [2.0]})
    joint = joint_summary(find_candidates([a, b]))
    assert joint["variants"] == {"a": load_run(a).summary["variants"]["v"], "b": load_run(b).summary["variants"]["v"]}


def test_the_figure_shows_values_and_differences_in_per_cent(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"v": [1.0] * COUNT})
    b = make_run(tmp_path / "b", {"v": [1.5] * COUNT})
    figure = compare_figure(compare_runs([a, b]))
    above, below = figure.axes[2], figure.axes[5]
    assert above.get_title(loc="left") == "mean E2E"
    assert [bar.get_width() for bar in above.patches] == [1.0, 1.5]  # type: ignore[attr-defined]
    marker = below.get_lines()[1]
    assert (np.asarray(marker.get_xdata()).tolist(), np.asarray(marker.get_ydata()).tolist()) == ([50.0], [0])
    assert [text.get_text() for text in figure.axes[3].get_yticklabels()] == ["b – a"]


def test_a_comparison_is_written_and_written_again_but_over_nothing_else(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"v": [1.0] * COUNT})
    b = make_run(tmp_path / "b", {"v": [1.5] * COUNT})
    comparison = compare_runs([a, b])
    for _ in range(2):
        write_comparison(comparison, tmp_path / "out")
        assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
            "compare.parquet",
            "compare.png",
            "compare.svg",
        ]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "compare.parquet"), comparison)
    with pytest.raises(RunFolderError, match="is not empty and holds no kvsim comparison"):
        write_comparison(comparison, a)
    with pytest.raises(RunFolderError, match="is a file"):
        write_comparison(comparison, a / SUMMARY)


def test_the_command_shows_both_tables(tmp_path: Path) -> None:
    options = ["workload.requests=110", *(f"variants.{name}=null" for name in ("streamed", "message", "colocated"))]
    for name, seed in (("one", 1), ("two", 2)):
        run_scenario(load_scenario(SMALL, options, seed), tmp_path / name, report=False)
    paths = [str(tmp_path / "one"), str(tmp_path / "two")]
    output = CliRunner().invoke(app, ["compare", *paths, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert output.exit_code == 0
    words = " ".join(output.output.split())
    assert "two:push against one:push, as two samples, since their arrivals differ" in words
    assert f"wrote {tmp_path / 'out'}" in words
    output = CliRunner().invoke(app, ["compare", paths[0], "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert "push against pull, request by request" in " ".join(output.output.split())
