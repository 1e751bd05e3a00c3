"""Every split of a few GPUs: made-up searches for the arithmetic, small simulations for the whole."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from plan_worlds import found_at, planned

import kvsim
from kvsim.errors import KvsimError
from kvsim.plan import RatioPlan
from kvsim.plan.analytic import AnalyticModel
from kvsim.plan.ground import ground_of
from kvsim.plan.layouts import Layout, Side
from kvsim.plan.load import load_of
from kvsim.plan.probe import Probe
from kvsim.plan.ratio_result import TOLERANCE, goodput_between
from kvsim.plan.search import Found

GPUS, REQUESTS = 4, 120
BLANK = found_at(1.0).probes[0]


def split_of(prefill: int, decode: int) -> Layout:
    return Layout(Side(prefill, 1), Side(decode, 1), "pull")


def run_at(rate: float, attainment: float, binding: str | None = None) -> Probe:
    return replace(BLANK, rate_per_s=rate, attainment=attainment, binding=binding, gpu_busy={"prefill": 1, "decode": 1})


def made_up(goodputs: dict[int, list[float]]) -> RatioPlan:
    """Goodputs by prefill workers of four, one a seed."""
    expected = {split_of(workers, 4 - workers): 1.0 for workers in (1, 2, 3)}
    found = {
        (split_of(workers, 4 - workers), seed): Found(0.9, (run_at(goodput, 0.9), run_at(2 * goodput, 0.5, "network")))
        for workers, of_seeds in goodputs.items()
        for seed, goodput in enumerate(of_seeds, 1)
    }
    return RatioPlan("made-up", GPUS, REQUESTS, 0.9, expected, found, ())


@pytest.fixture(scope="module")
def plan() -> RatioPlan:
    return kvsim.plan_ratio(planned(), GPUS, seeds=2, requests=REQUESTS, jobs=1)


def test_the_goodput_lies_where_the_share_that_meets_the_limits_falls_through_the_target() -> None:
    """95 % at 4 req/s and 85 % at 16: 90 % is half-way on the logarithmic scale, at 8."""
    assert goodput_between(Found(0.9, (run_at(4, 0.95), run_at(16, 0.85)))) == pytest.approx(8)
    assert goodput_between(Found(0.9, (run_at(4, 0.9), run_at(16, 0.5)))) == pytest.approx(4)
    assert goodput_between(Found(0.9, (run_at(4, 0.9),))) == 4
    assert goodput_between(Found(0.9, (run_at(4, 0.5),))) == 0


def test_seeds_give_a_mean_with_its_interval_and_a_count_of_wins() -> None:
    """Of 2 and 4: mean 3, s = sqrt(2), and t = 12.706 with one degree of freedom: 3 +- 12.706 * sqrt(2) / sqrt(2)."""
    table = made_up({1: [2, 4], 3: [3, 3]}).splits.set_index("prefill_workers")
    first = table.loc[1]
    assert first["goodput_req_per_s"] == pytest.approx(3)
    assert (first["goodput_low"], first["goodput_high"]) == pytest.approx((3 - 12.706, 3 + 12.706), abs=1e-3)
    assert list(table["seeds_best"]) == [1, 0, 1]
    assert list(table["seeds"]) == [2, 0, 2]
    assert list(table["binding"].dropna()) == ["network", "network"]
    assert table[["goodput_req_per_s", "binding"]].isna().to_numpy().tolist() == [[False] * 2, [True] * 2, [False] * 2]


def test_a_split_that_binds_differently_with_each_seed_is_told_by_most_of_them() -> None:
    bindings = ("decode KV memory", "network", "network")
    found = {
        (split_of(1, 1), seed): Found(0.9, (run_at(1, 0.9), run_at(2, 0.5, binding)))
        for seed, binding in enumerate(bindings, 1)
    }
    (row,) = RatioPlan("made-up", 2, REQUESTS, 0.9, {split_of(1, 1): 1.0}, found, ()).split_rows()
    assert row["binding"] == "network"


def test_every_split_is_there_with_what_rate_matching_expects(plan: RatioPlan) -> None:
    splits = plan.splits
    assert list(splits["prefill_workers"]) == [1, 2, 3]
    assert list(splits["decode_workers"]) == [3, 2, 1]
    assert set(splits["mode"]) == {"pull"}
    ground = ground_of(planned())
    model = AnalyticModel(ground, load_of(ground.variant.workload, 1, REQUESTS))
    assert list(splits["expected_req_per_s"]) == [model.goodput_per_s(split_of(p, 4 - p), 0.9) for p in (1, 2, 3)]
    assert (splits["goodput_low"] < splits["goodput_req_per_s"]).all()
    assert splits["seeds_best"].sum() == 2


def test_a_search_stands_on_two_runs_around_its_goodput(plan: RatioPlan) -> None:
    searches, runs = plan.searches, plan.runs.set_index("run")
    assert [*zip(searches["prefill_workers"], searches["seed"], strict=True)] == [
        (prefill, seed) for prefill in (1, 2, 3) for seed in (1, 2)
    ]
    met, missed = runs.loc[searches["run"]], runs.loc[searches["run_missed"]]
    assert (met["attainment"] >= 0.9).all()
    assert (missed["attainment"] < 0.9).all()
    assert (met["requests"] == REQUESTS).all()
    assert list(met["rate_per_s"]) == list(searches["met_req_per_s"])
    assert list(missed["binding"]) == list(searches["binding"])
    assert searches["goodput_req_per_s"].between(searches["met_req_per_s"], searches["missed_req_per_s"]).all()
    assert (searches["missed_req_per_s"] <= (1 + TOLERANCE) * searches["met_req_per_s"] * 1.001).all()


def test_the_number_of_processes_changes_nothing() -> None:
    alone, together = (
        kvsim.plan_ratio(planned(), 2, mode="push", seeds=2, requests=40, jobs=jobs).searches for jobs in (1, 2)
    )
    pd.testing.assert_frame_equal(alone, together)
    assert set(alone["mode"]) == {"push"}


def test_without_simulation_there_is_what_rate_matching_expects() -> None:
    plan = kvsim.plan_ratio(planned(), GPUS, prefill_workers=[])
    assert len(plan.splits) == 3
    assert plan.splits["goodput_req_per_s"].isna().all()
    assert plan.searches.empty
    assert plan.runs.empty


def test_progress_counts_searches_of_the_chosen_splits() -> None:
    told: list[tuple[int, int, str]] = []
    plan = kvsim.plan_ratio(
        planned(), 3, prefill_workers=[2], seeds=2, requests=40, jobs=1, tell=lambda *step: told.append(step)
    )
    assert told == [(1, 2, "searching"), (2, 2, "searching")]
    assert set(plan.searches["prefill_workers"]) == {2}


def test_a_trace_has_one_form_whatever_the_seeds(tmp_path: Path) -> None:
    rows = [f"{index / 4},{500 + 300 * (index % 3)},{50 + index % 7}" for index in range(80)]
    (tmp_path / "trace.csv").write_text("\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *rows]) + "\n")
    workload = {"trace": {"path": str(tmp_path / "trace.csv"), "format": "csv"}}
    assert list(kvsim.plan_ratio(planned(workload=workload), 2, seeds=3, jobs=1).searches["seed"]) == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds: found 0, expected at least 1"),
        ({"prefill_workers": [2, 4]}, "prefill_workers: found 4, expected one of: 1, 2, 3"),
        ({"gpus": 1}, "found 1 GPU, expected enough for a prefill worker of 1 and a decode worker of 1"),
    ],
)
def test_what_cannot_be_planned_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(KvsimError, match=message):
        kvsim.plan_ratio(planned(), **{"gpus": GPUS, **options})  # type: ignore[arg-type]
