"""Bisection over runs that are made up, and how far a share can be trusted."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_worlds import found_at

from kvsim.plan.probe import Probe
from kvsim.plan.search import TOLERANCE, find_goodput, sharpen
from kvsim.plan.significance import effective_samples, wilson_interval

BLANK = found_at(1.0).probes[0]


class FakeCluster:
    """Meets the limits for everybody up to ``capacity`` and for a falling share beyond; ``half`` is the half-width of
    every interval."""

    def __init__(self, capacity: float, half: float = 0.02) -> None:
        self.capacity, self.half = capacity, half
        self.rates: list[float] = []

    def __call__(self, rate_per_s: float) -> Probe:
        self.rates.append(rate_per_s)
        share = max(0.0, min(1.0, 1.0 - (rate_per_s / self.capacity - 1.0)))
        low, high = max(0.0, share - self.half), min(1.0, share + self.half)
        return replace(BLANK, rate_per_s=rate_per_s, attainment=share, low=low, high=high)


@given(st.floats(0.01, 1000), st.floats(0.3, 3))
def test_the_goodput_is_found_to_the_tolerance_from_any_expectation(capacity: float, wrong: float) -> None:
    cluster = FakeCluster(capacity)
    found = find_goodput(cluster, capacity * wrong, 0.9)
    truth = 1.1 * capacity  # where the share is 0.9
    assert truth / (1 + TOLERANCE) * 0.999 <= found.goodput_per_s <= truth * 1.001
    assert found.beyond is not None
    assert found.beyond.rate_per_s > found.goodput_per_s
    assert len(cluster.rates) == len(set(cluster.rates)) <= 14


def test_a_good_expectation_takes_four_runs() -> None:
    cluster = FakeCluster(10.0)
    find_goodput(cluster, 10.9, 0.9)
    assert len(cluster.rates) == 4


def test_a_layout_below_the_floor_is_found_coarsely() -> None:
    fine, coarse = FakeCluster(10.0), FakeCluster(10.0)
    find_goodput(fine, 14.0, 0.9)
    find_goodput(coarse, 14.0, 0.9, floor_per_s=100.0)
    assert len(coarse.rates) < len(fine.rates)


def test_a_cluster_that_meets_nothing_is_given_up() -> None:
    cluster = FakeCluster(1e-6)
    found = find_goodput(cluster, 10.0, 0.9)
    assert (found.goodput_per_s, found.best) == (0.0, None)
    assert 10.0 / 256 / 100 < min(cluster.rates) <= 10.0 / 256
    assert len(cluster.rates) < 12


def test_a_run_that_is_too_short_to_miss_anything_ends_the_search() -> None:
    cluster = FakeCluster(1e9)
    found = find_goodput(cluster, 1.0, 0.9)
    assert found.beyond is None
    assert 64 < found.goodput_per_s == max(cluster.rates) < 10_000
    assert found.high_per_s == float("inf")


def test_sharpening_adds_rates_that_meet_and_miss_beyond_doubt() -> None:
    cluster = FakeCluster(10.0, half=0.1)
    found = find_goodput(cluster, 10.9, 0.9)
    assert found.low_per_s == 0.0
    sharp = sharpen(cluster, found)
    assert 0 < sharp.low_per_s < sharp.goodput_per_s == found.goodput_per_s < sharp.high_per_s < 14
    assert sharp.probes[: len(found.probes)] == found.probes


def test_a_search_that_is_sharp_already_is_left_alone() -> None:
    cluster = FakeCluster(10.0, half=0.0)
    found = find_goodput(cluster, 10.9, 0.9)
    assert sharpen(cluster, found) == found


def test_the_best_run_lies_below_every_rate_that_missed() -> None:
    """By chance a higher rate may meet the target where a lower one missed it: that is not trusted."""
    probes = [(1.0, 0.95), (2.0, 0.89), (2.1, 0.91)]
    found = replace(
        found_at(1.0), probes=tuple(replace(BLANK, rate_per_s=rate, attainment=share) for rate, share in probes)
    )
    assert found.goodput_per_s == 1.0


def test_wilson_intervals_are_those_of_the_textbook() -> None:
    assert wilson_interval(0.9, 100) == pytest.approx((0.82563, 0.94477), abs=1e-4)
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.27753), abs=1e-4)
    assert wilson_interval(1.0, 10) == pytest.approx((0.72247, 1.0), abs=1e-4)
    assert wilson_interval(0.5, 0) == (0.0, 1.0)


def test_independent_requests_count_about_fully_and_bursts_count_less() -> None:
    generator = np.random.default_rng(3)
    independent = generator.random(4000) < 0.9
    bursts = np.repeat(generator.random(80) < 0.9, 50)  # fifty requests at a time fare alike
    assert effective_samples(independent) > 1500
    assert effective_samples(bursts) < 250
    assert effective_samples(np.ones(500, dtype=np.bool_)) == 500
    assert effective_samples(np.array([True, False])) == 2
