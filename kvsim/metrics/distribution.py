"""Exact statistics of integer samples: mean and percentiles with weights, and sums that cannot overflow.

Results are quotients of exact integers, so they do not depend on the order of the samples or on the machine.
"""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.metrics.columns import NS_PER_S, Integers

Statistics: TypeAlias = dict[str, float]

PERCENTS = (50, 90, 99)
_SPLIT = 1 << 20
_PIECE = 1 << 16


def exact_dot(values: Integers, weights: Integers) -> int:
    """The sum of ``values * weights`` as a Python integer.

    The values are split in two so that no intermediate sum leaves 64 bits: instants in ns times blocks x layers would.
    """
    total = 0
    for first in range(0, len(values), _PIECE):
        high, low = np.divmod(values[first : first + _PIECE], _SPLIT)
        piece = weights[first : first + _PIECE]
        total += int(high @ piece) * _SPLIT + int(low @ piece)
    return total


def weighted_percentiles(
    values: NDArray[Any], weights: Integers, percents: tuple[int, ...] = PERCENTS
) -> tuple[float, ...]:
    """Percentiles of the sample in which ``values[i]`` stands ``weights[i]`` times, without writing it out.

    The definition is numpy's "linear": of N values in order, percentile p lies at ``h = (N - 1) * p / 100``, between
    the values at ``floor(h)`` and the one after it, in proportion. At least one weight must be positive.
    """
    order = np.argsort(values, kind="stable")
    counts = weights[order]
    np.cumsum(counts, out=counts)
    total = int(counts[-1])
    result = []
    for percent in percents:
        place, share = divmod((total - 1) * percent, 100)
        low, high = (
            values[order[np.searchsorted(counts, index, side="right")]].item()
            for index in (place, min(place + 1, total - 1))
        )
        result.append((low * (100 - share) + high * share) / 100)
    return tuple(result)


def statistics_s(values_ns: Integers, weights: Integers | None = None) -> Statistics | None:
    """Mean and ``PERCENTS`` in seconds of integer ns; None for an empty sample."""
    counts = np.ones_like(values_ns) if weights is None else weights
    total = int(counts.sum())
    if not total:
        return None
    percentiles = weighted_percentiles(values_ns, counts)
    return _named(exact_dot(values_ns, counts) / total, percentiles)


def ratio_statistics_s(numerators_ns: Integers, denominators: Integers) -> Statistics | None:
    """Mean and ``PERCENTS`` in seconds of the quotients of integers; None for an empty sample."""
    if not len(numerators_ns):
        return None
    values_ns = numerators_ns / denominators
    percentiles = weighted_percentiles(values_ns, np.ones_like(numerators_ns))
    return _named(math.fsum(values_ns.tolist()) / len(values_ns), percentiles)


def _named(mean_ns: float, percentiles_ns: tuple[float, ...]) -> Statistics:
    named = {f"p{percent}": value / NS_PER_S for percent, value in zip(PERCENTS, percentiles_ns, strict=True)}
    return {"mean": mean_ns / NS_PER_S, **named}
