"""Confidence intervals of means and of differences of means, from samples as short as two.

Student's t, not the normal distribution: with five seeds the normal 95 % interval would be a third too narrow. It must
not know what is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log, log1p, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

LEVEL = 0.95
_STEPS_MAX = 200  # of the continued fraction; 20 are usual
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the limits between which the true one lies with confidence ``LEVEL``; NaN where nothing is known."""

    mean: float
    low: float
    high: float


def mean_interval(sample: Sequence[float] | Floats, level: float = LEVEL) -> Interval:
    """Of independent values: mean +- t * s / sqrt(n). One value has no limits, none has no mean either."""
    values = np.asarray(sample, dtype=np.float64)
    if len(values) == 0:
        return Interval(nan, nan, nan)
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, nan, nan)
    return _around(mean, float(values.var(ddof=1)) / len(values), len(values) - 1, level)


def difference_interval(sample: Sequence[float] | Floats, base: Sequence[float] | Floats) -> Interval:
    """Of the difference of the means of two independent samples, whose variances may differ.

    Welch's t with the degrees of freedom of Satterthwaite (B. L. Welch, Biometrika 34, 1947).
    """
    ours, theirs = np.asarray(sample, dtype=np.float64), np.asarray(base, dtype=np.float64)
    if not len(ours) or not len(theirs):
        return Interval(nan, nan, nan)
    mean = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return Interval(mean, nan, nan)
    parts = [(float(values.var(ddof=1)) / len(values), len(values) - 1) for values in (ours, theirs)]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Interval(mean, mean, mean)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    return _around(mean, variance, freedom, LEVEL)


def batch_means(values: Floats, batches: int) -> Floats:
    """The means of ``batches`` neighbouring stretches of a series, all of the same length; a rest at the end is left.

    Values of one run follow each other too closely to count as independent; the means of long stretches do nearly (A.
    M. Law, Simulation Modeling and Analysis, 5th ed., section 9.5.3).
    """
    length = len(values) // batches
    assert length > 0, f"{len(values)} values in {batches} batches"
    means: Floats = values[: length * batches].reshape(batches, length).mean(axis=1)
    return means


def student_t_quantile(probability: float, freedom: float) -> float:
    """The value that Student's t with ``freedom`` > 0 degrees stays below with ``probability`` in (0.5, 1)."""
    assert 0.5 < probability < 1, probability
    assert freedom > 0, freedom
    tail = 2 * (1 - probability)
    # t lies outside of +-t with probability I_x(f/2, 1/2), x = f / (f + t^2) (Abramowitz and Stegun 26.7.1, 26.5.27)
    share = _bisect(lambda x: regularised_beta(x, freedom / 2, 0.5) - tail)
    return sqrt(freedom * (1 - share) / share)


def regularised_beta(x: float, a: float, b: float) -> float:
    """The incomplete beta function I_x(a, b) for 0 <= x <= 1, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - regularised_beta(1 - x, b, a)
    front = exp(a * log(x) + b * log1p(-x) + lgamma(a + b) - lgamma(a) - lgamma(b)) / a

    def coefficient(step: int) -> float:
        half = step // 2
        if step % 2 == 0:
            return half * (b - half) * x / ((a + step - 1) * (a + step))
        return -(a + half) * (a + b + half) * x / ((a + step - 1) * (a + step))

    return front / _continued_fraction(coefficient)


def _continued_fraction(coefficient: Callable[[int], float]) -> float:
    """``1 + d1 / (1 + d2 / (1 + ...))`` by Lentz's method (W. J. Lentz, Applied Optics 15, 1976)."""
    value, upper, lower = 1.0, 1.0, 0.0
    for step in range(1, _STEPS_MAX):
        term = coefficient(step)
        lower = 1 / (1 + term * lower or _TINY)
        upper = 1 + term / upper or _TINY
        change = upper * lower
        value *= change
        if abs(change - 1) < 1e-15:
            break
    return value


def _bisect(rising: Callable[[float], float]) -> float:
    """Where a rising function of (0, 1) is 0, to the last bit."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return high
        if rising(middle) < 0:
            low = middle
        else:
            high = middle


def _around(mean: float, variance: float, freedom: float, level: float) -> Interval:
    half = student_t_quantile((1 + level) / 2, freedom) * sqrt(variance)
    return Interval(mean, mean - half, mean + half)
