"""Fits how long messages take by their size to measured ones, and says which points were disturbed.

The curve is a chain of straight lines that never falls, fitted by the robust least squares of relative errors in
``kvsim.profile.least_squares``. It must not know files, NCCL or what the messages are for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from kvsim.profile.least_squares import Floats, robust_fit
from kvsim.sim.message_times import MessageTimes

_POINTS_PER_LINE = 3
"""A line is fitted to at least as many points, so that one disturbed point among them is outvoted."""

_STEP = 2.0
"""Knees stand at least this factor of sizes apart."""

_WITHIN = 4.0
_SLOWER = 1.3
"""A message that took this many times longer than a quarter of the larger ones, up to ``_WITHIN`` times as large, was
disturbed: a larger message holds a smaller one, so nothing of the link can explain it."""

_STRAIGHT_BYTES = 65536
"""From this size on, one line is laid through all points for the cost of a message that does not grow with it."""


class MessagePoint(NamedTuple):
    """One measured size: the median of some repetitions."""

    size_bytes: int
    ns: float


@dataclass(frozen=True, slots=True)
class FittedMessages:
    """The curve, the same as two numbers and a fixed cost, and the points that were left out as disturbed.

    ``latency_ns``: the smallest message. ``operation_ns``: what a message of the straight part takes at any size beyond
    that latency. ``bytes_per_s``: the best rate of what a message has beyond the smallest.
    """

    times: MessageTimes
    latency_ns: int
    operation_ns: int
    bytes_per_s: float
    disturbed: tuple[MessagePoint, ...]


def fit_messages(points: Sequence[MessagePoint]) -> FittedMessages:
    """The curve that fits best. At least two sizes, all times above 0."""
    assert points, "a fit to no points"
    ordered = sorted(points)
    disturbed = disturbed_points(ordered)
    left_out = set(disturbed)
    kept = [point for point in ordered if point not in left_out]
    sizes = np.array([point.size_bytes for point in kept], dtype=np.float64)
    ns = np.array([point.ns for point in kept], dtype=np.float64)
    knees = _knees(sizes)
    first_ns, *rises_ns = robust_fit(_matrix(sizes, knees), ns)
    curve_ns = first_ns + np.cumsum([0.0, *rises_ns])
    times = MessageTimes(
        tuple(int(size) for size in knees), tuple(int(value) for value in np.maximum(1, np.rint(curve_ns)))
    )
    latency_ns = times.ns[0]
    rates = [
        1e9 * (size - times.size_bytes[0]) / (value - latency_ns)
        for size, value in zip(times.size_bytes, times.ns, strict=True)
        if value > latency_ns
    ]
    return FittedMessages(times, latency_ns, _fixed_ns(sizes, ns, latency_ns), max(rates, default=1.0), disturbed)


def disturbed_points(ordered: Sequence[MessagePoint]) -> tuple[MessagePoint, ...]:
    """Those that took much longer than larger messages. ``ordered`` by size."""
    sizes = np.array([point.size_bytes for point in ordered], dtype=np.float64)
    ns = np.array([point.ns for point in ordered], dtype=np.float64)
    found = []
    for index, point in enumerate(ordered):
        end = int(np.searchsorted(sizes, _WITHIN * point.size_bytes, side="right"))
        larger = ns[index + 1 : end]
        if len(larger) >= _POINTS_PER_LINE and point.ns > _SLOWER * float(np.quantile(larger, 0.25)):
            found.append(point)
    return tuple(found)


def signed_errors(times: MessageTimes, points: Sequence[MessagePoint]) -> Floats:
    """What the curve says over what was measured, minus 1, of each point."""
    return np.array([times.of(point.size_bytes) / point.ns - 1.0 for point in points])


def _knees(sizes: Floats) -> Floats:
    """Sizes at which lines meet: the first, the last, and between them as many as have points enough between them."""
    distinct = np.unique(sizes)
    knees = [distinct[0]]
    since = 0
    for size in distinct[1:-1]:
        since += 1
        if since >= _POINTS_PER_LINE and size >= _STEP * knees[-1]:
            knees.append(size)
            since = 0
    if len(knees) > 1 and distinct[-1] < _STEP * knees[-1]:
        knees.pop()
    return np.array([*knees, distinct[-1]] if len(distinct) > 1 else knees)


def _matrix(sizes: Floats, knees: Floats) -> Floats:
    """Columns: 1 for the first knee, and for each line how far along it a size lies, from 0 to 1."""
    lines = [np.clip((sizes - low) / (high - low), 0.0, 1.0) for low, high in pairwise(knees)]
    return np.column_stack([np.ones(len(sizes)), *lines])


def _fixed_ns(sizes: Floats, ns: Floats, latency_ns: int) -> int:
    """Where one line through the large messages meets no bytes, beyond the latency; 0 with too few of them."""
    large = sizes >= _STRAIGHT_BYTES
    if int(large.sum()) < _POINTS_PER_LINE:
        return 0
    base_ns, _ = robust_fit(np.column_stack([np.ones(int(large.sum())), sizes[large]]), ns[large])
    return max(0, round(float(base_ns)) - latency_ns)
