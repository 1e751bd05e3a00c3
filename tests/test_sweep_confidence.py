"""Intervals: quantiles against printed tables, and samples whose limits can be worked out by hand."""

from math import isnan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.confidence import (
    Interval,
    batch_means,
    difference_interval,
    mean_interval,
    regularised_beta,
    student_t_quantile,
)


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [  # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.975, 9, 2.262),
        (0.975, 19, 2.093),
        (0.975, 100, 1.984),
        (0.90, 5, 1.476),
        (0.95, 10, 1.812),
        (0.999, 3, 10.215),
        (0.975, 1e7, 1.960),
    ],
)
def test_quantiles_are_those_of_the_printed_table(probability: float, freedom: float, quantile: float) -> None:
    assert student_t_quantile(probability, freedom) == pytest.approx(quantile, abs=6e-4)


def test_one_degree_of_freedom_is_the_cauchy_and_two_have_a_closed_form() -> None:
    assert student_t_quantile(0.75, 1) == pytest.approx(1.0, rel=1e-12)
    p = 0.975
    assert student_t_quantile(p, 2) == pytest.approx((2 * p - 1) * sqrt(2 / (4 * p * (1 - p))), rel=1e-12)


@given(x=st.floats(0, 1), a=st.floats(0.5, 50), b=st.floats(0.5, 50))
def test_the_incomplete_beta_function_is_a_share_and_mirrors(x: float, a: float, b: float) -> None:
    share = regularised_beta(x, a, b)
    assert -1e-12 <= share <= 1 + 1e-12
    assert share + regularised_beta(1 - x, b, a) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("x", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_incomplete_beta_function_has_its_closed_forms(x: float) -> None:
    assert regularised_beta(x, 1, 1) == pytest.approx(x)
    assert regularised_beta(x, 3, 1) == pytest.approx(x**3)
    assert regularised_beta(x, 2, 2) == pytest.approx(x * x * (3 - 2 * x))


def test_the_interval_of_a_mean_is_t_standard_errors_wide() -> None:
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])  # s = sqrt(2.5), t(4) = 2.776
    assert interval.mean == 3
    assert interval.high - 3 == pytest.approx(2.776445 * sqrt(2.5 / 5), rel=1e-6)
    assert 3 - interval.low == pytest.approx(interval.high - 3)
    assert mean_interval([7.0, 7.0]) == Interval(7, 7, 7)


def test_nothing_is_known_of_too_few_values() -> None:
    one, none = mean_interval([2.0]), mean_interval([])
    assert one.mean == 2
    assert all(isnan(value) for value in (one.low, one.high, none.mean, none.low))
    short = difference_interval([2.0], [1.0, 3.0, 2.0])
    assert short.mean == 0
    assert isnan(short.low)
    assert isnan(difference_interval([], [1.0]).mean)


def test_the_difference_of_two_samples_is_welch_s() -> None:
    # s1^2/n1 = 1/3, s2^2/n2 = 4/3: variance 5/3, freedom (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 50/17
    interval = difference_interval([1.0, 2.0, 3.0], [8.0, 10.0, 12.0])
    assert interval.mean == -8
    assert interval.high + 8 == pytest.approx(student_t_quantile(0.975, 50 / 17) * sqrt(5 / 3))
    assert difference_interval([1.0, 1.0], [3.0, 3.0]) == Interval(-2, -2, -2)


def test_batch_means_leave_out_the_rest() -> None:
    assert batch_means(np.array([1.0, 3.0, 5.0, 7.0, 100.0]), 2).tolist() == [2.0, 6.0]


def test_most_intervals_hold_the_true_mean() -> None:
    samples = np.random.default_rng(3).normal(10, 2, (600, 4))
    intervals = [mean_interval(sample) for sample in samples]
    held = sum(interval.low <= 10 <= interval.high for interval in intervals)
    assert 0.915 <= held / 600 <= 0.985  # 0.95 with four standard errors
