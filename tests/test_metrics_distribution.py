import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.metrics.distribution import exact_dot, ratio_statistics_s, statistics_s, weighted_percentiles

SAMPLES = st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 40)), min_size=1, max_size=30).filter(
    lambda pairs: any(weight for _, weight in pairs)
)


@given(SAMPLES, st.integers(0, 100))
def test_weighted_percentiles_are_those_of_the_sample_written_out(pairs: list[tuple[int, int]], percent: int) -> None:
    values, weights = np.array(pairs, dtype=np.int64).T
    (found,) = weighted_percentiles(values, weights, (percent,))
    assert found == pytest.approx(np.percentile(np.repeat(values, weights), percent), rel=1e-12, abs=1e-3)
    assert weighted_percentiles(values.copy(), weights, (percent,), overwrite=True) == (found,)


@given(SAMPLES, st.integers(0, 100))
def test_values_too_large_to_stand_beside_their_weights_are_ranked_alike(
    pairs: list[tuple[int, int]], percent: int
) -> None:
    values, weights = np.array(pairs, dtype=np.int64).T
    place, share = divmod((int(weights.sum()) - 1) * percent, 100)
    low, high = (sorted(np.repeat(values + 2**62, weights).tolist()) * 2)[place : place + 2]
    (found,) = weighted_percentiles(values + 2**62, weights, (percent,))
    assert found == (low * (100 - share) + high * share) / 100


@given(st.permutations(range(12)))
def test_the_order_of_the_sample_does_not_matter(order: list[int]) -> None:
    values = np.arange(12, dtype=np.int64) ** 3 * 7
    weights = np.arange(12, dtype=np.int64) % 5
    assert statistics_s(values[order], weights[order]) == statistics_s(values, weights)


@given(st.lists(st.tuples(st.integers(-(10**13), 10**13), st.integers(-(10**6), 10**6)), max_size=30))
def test_an_exact_dot_product_is_that_of_python_integers(pairs: list[tuple[int, int]]) -> None:
    values, weights = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    assert exact_dot(values, weights) == sum(value * weight for value, weight in pairs)


def test_the_median_of_two_values_lies_between_them() -> None:
    found = statistics_s(np.array([3_000_000_000, 1_000_000_000]))
    assert found == {"mean": 2.0, "p50": 2.0, "p90": 2.8, "p99": 2.98}


def test_a_weight_counts_its_value_that_often() -> None:
    found = statistics_s(np.array([1_000_000_000, 5_000_000_000]), np.array([3, 1]))
    assert found == {"mean": 2.0, "p50": 1.0, "p90": 3.8, "p99": 4.88}


def test_ratios_are_divided_before_they_are_ranked() -> None:
    found = ratio_statistics_s(np.array([9_000_000_000, 4_000_000_000]), np.array([9, 2]))
    assert found == {"mean": 1.5, "p50": 1.5, "p90": 1.9, "p99": 1.99}


def test_an_empty_sample_has_no_statistics() -> None:
    nothing = np.empty(0, dtype=np.int64)
    assert statistics_s(nothing) is None
    assert statistics_s(np.array([5]), np.array([0])) is None
    assert ratio_statistics_s(nothing, nothing) is None
