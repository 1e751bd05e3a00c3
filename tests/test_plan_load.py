"""Loads at any rate are the requests that ``kvsim run`` would make of the same scenario."""

from pathlib import Path

import numpy as np
import pytest
from plan_worlds import AZURE_LENGTHS, planned

from kvsim.plan.errors import PlanError
from kvsim.plan.ground import ground_of
from kvsim.plan.load import load_of, rounded_rate
from kvsim.workload import Workload, generate

ROWS = ((0.0, 100, 10), (1.0, 200, 20), (1.5, 300, 30), (4.0, 400, 40), (9.0, 50, 5))


def trace(path: Path, rows: tuple[tuple[float, int, int], ...] = ROWS) -> dict[str, object]:
    lines = ["arrived_at,num_prefill_tokens,num_decode_tokens", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return {"trace": {"path": str(path), "format": "csv", "rate_scale": 3.0}}


def assert_equal(one: Workload, other: Workload) -> None:
    for column in ("arrival_ns", "prompt_tokens", "output_tokens"):
        assert np.array_equal(getattr(one, column), getattr(other, column)), column


def test_drawn_requests_keep_their_lengths_and_stretch_their_arrivals() -> None:
    load = load_of(planned().variants[0].workload, 1, 50)
    slow, fast = load.at(2.0), load.at(8.0)
    assert np.array_equal(slow.prompt_tokens, fast.prompt_tokens)
    assert np.abs(slow.arrival_ns - 4 * fast.arrival_ns).max() <= 4
    assert_equal(fast, generate(load.spec_at(8.0), 1))
    assert load.natural_rate_per_s == 1.0


def test_a_trace_is_scaled_in_memory_as_from_its_file(tmp_path: Path) -> None:
    scenario = planned(workload=trace(tmp_path / "trace.csv"))
    load = load_of(scenario.variants[0].workload, 1, 4)
    assert load.natural_rate_per_s == 3 / 4.0  # three gaps in four seconds, whatever rate_scale says
    assert_equal(load.at(2.0), generate(load.spec_at(2.0), 1))
    assert load.at(1.5).arrival_ns[-1] == 2_000_000_000
    assert not load.varies_with_seed
    assert load.longest_tokens == 440


def test_the_written_workload_gives_the_same_requests(tmp_path: Path) -> None:
    for workload in (None, trace(tmp_path / "trace.csv")):
        scenario = planned() if workload is None else planned(workload=workload)
        ground = ground_of(scenario)
        load = load_of(ground.variant.workload, scenario.seed, 5)
        changed = planned(workload=load.document_at(ground.document["workload"], 2.345))
        assert_equal(generate(changed.variants[0].workload, 1), load.at(2.345))


def test_a_trace_at_one_instant_cannot_be_scaled(tmp_path: Path) -> None:
    scenario = planned(workload=trace(tmp_path / "trace.csv", ((0.0, 10, 10), (0.0, 20, 20))))
    with pytest.raises(PlanError, match="found 2 requests at one instant, expected arrivals to scale"):
        load_of(scenario.variants[0].workload, 1, 10)


def test_the_longest_request_of_a_distribution_is_what_it_may_draw() -> None:
    workload = {"requests": 10, "arrivals": {"kind": "gamma", "rate": "2 req/s", "cv": 3}, "lengths": AZURE_LENGTHS}
    load = load_of(planned(workload=workload).variants[0].workload, 1, 10)
    assert load.longest_tokens == 14050 + 1000
    assert load.arrival_cv2 == 9.0
    limited = load_of(planned(workload={**workload, "output_tokens_max": 64}).variants[0].workload, 1, 10)
    assert limited.longest_tokens == 14050 + 64
    assert limited.output_tokens.max() <= 64


def test_another_seed_draws_other_requests_at_the_same_rate() -> None:
    load = load_of(planned().variants[0].workload, 1, 50)
    other = load.with_seed(2)
    assert other.seed == 2
    assert not np.array_equal(load.natural.prompt_tokens, other.natural.prompt_tokens)


def test_rates_are_rounded_to_four_digits() -> None:
    assert [rounded_rate(rate) for rate in (12.34567, 0.000123456, 98765.0)] == [12.35, 0.0001235, 98760.0]
