"""Workloads as a whole: seeds, independence of purposes, limits and notes."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from kvsim import workload
from kvsim.errors import TraceError
from kvsim.workload import (
    EmpiricalPairs,
    FixedLength,
    GeneratedWorkload,
    LengthPairs,
    LognormalLength,
    PoissonArrivals,
    TraceWorkload,
    UniformLength,
    Workload,
    generate,
)

PAIRS = LengthPairs(LognormalLength(1000.0, 1.0, 1, 100_000), UniformLength(10, 500))
DRAWN = GeneratedWorkload(500, PoissonArrivals(2.0), PAIRS, None)
ROWS = ((0.0, 100, 10), (1.0, 5000, 10), (2.0, 300, 900), (3.0, 400, 40), (4.0, 6000, 20))


def columns(made: Workload) -> tuple[list[int], list[int], list[int]]:
    return made.arrival_ns.tolist(), made.prompt_tokens.tolist(), made.output_tokens.tolist()


@pytest.fixture
def trace(tmp_path: Path) -> TraceWorkload:
    path = tmp_path / "trace.csv"
    lines = [f"{arrived_at},{prompt},{output}\n" for arrived_at, prompt, output in ROWS]
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(lines))
    return TraceWorkload(str(path), "auto", 1.0, None, None, None, None)


def test_the_public_names_are_exactly_these() -> None:
    assert workload.__all__ == sorted(workload.__all__)
    assert {"Workload", "WorkloadSpec", "generate", "TraceWorkload", "GeneratedWorkload"} <= set(workload.__all__)


def test_the_same_seed_gives_the_same_requests_and_another_seed_others() -> None:
    assert columns(generate(DRAWN, 1)) == columns(generate(DRAWN, 1))
    first, second = generate(DRAWN, 1), generate(DRAWN, 2)
    assert not np.array_equal(first.arrival_ns, second.arrival_ns)
    assert not np.array_equal(first.prompt_tokens, second.prompt_tokens)


def test_a_seed_keeps_its_meaning_when_the_code_changes() -> None:
    made = generate(replace(DRAWN, requests=3), 0)
    assert columns(made) == ([1646763895, 2028329264, 2654512826], [1382, 144, 38], [421, 51, 313])


def test_other_lengths_do_not_move_the_arrivals_nor_the_other_lengths() -> None:
    other = replace(DRAWN, lengths=LengthPairs(FixedLength(7), PAIRS.output_tokens))
    first, second = generate(DRAWN, 1), generate(other, 1)
    assert np.array_equal(first.arrival_ns, second.arrival_ns)
    assert np.array_equal(first.output_tokens, second.output_tokens)
    assert second.prompt_tokens.tolist() == [7] * 500


def test_another_rate_stretches_the_same_arrivals_and_leaves_the_lengths() -> None:
    first, second = generate(DRAWN, 1), generate(replace(DRAWN, arrivals=PoissonArrivals(1.0)), 1)
    assert np.abs(second.arrival_ns - 2 * first.arrival_ns).max() <= 1
    assert np.array_equal(first.prompt_tokens, second.prompt_tokens)


def test_prompt_and_output_lengths_are_drawn_independently() -> None:
    same = UniformLength(1, 1000)
    made = generate(replace(DRAWN, requests=5000, lengths=LengthPairs(same, same)), 3)
    correlation = np.corrcoef(made.prompt_tokens, made.output_tokens)[0, 1]
    assert abs(correlation) < 4 / np.sqrt(5000)


def test_empirical_pairs_stay_together_and_follow_the_file(trace: TraceWorkload) -> None:
    made = generate(GeneratedWorkload(5000, PoissonArrivals(2.0), EmpiricalPairs(trace.path), None), 1)
    drawn = list(zip(made.prompt_tokens.tolist(), made.output_tokens.tolist(), strict=True))
    for _, prompt, output in ROWS:
        # each of the 5 rows is drawn binomial(5000, 1/5) times: standard deviation 28.3
        assert drawn.count((prompt, output)) == pytest.approx(1000, abs=4 * 28.3)
    assert set(drawn) == {(prompt, output) for _, prompt, output in ROWS}


def test_clipped_lengths_and_outputs_beyond_the_limit_are_noted() -> None:
    lengths = LengthPairs(LognormalLength(1000.0, 1.0, 1, 1000), FixedLength(60))
    made = generate(GeneratedWorkload(100, PoissonArrivals(2.0), lengths, 50), 1)
    assert made.output_tokens_max == 50
    assert made.output_tokens.tolist() == [60] * 100  # the truth is not clipped: the scheduler ends the request
    assert "prompt_tokens: " in made.notes[0]
    assert made.notes[1] == "100 of 100 requests would go on beyond output_tokens_max = 50"


def test_a_trace_is_replayed_as_it_is_whatever_the_seed(trace: TraceWorkload) -> None:
    made = generate(trace, 1)
    assert columns(made) == columns(generate(trace, 2))
    assert made.arrival_ns.tolist() == [second * 10**9 for second in range(5)]
    assert made.prompt_tokens.tolist() == [100, 5000, 300, 400, 6000]
    assert len(made) == 5
    assert made.notes == ()


def test_rate_scale_two_is_twice_as_fast(trace: TraceWorkload) -> None:
    arrival_ns = generate(replace(trace, rate_scale=2.0), 0).arrival_ns
    assert arrival_ns.tolist() == [0, 500_000_000, 1_000_000_000, 1_500_000_000, 2_000_000_000]


def test_rows_beyond_a_limit_are_dropped_with_counts_and_the_rest_keeps_its_instants(trace: TraceWorkload) -> None:
    made = generate(replace(trace, prompt_tokens_max=5500, request_tokens_max=1000), 0)
    assert made.prompt_tokens.tolist() == [100, 400]
    assert made.arrival_ns.tolist() == [0, 3 * 10**9]
    assert made.notes == (
        "1 of 5 rows exceed prompt_tokens_max = 5,500 and were dropped",
        "2 of 5 rows exceed request_tokens_max = 1,000 and were dropped",
    )


def test_an_output_counts_towards_the_request_limit_only_up_to_its_own_limit(trace: TraceWorkload) -> None:
    made = generate(replace(trace, request_tokens_max=400, output_tokens_max=100), 0)
    assert made.prompt_tokens.tolist() == [100, 300]  # 300 + min(900, 100) fits, 400 + 40 does not
    assert made.output_tokens.tolist() == [10, 900]
    assert "1 of 2 requests would go on beyond output_tokens_max = 100" in made.notes


def test_requests_max_counts_requests_that_are_within_the_limits(trace: TraceWorkload) -> None:
    made = generate(replace(trace, requests_max=2, prompt_tokens_max=1000), 0)
    assert made.prompt_tokens.tolist() == [100, 300]
    # row 5 is too long as well, but lies behind the last request replayed
    assert made.notes == (
        "the first 2 requests of 5 rows are replayed (requests_max)",
        "1 of 3 rows exceed prompt_tokens_max = 1,000 and were dropped",
    )


def test_limits_that_leave_nothing_are_an_error(trace: TraceWorkload) -> None:
    with pytest.raises(TraceError, match="none of the 5 rows is within prompt_tokens_max = 50"):
        generate(replace(trace, prompt_tokens_max=50), 0)


def test_the_columns_of_a_workload_cannot_be_written_to() -> None:
    made = generate(DRAWN, 1)
    with pytest.raises(ValueError, match="read-only"):
        made.prompt_tokens[0] = 5


def test_a_workload_out_of_order_is_a_broken_invariant() -> None:
    one = np.ones(2, dtype=np.int64)
    with pytest.raises(AssertionError, match="not in order"):
        Workload(np.array([5, 4], dtype=np.int64), one, one, None, ())
