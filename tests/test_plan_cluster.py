"""Whole plans of small clusters: against brute force, on disk, and where no plan can be made."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from plan_worlds import planned
from typer.testing import CliRunner

from kvsim.cli import app
from kvsim.errors import KvsimError, RunFolderError
from kvsim.plan import Plan, plan_cluster, write_plan
from kvsim.plan.document import plan_document
from kvsim.plan.ground import ground_of
from kvsim.plan.layouts import disaggregated_layouts
from kvsim.plan.load import load_of
from kvsim.plan.search import TOLERANCE
from kvsim.plan.workers import SearchTask, run_search
from kvsim.scenario import load_scenario
from kvsim.study import run_scenario

GPUS, REQUESTS = 5, 200
COST = {"currency": "EUR", "gpu_hour": 2.5, "nic": 1500, "integration": 20_000, "utilisation_hours_per_year": 6000}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_cluster(planned(cost=COST), GPUS, tensor_parallel=[1], requests=REQUESTS, jobs=1)


def test_brute_force_over_all_splits_confirms_the_plan(plan: Plan) -> None:
    """Lengths of the Azure trace. Every split of five GPUs, bisected from the same guess without any ranking."""
    ground = ground_of(planned())
    load = load_of(ground.variant.workload, 1, REQUESTS)
    goodput = {}
    for layout in disaggregated_layouts(GPUS, {"prefill": [1], "decode": [1]}, "pull"):
        variant = ground.scenario_of(layout).variants[0]
        goodput[layout] = run_search(SearchTask(variant, load, 10.0, 0.9)).goodput_per_s
    best = max(goodput, key=lambda layout: goodput[layout])
    assert plan.best_disaggregated is not None
    assert plan.best_disaggregated.with_mode("pull") == best
    assert plan.found[best].goodput_per_s == pytest.approx(goodput[best], rel=TOLERANCE)
    second = sorted(goodput.values())[-2]
    assert second < goodput[best] / (1 + 2 * TOLERANCE)  # the answer is no accident of the tolerance


def test_the_table_holds_what_the_issue_asks_for(plan: Plan) -> None:
    table = plan.configurations
    assert list(table["goodput_req_per_s"]) == sorted(table["goodput_req_per_s"], reverse=True)
    best = table.iloc[0]
    assert best["layout"] == plan.winner.name
    assert best["goodput_per_gpu"] == pytest.approx(best["goodput_req_per_s"] / best["gpus"])
    assert best["attainment"] >= 0.9
    assert best["pareto"]
    assert {"colocated", "pull", "push", "streamed"} <= set(table["mode"])
    assert table["binding"].notna().all()
    tokens_per_hour = best["goodput_req_per_s"] * 3600 * plan.service(plan.winner).output_tokens_per_request
    assert best["cost_per_million_output_tokens"] == pytest.approx(best["cost_per_hour"] / tokens_per_hour * 1e6)
    assert set(table["run"]) <= set(plan.runs["run"])


def test_the_finalists_are_checked_with_other_seeds_and_sharper_bounds(plan: Plan) -> None:
    for layout in (plan.best_disaggregated, plan.best_colocated):
        assert layout is not None
        assert [probe.seed for probe in plan.further[layout]] == [2, 3]
        found = plan.found[layout]
        assert 0 < found.low_per_s <= found.goodput_per_s <= found.high_per_s


def test_savings_rest_on_the_two_finalists(plan: Plan) -> None:
    saved = plan.savings
    assert saved is not None
    assert plan.best_disaggregated is not None
    assert saved.load_per_s == plan.found[plan.best_disaggregated].goodput_per_s
    assert saved.investment == 20_000 + 5 * 1500
    assert set(plan_document(plan)["return_on_investment"]["runs"]) <= set(plan.runs["run"])


def test_the_folder_holds_the_plan_and_a_winner_that_runs_as_it_is(plan: Plan, tmp_path: Path) -> None:
    folder = write_plan(plan, tmp_path / "plan")
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*.*")}
    assert {"plan.json", "plan.parquet", "runs.parquet", "scenario.yaml", "report.html"} <= names
    assert {f"layouts/{layout.name}.yaml" for layout in plan.found} <= names
    assert {"figures/pareto.svg", "figures/goodput.png"} <= names
    document = json.loads((folder / "plan.json").read_text())
    table = pd.read_parquet(folder / "plan.parquet")
    assert document["winner"] == table["layout"][0]
    run = run_scenario(load_scenario(folder / "scenario.yaml"), tmp_path / "run", report=False)
    best = plan.found[plan.winner].best
    assert best is not None
    assert run.summary["variants"]["base"]["slo_attainment"] == best.attainment
    assert run.summary["variants"]["base"]["e2e_s"]["mean"] == best.e2e_mean_s


def test_a_second_plan_takes_the_place_of_the_first(plan: Plan, tmp_path: Path) -> None:
    write_plan(plan, tmp_path / "plan")
    only = replace(plan, found={plan.winner: plan.found[plan.winner]}, further={})
    write_plan(only, tmp_path / "plan", report=False)
    assert [file.stem for file in (tmp_path / "plan" / "layouts").iterdir()] == [plan.winner.name]
    assert not (tmp_path / "plan" / "report.html").exists()


def test_a_folder_with_something_else_is_left_alone(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty and holds no kvsim plan"):
        write_plan(plan, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_two_processes_plan_as_one_does() -> None:
    scenario = planned()
    plans = [plan_cluster(scenario, 2, tensor_parallel=[1], requests=60, jobs=jobs) for jobs in (1, 2)]
    assert plan_document(plans[0]) == plan_document(plans[1])


def test_limits_that_nothing_meets_are_refused_with_the_nearest_layout() -> None:
    with pytest.raises(KvsimError) as refused:
        plan_cluster(planned(slo={"ttft": "1 us", "tpot": "1 ms"}), 2, tensor_parallel=[1], requests=30, jobs=1)
    message = str(refused.value)
    assert "slo: no layout of up to 2 GPUs (h100-sxm) lets 90% of the requests meet the limits" in message
    assert "The nearest, " in message
    assert "TTFT p90 " in message
    assert "(limit 1 us)" in message
    assert "\n" not in message


def test_a_budget_for_one_worker_is_planned_colocated() -> None:
    single = plan_cluster(planned(), 1, requests=60, jobs=1)
    assert single.winner.colocated
    assert single.best_disaggregated is None
    assert single.savings is None
    assert any("only colocated layouts fit (GPUs: 1)" in note for note in single.notes)


def test_a_trace_has_no_other_seeds(tmp_path: Path) -> None:
    rows = [f"{index / 4},{500 + 300 * (index % 3)},{50 + index % 7}" for index in range(80)]
    (tmp_path / "trace.csv").write_text("\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *rows]) + "\n")
    workload = {"trace": {"path": str(tmp_path / "trace.csv"), "format": "csv"}}
    replayed = plan_cluster(planned(workload=workload), 2, tensor_parallel=[1], jobs=1)
    assert replayed.further == {}
    assert "a trace has no other seeds to check with" in " ".join(plan_document(replayed)["findings"])
    scenario = replayed.scenario_of(replayed.winner)
    assert scenario.document["workload"]["trace"]["rate_scale"] == pytest.approx(
        replayed.found[replayed.winner].goodput_per_s / 4, rel=1e-3
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus", "4", "--set", "slo=null"], "slo: found neither ttft nor tpot"),
        (["--gpus", "1", "--set", "model=llama-3.1-70b", "--set", "workers.decode.tensor_parallel=4"], "expected"),
        (["--what", "network", "--bandwidth", "25"], "--bandwidth: found '25' without a unit"),
        (["--what", "network", "--nics-lost", "1"], "--nics-lost: found 1, expected fewer than a worker has (1)"),
        (["--variant", "x"], "found no variant 'x'"),
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scenario = Path(__file__).parent.parent / "scenarios" / "push_vs_pull.yaml"
    result = CliRunner().invoke(app, ["plan", str(scenario), *options])
    assert isinstance(result.exception, KvsimError)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []
