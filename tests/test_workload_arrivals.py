"""Arrival processes: rates, burstiness, and what must not change when a parameter does."""

from math import sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from kvsim.workload.arrivals import draw_arrivals
from kvsim.workload.spec import ArrivalSpec, FixedGapArrivals, GammaArrivals, PoissonArrivals

REQUESTS = 40_000
SIGMAS = 4.0  # a correct process fails one such test in about 16,000 seeds; the seed is fixed


def arrivals(spec: ArrivalSpec, requests: int = REQUESTS, seed: int = 7) -> NDArray[np.int64]:
    return draw_arrivals(spec, requests, np.random.default_rng(seed))


def gaps_s(arrival_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.diff(arrival_ns, prepend=0) / 1e9


def test_fixed_gaps_start_at_zero_and_do_not_drift() -> None:
    arrival_ns = arrivals(FixedGapArrivals(3.0), 3_000_001)
    # a third of a second is no whole number of ns: each instant is rounded by itself
    assert arrival_ns[:4].tolist() == [0, 333_333_333, 666_666_667, 1_000_000_000]
    assert arrival_ns[3_000_000] == 1_000_000 * 10**9


@pytest.mark.parametrize("rate_per_s", [0.25, 4.0, 1000.0])
def test_poisson_gaps_have_the_mean_and_the_cv_of_an_exponential(rate_per_s: float) -> None:
    gaps = gaps_s(arrivals(PoissonArrivals(rate_per_s)))
    # exponential: standard deviation = mean; the sample cv has variance (1 + 1) / 2n (delta method)
    assert gaps.mean() * rate_per_s == pytest.approx(1.0, abs=SIGMAS / sqrt(REQUESTS))
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=SIGMAS / sqrt(REQUESTS))


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0, 4.0])
def test_gamma_gaps_have_the_mean_and_the_cv_asked_for(cv: float) -> None:
    gaps = gaps_s(arrivals(GammaArrivals(2.0, cv)))
    # mean: cv / sqrt(n). cv: for Gamma (skewness 2 cv, excess kurtosis 6 cv**2) its variance is cv**2 (1 + cv**2) / 2n
    assert gaps.mean() * 2.0 == pytest.approx(1.0, abs=SIGMAS * cv / sqrt(REQUESTS))
    tolerance = SIGMAS * cv * sqrt((1 + cv**2) / (2 * REQUESTS))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=tolerance)


@pytest.mark.parametrize("make", [PoissonArrivals, lambda rate: GammaArrivals(rate, 3.0), FixedGapArrivals])
def test_doubling_the_rate_halves_every_arrival_of_the_same_pattern(make: type[PoissonArrivals]) -> None:
    slow, fast = arrivals(make(1.5), 1000), arrivals(make(3.0), 1000)
    # both are rounded to whole ns: half of one rounding plus the other
    assert np.abs(slow / 2 - fast).max() <= 0.75


@pytest.mark.parametrize("spec", [PoissonArrivals(2.0), GammaArrivals(2.0, 3.0), FixedGapArrivals(2.0)])
def test_more_requests_leave_the_first_arrivals_as_they_are(spec: ArrivalSpec) -> None:
    assert arrivals(spec, 1000)[:100].tolist() == arrivals(spec, 100).tolist()


@pytest.mark.parametrize("spec", [PoissonArrivals(1e9), GammaArrivals(1e6, 5.0)])
def test_arrivals_never_decrease_even_where_gaps_round_to_zero(spec: ArrivalSpec) -> None:
    steps = np.diff(arrivals(spec, 5000))
    assert steps.min() == 0
    assert arrivals(spec, 5000).dtype == np.int64
