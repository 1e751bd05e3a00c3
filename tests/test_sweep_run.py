"""Whole sweeps: the table, what the seeds say, and going on after any kind of end with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from kvsim.confidence import mean_interval
from kvsim.errors import KvsimError, RunFolderError, ScenarioError
from kvsim.scenario import load_scenario
from kvsim.study import run_scenario
from kvsim.sweep import SweepError, SweepResult, load_sweep, run_sweep
from kvsim.sweep import run_point as run_point_module
from kvsim.sweep.axes import Axis
from kvsim.sweep.points import Point
from kvsim.sweep.result import TABLE
from kvsim.sweep.run_point import Row, simulate_point
from kvsim.sweep.store import JOURNAL
from kvsim.sweep.table import Layout

SMALL = Path(__file__).parent / "golden" / "small.yaml"
TWO = ["workload.requests=6", *(f"variants.{name}=null" for name in ("streamed", "message", "colocated"))]
VARY = ["workers.decode.count=1,2", "workload.arrivals.rate=300:600:300 req/s"]


def sweep(out: Path, vary: list[str] = VARY, seeds: int = 2, **options: object) -> SweepResult:
    return run_sweep(SMALL, vary, seeds, out, workers=1, figures=False, overrides=TWO, **options)  # type: ignore[arg-type]


def finished_names(folder: Path) -> list[str]:
    return [json.loads(line)["name"] for line in (folder / JOURNAL).read_bytes().splitlines()[1:]]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    return sweep(tmp_path_factory.mktemp("sweep") / "small")


def test_the_table_has_a_row_per_point_seed_and_variant_in_grid_order(result: SweepResult) -> None:
    table = result.table
    assert table.columns[:6].tolist() == [
        "cell",
        "workers.decode.count",
        "workload.arrivals.rate (req/s)",
        "seed",
        "variant",
        "requests.arrived",
    ]
    assert table.iloc[:5, :5].to_numpy().tolist() == [
        [0, 1, 300, 5, "pull"],
        [0, 1, 300, 5, "push"],
        [0, 1, 300, 6, "pull"],
        [0, 1, 300, 6, "push"],
        [1, 1, 600, 5, "pull"],
    ]
    assert len(table) == 16
    assert table["requests.finished"].tolist() == [6] * 16
    assert table["workload.arrivals.rate (req/s)"].dtype == "int64"
    assert table["ttft_s.p99"].dtype == "float64"


def test_a_row_is_what_a_run_of_that_point_says(result: SweepResult, tmp_path: Path) -> None:
    options = [*TWO, "workers.decode.count=2", "workload.arrivals.rate=300 req/s"]
    summary = run_scenario(load_scenario(SMALL, options, seed=6), tmp_path / "run", report=False).summary
    row = result.table[(result.table["cell"] == 2) & (result.table["seed"] == 6) & (result.table["variant"] == "push")]
    pushed = summary["variants"]["push"]
    assert row["ttft_s.p99"].item() == pushed["ttft_s"]["p99"]
    assert row["gpu_busy.decode"].item() == pushed["gpu_busy"]["decode"]
    assert row["transfers.bytes"].item() == pushed["transfers"]["bytes"]


def test_a_finished_sweep_is_opened_again_as_it_was(result: SweepResult) -> None:
    again = load_sweep(result.path)
    pd.testing.assert_frame_equal(again.table, result.table)
    assert again.layout == result.layout
    assert result.layout == Layout(
        "small",
        (Axis("workers.decode.count", "", (1, 2)), Axis("workload.arrivals.rate", "req/s", (300, 600))),
        ("pull", "push"),
    )


def test_a_folder_without_a_finished_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no finished sweep: it holds no sweep\.parquet"):
        load_sweep(tmp_path)
    (tmp_path / TABLE).write_bytes(b"PAR1")
    with pytest.raises(RunFolderError, match="this is no table of a kvsim sweep"):
        load_sweep(tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / TABLE)
    with pytest.raises(RunFolderError, match="this is no table of a kvsim sweep"):
        load_sweep(tmp_path)


def test_seeds_give_means_with_intervals(result: SweepResult) -> None:
    statistics = result.statistics(["e2e_s.mean", "preemptions", "no.such.metric"])
    assert statistics["metric"].unique().tolist() == ["e2e_s.mean", "preemptions"]
    assert len(statistics) == 4 * 2 * 2
    table = result.table
    sample = table[(table["cell"] == 1) & (table["variant"] == "push")]["e2e_s.mean"]
    expected = mean_interval(sample.to_numpy())
    row = statistics[(statistics["cell"] == 1) & (statistics["variant"] == "push")].iloc[0]
    assert row[["mean", "low", "high", "seeds"]].tolist() == pytest.approx(
        [expected.mean, expected.low, expected.high, 2]
    )
    assert row["workload.arrivals.rate (req/s)"] == 600


def test_variants_are_compared_seed_by_seed(result: SweepResult) -> None:
    differences = result.differences(metrics=["e2e_s.mean"])
    assert differences["variant"].unique().tolist() == ["push"]
    table = result.table[result.table["cell"] == 3].set_index(["variant", "seed"])["e2e_s.mean"]
    expected = mean_interval([table["push", seed] - table["pull", seed] for seed in (5, 6)])
    row = differences[differences["cell"] == 3].iloc[0]
    assert row[["mean", "low", "high"]].tolist() == pytest.approx([expected.mean, expected.low, expected.high])
    assert row["base_mean"] == pytest.approx((table["pull", 5] + table["pull", 6]) / 2)
    turned = result.differences("push", ["e2e_s.mean"])
    assert turned["mean"].tolist() == pytest.approx((-differences["mean"]).tolist())
    with pytest.raises(ValueError, match="no variant 'pulls', only pull, push"):
        result.differences("pulls")


def test_one_seed_gives_means_without_limits(tmp_path: Path) -> None:
    result = sweep(tmp_path / "one", seeds=1)
    statistics = result.statistics()
    assert statistics[["low", "high"]].isna().all(axis=None)
    assert statistics["mean"].notna().all()
    assert result.notes == ()


def test_metrics_that_a_role_does_not_have_are_null(tmp_path: Path) -> None:
    mixed = run_sweep(
        SMALL, ["slo.ttft=1 ms,2 ms"], 1, tmp_path / "s", workers=1, figures=False, overrides=["workload.requests=4"]
    ).table
    busy = mixed.set_index(["cell", "variant"])["gpu_busy.colocated"]
    assert busy.isna().tolist() == ([True] * 4 + [False]) * 2
    places = [mixed.columns.tolist().index(f"gpu_busy.{role}") for role in ("prefill", "decode", "colocated")]
    assert places == list(range(places[0], places[0] + 3))  # metrics of one kind stand together


def test_a_load_that_no_seed_changes_is_noted(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,100,10\n0.1,50,9\n")
    result = run_sweep(
        SMALL,
        ["slo.ttft=1 ms,2 ms"],
        2,
        tmp_path / "s",
        workers=1,
        figures=False,
        overrides=["workload=null", f"workload.trace.path={trace}", "workload.trace.requests_max=1"],
    )
    assert (
        "all seeds give the same results (is the load a recorded trace?): their intervals say nothing" in result.notes
    )
    assert any("requests_max" in note for note in result.notes)


def test_any_form_of_a_scenario_gives_the_same_points(result: SweepResult, tmp_path: Path) -> None:
    scenario = load_scenario(SMALL, TWO)
    same = run_sweep(scenario, VARY, 2, tmp_path / "a", workers=1, figures=False)
    assert (tmp_path / "a" / TABLE).read_bytes() == (result.path / TABLE).read_bytes()
    mapping = {**scenario.document, "sweep": {"vary": {"slo.ttft": ["1 ms", "2 ms"]}}}
    assert len(run_sweep(mapping, out=tmp_path / "b", workers=1, figures=False).table) == 4
    assert len(same.table) == 16


def test_processes_give_the_same_bytes(result: SweepResult, tmp_path: Path) -> None:
    run_sweep(SMALL, VARY, 2, tmp_path / "s", workers=2, figures=False, overrides=TWO)
    assert (tmp_path / "s" / TABLE).read_bytes() == (result.path / TABLE).read_bytes()


def test_an_interrupted_sweep_goes_on_and_gives_the_same_bytes(result: SweepResult, tmp_path: Path) -> None:
    told: list[tuple[str, int, int, int]] = []

    def stop_after_three(phase: str, done: int, total: int, before: int) -> None:
        told.append((phase, done, total, before))
        if phase == "simulating" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "s", advance=stop_after_three)
    assert sorted(file.name for file in (tmp_path / "s").iterdir()) == [JOURNAL]
    assert len(finished_names(tmp_path / "s")) == 3
    assert told[:4] == [("checking", done, 4, 0) for done in (1, 2, 3, 4)]
    told.clear()
    sweep(tmp_path / "s", advance=lambda *news: told.append(news))
    assert told[4:6] == [("simulating", 0, 5, 3), ("simulating", 1, 5, 3)]
    assert len(finished_names(tmp_path / "s")) == len(set(finished_names(tmp_path / "s"))) == 8
    assert (tmp_path / "s" / TABLE).read_bytes() == (result.path / TABLE).read_bytes()


def test_a_larger_grid_runs_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(tmp_path / "s", ["slo.ttft=1 ms,2 ms"], 1)
    ran: list[str] = []

    def watched(point: Point) -> list[Row]:
        ran.append(point.name)
        return simulate_point(point)

    monkeypatch.setattr(run_point_module, "simulate_point", watched)
    sweep(tmp_path / "s", ["slo.ttft=3 ms,2 ms,1 ms"], 2)
    assert ran == ["slo.ttft=3 ms, seed 5", "slo.ttft=3 ms, seed 6", "slo.ttft=2 ms, seed 6", "slo.ttft=1 ms, seed 6"]
    ran.clear()
    assert len(sweep(tmp_path / "s", ["slo.ttft=1 ms,2 ms"], 1).table) == 4
    assert ran == []


def test_points_that_fail_are_named_and_the_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(point: Point) -> list[Row]:
        if point.values[0] == 1:
            raise AssertionError(f"no such luck with seed {point.seed}")
        return simulate_point(point)

    monkeypatch.setattr(run_point_module, "simulate_point", fragile)
    with pytest.raises(SweepError) as error:
        sweep(tmp_path / "s", ["workers.decode.count=1,2"])
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"2 of 4 points failed; the others are kept in {tmp_path / 's'}, and the same command")
    assert lines[1].startswith("workers.decode.count=1, seed 5: AssertionError: no such luck with seed 5 (at ")
    assert len(lines) == 3
    assert sorted(file.name for file in (tmp_path / "s").iterdir()) == [JOURNAL]
    monkeypatch.setattr(run_point_module, "simulate_point", simulate_point)
    assert len(sweep(tmp_path / "s", ["workers.decode.count=1,2"]).table) == 8


@pytest.mark.parametrize(
    ("vary", "error"), [(["workload.arivals.rate=1,2"], ScenarioError), (["slo.ttft=2:1:1 s"], ScenarioError)]
)
def test_a_bad_grid_leaves_no_folder(tmp_path: Path, vary: list[str], error: type[KvsimError]) -> None:
    with pytest.raises(error):
        sweep(tmp_path / "s", vary)
    assert not (tmp_path / "s").exists()


def test_an_engine_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found the engine 'dask', expected one of: processes, ray"):
        sweep(tmp_path / "s", engine="dask")


def test_a_sweep_of_the_python_api_may_name_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep(None, ["slo.ttft=1 ms,2 ms"], 1).path == Path("sweeps/small")  # type: ignore[arg-type]


def test_the_parquet_file_names_its_knobs(result: SweepResult) -> None:
    metadata = pq.read_schema(result.path / TABLE).metadata
    assert json.loads(metadata[b"kvsim"])["axes"][1] == {
        "key": "workload.arrivals.rate",
        "unit": "req/s",
        "entries": [300, 600],
    }


LONGER = [*TWO[1:], "workload.requests=100", "workload.arrivals.rate=300 req/s"]
DECODE_WORKERS = "workers.decode.count=1,2"
COMMAND = [
    *(sys.executable, "-m", "kvsim", "sweep", str(SMALL), "--vary", DECODE_WORKERS, "--seeds", "4"),
    *("--workers", "2", "--no-figures", *(word for option in LONGER for word in ("--set", option))),
]
POINTS = 8


@contextmanager
def started(out: Path) -> Iterator["subprocess.Popen[str]"]:
    """A sweep of ``POINTS`` points in a process group of its own; none of its processes outlives the block."""
    with subprocess.Popen(
        [*COMMAND, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "random"},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for_points(process: "subprocess.Popen[str]", folder: Path, count: int) -> None:
    """Until that many points are finished and kept; the process must still be at work then."""
    while process.poll() is None:
        if (folder / JOURNAL).is_file() and (folder / JOURNAL).read_bytes().count(b"\n") > count:
            return
        time.sleep(0.005)
    raise AssertionError(f"the sweep ended with {process.returncode} before it had {count} points")


def test_a_sweep_that_is_killed_goes_on_and_gives_the_same_bytes_as_an_undisturbed_one(tmp_path: Path) -> None:
    run_sweep(SMALL, [DECODE_WORKERS], 4, tmp_path / "whole", workers=1, figures=False, overrides=LONGER)
    with started(tmp_path / "cut") as process:
        wait_for_points(process, tmp_path / "cut", 2)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    before = finished_names(tmp_path / "cut")
    assert 2 <= len(before) < POINTS
    assert not (tmp_path / "cut" / TABLE).exists()

    with started(tmp_path / "cut") as process:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        assert errors == ""  # no progress bar in a pipe
    after = finished_names(tmp_path / "cut")
    assert after[: len(before)] == before
    assert sorted(after) == sorted(finished_names(tmp_path / "whole"))
    assert len(set(after)) == len(after) == POINTS
    assert (tmp_path / "cut" / TABLE).read_bytes() == (tmp_path / "whole" / TABLE).read_bytes()


def test_ctrl_c_ends_a_sweep_at_once_and_keeps_what_is_finished(tmp_path: Path) -> None:
    with started(tmp_path / "s") as process:
        wait_for_points(process, tmp_path / "s", 1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 1 <= len(finished_names(tmp_path / "s")) < POINTS
    assert errors == "interrupted; finished points are kept, and the same command goes on with the others\n"
    assert output == ""
    assert sorted(file.name for file in (tmp_path / "s").iterdir()) == [JOURNAL]
