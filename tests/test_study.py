"""Studies as Python calls: run folders, what is in them, and what becomes of one that is interrupted or used again."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import kvsim
from kvsim.core.messages import FinishRequest, RequestId
from kvsim.errors import KvsimError, RunFolderError, ScenarioError, TraceError
from kvsim.metrics import summarise
from kvsim.run_folder import (
    FIGURES,
    RECORDS,
    REPORT,
    REQUESTS,
    SCENARIO,
    SUMMARY,
    TIMELINE,
    WORKERS,
    RunFolder,
    load_run,
    prepare_folder,
)
from kvsim.scenario import Scenario, load_scenario
from kvsim.study import _watcher, link_rates, run_scenario, simulate, workload_of

SMALL = Path(__file__).parent / "golden" / "small.yaml"
MODES = ["pull", "push", "streamed", "message", "colocated"]
ALWAYS = [REQUESTS, SCENARIO, SUMMARY, WORKERS]


def small(*overrides: str, seed: int | None = None) -> Scenario:
    return load_scenario(SMALL, ("workload.requests=8", *overrides), seed)


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_scenario(small(), tmp_path_factory.mktemp("run"), record=True, report=False)


# --- what a run folder holds -------------------------------------------------------------------------------------


def test_requests_are_a_data_frame_with_one_row_a_request_and_variant(run: RunFolder) -> None:
    requests = run.requests
    assert isinstance(requests, pd.DataFrame)
    assert requests.groupby("variant", sort=False).size().to_dict() == dict.fromkeys(MODES, 8)
    assert requests["request"].tolist() == list(range(8)) * 5
    assert requests["transfer_start_ns"].dtype == pd.Int64Dtype()
    assert bool(requests.loc[requests["variant"] == "colocated", "transfer_start_ns"].isna().all())
    assert set(requests["outcome"]) == {"stop"}


def test_workers_are_a_data_frame_with_the_workers_of_every_variant(run: RunFolder) -> None:
    workers = run.workers
    assert isinstance(workers, pd.DataFrame)
    assert set(zip(workers["variant"], workers["worker"], strict=True)) == {
        (mode, worker) for mode in MODES for worker in ("prefill0", "decode0", "decode1")
    }
    assert bool(workers["busy"].between(0, 1).all())


def test_the_summary_on_disk_is_the_one_that_is_returned(run: RunFolder) -> None:
    assert load_run(run.path) == run
    assert load_run(str(run.path)).summary == json.loads((run.path / SUMMARY).read_text(encoding="utf-8"))
    assert {key: value for key, value in run.summary.items() if key != "variants"} == {
        "scenario": "small",
        "seed": 5,
        "kvsim_version": kvsim.__version__,
    }


def test_the_summary_agrees_with_the_table(run: RunFolder) -> None:
    for mode, of_variant in run.requests.groupby("variant"):
        summary = run.summary["variants"][mode]
        e2e_s = (of_variant["finished_ns"] - of_variant["arrival_ns"]) / 1e9
        assert summary["requests"] == {"arrived": 8, "finished": 8, "rejected": 0, "shed": 0, "failed": 0}
        assert summary["e2e_s"]["mean"] == pytest.approx(e2e_s.mean())
        assert summary["e2e_s"]["p50"] == pytest.approx(e2e_s.median())
        assert summary["transfers"]["bytes"] == of_variant["transfer_bytes"].sum()


def test_records_are_found_by_variant(run: RunFolder) -> None:
    assert {name: file.name for name, file in run.records.items()} == {mode: f"{mode}.jsonl.gz" for mode in MODES}
    assert all(kvsim.replay_file(file).identical for file in run.records.values())


def test_the_kept_scenario_is_complete_and_can_be_loaded(run: RunFolder, tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text(run.scenario, encoding="utf-8")
    again = load_scenario(copy)
    assert [variant.cluster for variant in again.variants] == [variant.cluster for variant in small().variants]
    assert "memory_utilization" in run.scenario  # a default that the file does not mention


def test_tables_can_be_read_without_pandas(run: RunFolder) -> None:
    assert pq.read_table(run.path / REQUESTS).num_rows == 40


def test_a_variant_in_memory_gives_what_the_folder_holds(run: RunFolder) -> None:
    scenario = small()
    variant = scenario.variants[1]
    workload = workload_of(scenario, variant)
    result = simulate(variant, workload)
    assert result.summary == run.summary["variants"]["push"]
    again = summarise(
        result.columns,
        variant.cluster,
        link_rates(variant),
        slo_ttft_ns=20_000_000,
        slo_tpot_ns=1_000_000,
        first_token="prefill",
    )
    assert {**again, "notes": []} == result.summary
    assert result.simulator_events > 5 * len(workload)


# --- common random numbers ---------------------------------------------------------------------------------------


def test_all_variants_see_the_same_requests(run: RunFolder) -> None:
    asked = ["arrival_ns", "prompt_tokens", "output_tokens"]
    first, *others = (of_variant[asked].to_numpy() for _, of_variant in run.requests.groupby("variant"))
    assert all((first == other).all() for other in others)


def test_the_seed_decides_the_requests() -> None:
    def arrivals(scenario: Scenario) -> list[int]:
        return list(workload_of(scenario, scenario.variants[0]).arrival_ns)

    assert arrivals(small()) == arrivals(small(seed=5)) != arrivals(small(seed=6))


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "no run folder: it holds no summary.json"),
        (lambda folder: folder.mkdir(), "no run folder: it holds no summary.json"),
        (lambda folder: folder.write_text(""), "cannot be read"),
        (lambda folder: (folder.mkdir(), (folder / SUMMARY).write_text("{")), "cannot be read"),
        (lambda folder: (folder.mkdir(), (folder / SUMMARY).write_bytes(b"\xff")), "cannot be read"),
        (lambda folder: (folder.mkdir(), (folder / SUMMARY).write_text("[]")), "no summary of a kvsim run"),
        (lambda folder: (folder.mkdir(), (folder / SUMMARY).write_text('{"variants": 3}')), "no summary of a kvsim"),
    ],
    ids=["missing", "empty", "file", "half", "not text", "list", "other"],
)
def test_what_is_no_run_folder_is_refused(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "run")
    with pytest.raises(RunFolderError, match=message) as caught:
        load_run(tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)


def traced(folder: Path, rows: str, *overrides: str) -> Scenario:
    """The small scenario with a trace of these rows instead of drawn requests."""
    (folder / "trace.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows, encoding="utf-8")
    drawn = [f"workload.{key}=null" for key in ("requests", "arrivals", "lengths")]
    return load_scenario(SMALL, (*drawn, f"workload.trace.path={folder / 'trace.csv'}", *overrides))


def test_a_request_that_no_pool_holds_is_refused_before_anything_runs(tmp_path: Path) -> None:
    scenario = traced(tmp_path, "0,10,5\n1,600,50\n2,700,5\n")
    with pytest.raises(ScenarioError) as caught:
        run_scenario(scenario, tmp_path / "run")
    (problem,) = caught.value.problems
    assert problem.key == "workload.trace.request_tokens_max"
    assert "found 2 of 3 requests too long, first request 1 of 600 + 50 tokens" in problem.message
    assert "at most 640" in problem.message  # 40 blocks of 16 tokens
    assert not (tmp_path / "run").exists()


def test_the_remedy_of_too_long_requests_works(tmp_path: Path) -> None:
    scenario = traced(tmp_path, "0,10,5\n1,600,50\n2,20,5\n", "workload.trace.request_tokens_max=640")
    run = run_scenario(scenario, tmp_path / "run", report=False)
    assert run.summary["variants"]["pull"]["requests"]["finished"] == 2
    assert any("request_tokens_max" in note for note in run.summary["variants"]["pull"]["notes"])


def test_a_scenario_that_cannot_run_leaves_the_results_of_an_earlier_one(tmp_path: Path) -> None:
    before = run_scenario(small(), tmp_path / "run", report=False)
    broken = traced(tmp_path, "0,ten,5\n")
    with pytest.raises(TraceError):
        run_scenario(broken, tmp_path / "run", report=False)
    assert load_run(tmp_path / "run").summary == before.summary


# --- report ------------------------------------------------------------------------------------------------------


def test_a_run_folder_has_a_report_and_figures_unless_told_otherwise(tmp_path: Path) -> None:
    scenario = small("variants=null")
    run = run_scenario(scenario, tmp_path / "run")
    assert names_in(run.path) == sorted([*ALWAYS, FIGURES, REPORT])
    figures = names_in(run.path / FIGURES)
    assert {Path(name).suffix for name in figures} == {".png", ".svg"}
    assert len(figures) >= 8
    html = (run.path / REPORT).read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    assert "base" in html
    again = run_scenario(scenario, tmp_path / "run", report=False, timeline=True)
    assert names_in(again.path) == sorted([*ALWAYS, TIMELINE])


def test_the_timeline_is_json_of_every_variant_and_keeps_no_record(tmp_path: Path) -> None:
    run = run_scenario(small(), tmp_path / "run", timeline=True, report=False)
    trace = json.loads((run.path / TIMELINE).read_text(encoding="utf-8"))
    events = trace["traceEvents"] if isinstance(trace, dict) else trace
    assert len(events) > 100
    assert names_in(run.path) == sorted([*ALWAYS, TIMELINE])
    assert run.records == {}


# --- folders used again ------------------------------------------------------------------------------------------


def test_a_folder_used_again_holds_nothing_of_the_run_before(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    first = run_scenario(small(), folder, record=True, timeline=True, report=False)
    for stale in (folder / REPORT, folder / FIGURES / "old.png"):
        stale.parent.mkdir(exist_ok=True)
        stale.write_text("old")
    (folder / "notes.txt").write_text("mine")
    second = run_scenario(small("variants.pull.workload.output_tokens_max=3"), folder, report=False)
    assert first.records == second.records == {}
    assert not (folder / RECORDS).exists()
    assert not (folder / FIGURES).exists()
    assert {name for name in names_in(folder) if (folder / name).is_file()} == {*ALWAYS, "notes.txt"}
    assert second.summary != first.summary


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / SCENARIO).write_text("mine too")
    with pytest.raises(RunFolderError, match=r"is not empty and holds no kvsim run; give another folder with --out"):
        run_scenario(small(), tmp_path, report=False)
    assert names_in(tmp_path) == [SCENARIO, "thesis.txt"]
    with pytest.raises(RunFolderError, match="is a file; give a folder with --out"):
        prepare_folder(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_every_error_of_a_user_is_a_kvsim_error() -> None:
    assert issubclass(RunFolderError, KvsimError)
    assert issubclass(ScenarioError, KvsimError)
    assert issubclass(TraceError, KvsimError)


# --- progress and interruption -----------------------------------------------------------------------------------


def test_progress_counts_every_request_of_every_variant_once(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    run_scenario(small(), tmp_path / "run", report=False, advance=lambda *progress: told.append(progress))
    finished = [done for done, _, _ in told]
    assert finished == sorted(finished)
    assert finished[0] == 0
    assert finished[-1] == 40
    assert {total for _, total, _ in told} == {40}
    assert list(dict.fromkeys(name for _, _, name in told)) == MODES


def test_a_long_run_is_told_in_thousandths() -> None:
    told: list[int] = []
    (watch,) = _watcher(lambda finished, _total, _name: told.append(finished), "pull", 0, 10_500)
    for request in range(10_500):
        watch(0, (), [FinishRequest(RequestId(request), "stop")])
    assert told[:3] == [0, 11, 22]
    assert len(told) == 956
    assert told[-1] == 10_500


def interrupt_in(variant: str) -> Callable[[int, int, str], None]:
    """A watcher that stands for a user who presses Ctrl-C while this variant runs."""

    def advance(finished: int, _total: int, name: str) -> None:
        if name == variant and finished % 8 == 4:
            raise KeyboardInterrupt

    return advance


def test_an_interrupted_run_keeps_the_variants_that_are_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_scenario(small(), tmp_path / "run", record=True, advance=interrupt_in("streamed"))
    run = load_run(tmp_path / "run")
    assert run.summary["interrupted"] is True
    assert list(run.summary["variants"]) == ["pull", "push"]
    assert set(run.requests["variant"]) == {"pull", "push"}
    assert list(run.records) == ["pull", "push"]
    assert all(kvsim.replay_file(file).identical for file in run.records.values())
    complete = run_scenario(small(), tmp_path / "run", report=False)
    assert "interrupted" not in complete.summary


@pytest.mark.parametrize("earlier", [False, True], ids=["new folder", "folder of an earlier run"])
def test_a_folder_interrupted_before_its_first_variant_was_finished_can_be_used_again(
    earlier: bool, tmp_path: Path
) -> None:
    if earlier:
        run_scenario(small(), tmp_path / "run", record=True, report=False)
    with pytest.raises(KeyboardInterrupt):
        run_scenario(small(), tmp_path / "run", record=True, report=False, advance=interrupt_in("pull"))
    assert run_scenario(small(), tmp_path / "run", report=False).path == tmp_path / "run"
