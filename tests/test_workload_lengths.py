"""Length distributions: values, moments, limits, and common random numbers."""

from math import log, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from kvsim.workload.lengths import draw_lengths
from kvsim.workload.spec import FixedLength, LengthSpec, LognormalLength, UniformLength

REQUESTS = 40_000
SIGMAS = 4.0


def lengths(spec: LengthSpec, requests: int = REQUESTS) -> NDArray[np.int64]:
    tokens, _ = draw_lengths("prompt_tokens", spec, requests, np.random.default_rng(11))
    return tokens


def notes(spec: LengthSpec) -> tuple[str, ...]:
    return draw_lengths("prompt_tokens", spec, REQUESTS, np.random.default_rng(11))[1]


def test_a_fixed_length_is_the_same_for_every_request() -> None:
    assert lengths(FixedLength(2048), 3).tolist() == [2048, 2048, 2048]


def test_a_uniform_length_takes_every_value_between_its_limits_equally_often() -> None:
    values, counts = np.unique(lengths(UniformLength(3, 7)), return_counts=True)
    assert values.tolist() == [3, 4, 5, 6, 7]
    # each count is binomial(n, 1/5)
    assert np.abs(counts - REQUESTS / 5).max() < SIGMAS * sqrt(REQUESTS * 0.2 * 0.8)


def test_a_uniform_length_between_equal_limits_is_fixed() -> None:
    assert set(lengths(UniformLength(5, 5), 100).tolist()) == {5}


@pytest.mark.parametrize("cv", [0.3, 1.0])
def test_an_unclipped_lognormal_length_has_the_mean_and_the_spread_asked_for(cv: float) -> None:
    tokens = lengths(LognormalLength(5000.0, cv, 1, 10**9))
    assert tokens.mean() == pytest.approx(5000, abs=SIGMAS * cv * 5000 / sqrt(REQUESTS))
    # the logarithm is normal: its standard deviation has standard error sigma / sqrt(2n)
    sigma = sqrt(log(1 + cv**2))
    assert np.log(tokens).std() == pytest.approx(sigma, abs=SIGMAS * sigma / sqrt(2 * REQUESTS))


def test_lognormal_draws_beyond_a_limit_sit_at_the_limit_and_are_reported() -> None:
    spec = LognormalLength(2000.0, 1.0, 1, 4000)
    tokens = lengths(spec)
    # P(above 4000) = 1 - Phi((ln 4000 - mu) / sigma) with sigma**2 = ln 2, mu = ln 2000 - sigma**2 / 2: 0.1059
    assert np.mean(tokens == 4000) == pytest.approx(0.1059, abs=SIGMAS * sqrt(0.1059 * 0.8941 / REQUESTS))
    assert tokens.min() >= 1
    (note,) = notes(spec)
    assert note.startswith("prompt_tokens: 10.")
    assert "clipped to 1 .. 4,000 tokens" in note
    assert "asked for: 2,000" in note


def test_a_lognormal_that_is_hardly_ever_clipped_says_nothing() -> None:
    assert notes(LognormalLength(2000.0, 1.0, 1, 100_000)) == ()


def test_a_lognormal_without_spread_is_its_rounded_mean() -> None:
    spec = LognormalLength(99.6, 0.0, 1, 1000)
    assert set(lengths(spec, 50).tolist()) == {100}
    assert notes(spec) == ()


def test_a_larger_mean_makes_the_same_requests_long() -> None:
    short, long = lengths(LognormalLength(1e6, 1.0, 1, 10**9)), lengths(LognormalLength(2e6, 1.0, 1, 10**9))
    assert np.abs(long - 2 * short).max() <= 2  # rounding, once on each side


@pytest.mark.parametrize("spec", [UniformLength(1, 100), LognormalLength(500.0, 2.0, 1, 9000)])
def test_more_requests_leave_the_first_lengths_as_they_are(spec: LengthSpec) -> None:
    assert lengths(spec, 1000)[:100].tolist() == lengths(spec, 100).tolist()
