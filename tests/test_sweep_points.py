"""The points of a grid: what they run, when they count as the same, and what is found wrong before anything runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvsim.errors import ScenarioError
from kvsim.scenario import Scenario, load_scenario
from kvsim.study import workload_of
from kvsim.sweep import points as points_module
from kvsim.sweep.grid import read_grid
from kvsim.sweep.points import Point, resolve_points

SMALL = Path(__file__).parent / "golden" / "small.yaml"
ONE = ("workload.requests=20", "variants=null")


def resolve(*vary: str, seeds: int = 1, scenario: Scenario | None = None) -> tuple[Point, ...]:
    base = load_scenario(SMALL, ONE) if scenario is None else scenario
    return resolve_points(base, read_grid(base, vary, seeds))


def problems_of(*vary: str, scenario: Scenario | None = None) -> list[str]:
    with pytest.raises(ScenarioError) as error:
        resolve(*vary, scenario=scenario)
    return [str(problem).replace(str(SMALL), "FILE") for problem in error.value.problems]


def test_points_are_the_combinations_each_with_every_seed() -> None:
    points = resolve("workers.decode.count=1,2", "slo.ttft=10 ms,none", seeds=2)
    assert [(point.cell, point.name) for point in points[:3]] == [
        (0, "workers.decode.count=1, slo.ttft=10 ms, seed 5"),
        (0, "workers.decode.count=1, slo.ttft=10 ms, seed 6"),
        (1, "workers.decode.count=1, slo.ttft=none, seed 5"),
    ]
    assert len(points) == 8
    assert [len(point.scenario.variants[0].cluster.workers) for point in points] == [2] * 4 + [3] * 4
    assert [point.scenario.variants[0].slo.ttft_ns for point in points[:4]] == [10**7, 10**7, None, None]
    assert [point.scenario.seed for point in points] == [5, 6] * 4


def test_all_points_of_a_seed_get_the_same_requests_at_arrivals_that_only_stretch() -> None:
    slow, other, fast, _ = (
        workload_of(point.scenario, point.scenario.variants[0])
        for point in resolve("workload.arrivals.rate=300 req/s,600 req/s", seeds=2)
    )
    assert slow.prompt_tokens.tolist() == fast.prompt_tokens.tolist()
    assert slow.output_tokens.tolist() == fast.output_tokens.tolist()
    np.testing.assert_allclose(slow.arrival_ns, 2 * fast.arrival_ns, atol=2)
    assert slow.prompt_tokens.tolist() != other.prompt_tokens.tolist()


def test_a_change_is_laid_over_the_options_that_the_scenario_was_loaded_with() -> None:
    scenario = load_scenario(SMALL, [*ONE, "workers.decode.count=3"], seed=9)
    points = resolve("transfer.mode=push,pull", scenario=scenario)
    assert [len(point.scenario.variants[0].cluster.workers) for point in points] == [4, 4]
    assert points[0].scenario.seed == 9


def test_memory_is_laid_out_anew_for_every_point() -> None:
    scenario = load_scenario(SMALL, [*ONE, "workers.decode.kv_blocks=null", "workers.decode.gpu.memory=8 GiB"])
    blocks = [
        point.scenario.variants[0].cluster.workers[-1].kv_blocks
        for point in resolve("cache.memory_utilization=0.5,0.9", scenario=scenario)
    ]
    assert blocks[0] < blocks[1]


def test_a_digest_names_what_the_results_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    vary = ("slo.ttft=10 ms,20 ms",)
    digests = [point.digest for point in resolve(*vary, seeds=2)]
    assert len(set(digests)) == 4
    assert [point.digest for point in resolve(*vary, seeds=2)] == digests
    renamed = load_scenario(SMALL, [*ONE, "name=other", "description=words"])
    assert [point.digest for point in resolve(*vary, seeds=2, scenario=renamed)] == digests
    changed = load_scenario(SMALL, [*ONE, "workload.requests=21"])
    assert not set(digests) & {point.digest for point in resolve(*vary, seeds=2, scenario=changed)}
    monkeypatch.setattr(points_module, "VERSION", "another")
    assert not set(digests) & {point.digest for point in resolve(*vary, seeds=2)}


def test_a_digest_changes_with_the_contents_of_the_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    options = ["workload=null", f"workload.trace.path={trace}", "variants=null"]
    digests = []
    for rows in ("0.0,100,10\n0.1,100,10\n", "0.0,100,10\n0.1,100,11\n"):
        trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows)
        digests.append([point.digest for point in resolve("slo.ttft=1 s,2 s", scenario=load_scenario(SMALL, options))])
    assert not set(digests[0]) & set(digests[1])


def test_a_key_that_does_not_exist_is_answered_with_the_nearest_one_once() -> None:
    assert problems_of("workload.arivals.rate=1 req/s,2 req/s,3 req/s") == [
        "--vary workload.arivals.rate=1 req/s,2 req/s,3 req/s: workload.arivals: unknown key (did you mean "
        "'arrivals'?), expected one of: requests, arrivals, lengths, trace, phases, output_tokens_max, labels"
    ]


def test_every_bad_value_is_told_at_the_knob() -> None:
    assert problems_of("cache.block_tokens=0,16,x") == [
        "--vary cache.block_tokens=0,16,x: cache.block_tokens: found 0, expected at least 1",
        "--vary cache.block_tokens=0,16,x: cache.block_tokens: found 'x', expected a whole number",
    ]


def test_a_problem_of_a_combination_names_the_first_one_and_counts_the_others() -> None:
    (problem,) = problems_of("workers.decode.count=0,1", "slo.ttft=1 s,2 s,3 s")
    assert problem.startswith("FILE:17:1: workers: found no decode worker, expected a pool with role decode")
    assert problem.endswith(" (with workers.decode.count=0, slo.ttft=1 s and 2 other combinations)")


def test_requests_that_do_not_fit_are_found_before_anything_runs(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,100,10\n0.1,500,10\n")
    scenario = load_scenario(SMALL, ["workload=null", f"workload.trace.path={trace}", "variants=null"])
    (problem,) = problems_of("workers.decode.kv_blocks=20,40", scenario=scenario)
    assert "found one request too long, first request 1 of 500 + 10 tokens" in problem
    assert problem.endswith(" (with workers.decode.kv_blocks=20)")


def test_a_knob_that_every_variant_sets_itself_is_refused() -> None:
    (problem,) = problems_of("transfer.mode=push,pull", scenario=load_scenario(SMALL))
    assert problem == (
        "--vary transfer.mode=push,pull: transfer.mode: 'push' and 'pull' give the same scenario, expected values of "
        "which each makes a difference (do all variants set this key themselves?)"
    )
    (problem,) = problems_of("slo.ttft=1 s,2 s", "cache.block_tokens=8,16,8")
    assert "cache.block_tokens: '8' and '8' give the same scenario" in problem
    (problem,) = problems_of("slo.ttft=1 s,1000 ms")
    assert "'1 s' and '1000 ms' give the same scenario" in problem


def test_progress_is_told_combination_by_combination() -> None:
    base = load_scenario(SMALL, ONE)
    told: list[tuple[int, int]] = []
    resolve_points(base, read_grid(base, ["slo.ttft=1 s,2 s"], 3), lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_a_scenario_does_not_remember_its_source_when_compared() -> None:
    one, two = load_scenario(SMALL), load_scenario(SMALL, ["sweep.seeds=3"])
    assert one == two
    assert replace(one, seed=6) != one
