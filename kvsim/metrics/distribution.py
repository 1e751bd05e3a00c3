"""Exact statistics of integer samples: mean and percentiles with weights, and sums that cannot overflow.

Results are quotients of exact integers, so they do not depend on the order of the samples or on the machine.
"""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.metrics.columns import NS_PER_S, Integers, ShortIntegers

Statistics: TypeAlias = dict[str, float]

PERCENTS = (50, 90, 99)
_SPLIT_BITS = 20
_PIECE = 1 << 16


def exact_dot(values: Integers, weights: ShortIntegers) -> int:
    """The sum of ``values * weights`` as a Python integer.

    The values are split in two so that no intermediate sum leaves 64 bits: instants in ns times blocks x layers would.
    """
    total = 0
    for first in range(0, len(values), _PIECE):
        piece, counts = values[first : first + _PIECE], weights[first : first + _PIECE]
        high, low = piece >> _SPLIT_BITS, piece & ((1 << _SPLIT_BITS) - 1)
        total += (int(high @ counts) << _SPLIT_BITS) + int(low @ counts)
    return total


def weighted_percentiles(
    values: NDArray[Any], weights: ShortIntegers, percents: tuple[int, ...] = PERCENTS, *, overwrite: bool = False
) -> tuple[float, ...]:
    """Percentiles of the sample in which ``values[i]`` stands ``weights[i]`` times, without writing it out.

    The definition is numpy's "linear": of N values in order, percentile p lies at ``h = (N - 1) * p / 100``, between
    the values at ``floor(h)`` and the one after it, in proportion. At least one weight must be positive. ``overwrite``
    lets it use the memory of ``values``.
    """
    ranked = _Ranked(values, weights, overwrite=overwrite)
    result = []
    for percent in percents:
        place, share = divmod((ranked.total - 1) * percent, 100)
        low, high = ranked.at(place), ranked.at(min(place + 1, ranked.total - 1))
        result.append((low * (100 - share) + high * share) / 100)
    return tuple(result)


class _Ranked:
    """A weighted sample in ascending order; ``total`` is the sum of the weights.

    A value and its weight are packed into one number where 63 bits hold both, since sorting numbers takes a fraction of
    the time and of the memory of sorting places.
    """

    def __init__(self, values: NDArray[Any], weights: ShortIntegers, *, overwrite: bool) -> None:
        self._bits = int(weights.max()).bit_length()
        self._packed: Integers | None = None
        if values.dtype == np.int64 and values.min() >= 0 and int(values.max()).bit_length() + self._bits < 64:
            self._packed = np.left_shift(values, self._bits, out=values if overwrite else None)
            self._packed |= weights
            self._packed.sort()
        else:
            order = np.argsort(values)
            self._values, self._weights = values[order], weights[order]
        self._pieces = np.cumsum([int(self._counts(first).sum()) for first in range(0, len(values), _PIECE)])
        self.total = int(self._pieces[-1])

    def at(self, place: int) -> int | float:
        """The value at this place of the sample as it would be written out."""
        piece = int(np.searchsorted(self._pieces, place, side="right"))
        before = int(self._pieces[piece - 1]) if piece else 0
        counts = np.cumsum(self._counts(piece * _PIECE), dtype=np.int64)
        index = piece * _PIECE + int(np.searchsorted(counts, place - before, side="right"))
        found: int | float = (self._values[index] if self._packed is None else self._packed[index] >> self._bits).item()
        return found

    def _counts(self, first: int) -> ShortIntegers:
        """The weights of one piece."""
        if self._packed is None:
            return self._weights[first : first + _PIECE]
        return self._packed[first : first + _PIECE] & ((1 << self._bits) - 1)


def statistics_s(
    values_ns: Integers, weights: ShortIntegers | None = None, *, overwrite: bool = False
) -> Statistics | None:
    """Mean and ``PERCENTS`` in seconds of integer ns; None for an empty sample. With ``overwrite`` the values are lost:
    of millions of them there is no need for two."""
    counts: ShortIntegers = np.ones_like(values_ns) if weights is None else weights
    total = int(counts.sum())
    if not total:
        return None
    mean_ns = exact_dot(values_ns, counts) / total
    return _named(mean_ns, weighted_percentiles(values_ns, counts, overwrite=overwrite))


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
