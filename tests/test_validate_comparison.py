"""How a validation compares two worlds, by numbers made by hand: errors, tolerance, ranking."""

from math import isnan, nan

import numpy as np
import pytest

from kvsim.scenario.real_schema import Tolerance
from kvsim.validation.errors import METRICS, STATISTICS, ErrorRow, beyond_tolerance, error_rows, median_errors
from kvsim.validation.ranking import BATCHES, disagreements, paired_interval, rank


def summary(**means: float) -> dict[str, object]:
    """A variant's summary with these means; everything else does not exist."""
    known = {METRICS[metric]: dict.fromkeys(STATISTICS, value) for metric, value in means.items()}
    return {key: known.get(key) for key in METRICS.values()}


def test_an_error_is_signed_and_a_share_of_what_was_real() -> None:
    assert ErrorRow("v", "ttft", "mean", real_s=2.0, simulated_s=1.5).error == pytest.approx(-0.25)
    assert ErrorRow("v", "ttft", "mean", real_s=2.0, simulated_s=2.5).error == pytest.approx(0.25)


def test_an_error_of_what_does_not_exist_or_was_zero_is_unknown() -> None:
    assert isnan(ErrorRow("v", "transfer", "mean", nan, 1.0).error)
    assert isnan(ErrorRow("v", "prefill_queue", "mean", 0.0, 1.0).error)


def test_every_statistic_of_every_metric_has_a_row() -> None:
    rows = error_rows({"a": summary(ttft=1.0)}, {"a": summary(ttft=1.1)})
    assert [(row.metric, row.statistic) for row in rows] == [(m, s) for m in METRICS for s in STATISTICS]
    known = [row for row in rows if not isnan(row.error)]
    assert {row.metric for row in known} == {"ttft"}
    assert [row.error for row in known] == pytest.approx([0.1] * len(STATISTICS))


def test_the_median_is_over_variants_of_the_absolute_errors_of_the_means() -> None:
    real = {name: summary(ttft=1.0) for name in "abc"}
    simulated = {"a": summary(ttft=0.7), "b": summary(ttft=1.1), "c": summary(ttft=1.2)}
    assert median_errors(error_rows(real, simulated)) == {"ttft": pytest.approx(0.2)}


def test_only_metrics_beyond_their_tolerance_are_told() -> None:
    medians = {"ttft": 0.2, "tpot": 0.2, "e2e": 0.2}
    assert beyond_tolerance(medians, Tolerance(ttft=0.15, tpot=0.2)) == [
        "ttft: the median error of the mean is 20.0%, the tolerance is 15.0%"
    ]


def test_a_metric_with_a_tolerance_must_have_been_measured() -> None:
    assert beyond_tolerance({}, Tolerance(transfer=0.5)) == ["transfer: nothing was measured, the tolerance is 50.0%"]


# --- ranking -------------------------------------------------------------------------------------------------------

REQUESTS = 2 * BATCHES


def world(**means: float) -> dict[str, dict[str, np.ndarray]]:
    """Variants whose requests all take this long by every metric, on top of what differs between requests."""
    load = np.linspace(1.0, 5.0, REQUESTS)
    return {name: dict.fromkeys(("ttft", "tpot", "e2e"), load + mean) for name, mean in means.items()}


def test_a_difference_of_all_requests_is_significant_whatever_the_load_does() -> None:
    interval = paired_interval(np.linspace(1, 50, REQUESTS) + 0.1, np.linspace(1, 50, REQUESTS))
    assert interval.low == pytest.approx(0.1)
    assert interval.high == pytest.approx(0.1)


def test_the_confidence_is_for_all_comparisons_together() -> None:
    """Eight batches have 7 degrees of freedom: t is 2.365 for 95 % and, for one of 15 that share 5 %, 4.355."""
    ours, theirs = np.random.default_rng(3).normal(1.0, 0.5, REQUESTS), np.zeros(REQUESTS)
    alone, among_many = paired_interval(ours, theirs), paired_interval(ours, theirs, 15)
    assert alone.mean == among_many.mean
    widths = (among_many.high - among_many.low) / (alone.high - alone.low)
    assert widths == pytest.approx(4.3553 / 2.3646, rel=1e-3)


def test_requests_without_a_value_in_one_world_are_left_out() -> None:
    ours, theirs = np.full(REQUESTS + 1, 2.0), np.full(REQUESTS + 1, 1.0)
    ours[0] = nan
    assert paired_interval(ours, theirs).mean == 1.0


def test_too_few_requests_have_a_mean_and_no_interval() -> None:
    interval = paired_interval(np.full(REQUESTS - 1, 2.0), np.full(REQUESTS - 1, 1.0))
    assert interval.mean == 1.0
    assert isnan(interval.low)


def test_different_requests_cannot_be_compared() -> None:
    assert isnan(paired_interval(np.ones(REQUESTS), np.ones(REQUESTS + 1)).mean)


def test_the_same_order_in_both_worlds_is_agreement_even_where_sizes_differ() -> None:
    pairs = rank(world(a=0.0, b=1.0), world(a=0.0, b=3.0))
    assert [(pair.metric, pair.first, pair.second) for pair in pairs] == [
        (m, "a", "b") for m in ("ttft", "tpot", "e2e")
    ]
    assert all(pair.significant and pair.agrees for pair in pairs)
    assert disagreements(pairs) == []


def test_another_order_than_a_significant_one_is_a_disagreement() -> None:
    wrong = disagreements(rank(world(a=0.0, b=1.0), world(a=0.5, b=0.0)))
    assert len(wrong) == 3
    assert wrong[0] == ("ttft: a against b is -1.0000 s in reality (-1.0000 to -1.0000) and +0.5000 s in simulation")


def test_no_difference_at_all_in_simulation_is_a_disagreement_with_a_significant_one() -> None:
    assert len(disagreements(rank(world(a=0.0, b=1.0), world(a=0.0, b=0.0)))) == 3


def test_where_reality_cannot_tell_any_order_agrees() -> None:
    real = world(a=0.0, b=0.0)
    swing = np.where(np.arange(REQUESTS) // 2 % 2 == 0, 1.0, -0.9)  # each batch says the opposite of its neighbour
    real["b"] = {metric: values + swing for metric, values in real["b"].items()}
    pairs = rank(real, world(a=1.0, b=0.0))
    assert not any(pair.significant for pair in pairs)
    assert disagreements(pairs) == []
