"""Fits the numbers that a simulated NIC has to what the transfer benchmark measured.

In the simulator n operations of b bytes take ``n * max(b / rate + gap, operation)`` plus a round trip of the latency
(``kvsim/sim/network.py``, ``kvsim/sim/transfers.py``). Posting overlaps with bytes on their way, which makes a knee;
the gap does not, which makes a round one. This module is pure arithmetic and text; it must not know how the points were
measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, log
from operator import mul

import msgspec

from kvsim import units

_NANO = 10**9
_WORTH_A_GAP = 1e-4
"""Square of the error of the logarithm: one point that is 1 % off."""


@dataclass(frozen=True, slots=True)
class LinkPoint:
    """Large transfers in blocks of this size move ``bytes_per_s``; one block alone takes ``latency_ns``."""

    block_bytes: int
    bytes_per_s: float
    latency_ns: float


@dataclass(frozen=True, slots=True)
class LinkFit:
    """What a NIC has in a scenario. ``latency_ns`` is one way, an empty message; ``error`` is the largest relative
    deviation of the fitted rate from a measured one."""

    rate_bytes_per_s: float
    operation_ns: int
    gap_ns: int
    latency_ns: int
    error: float


def fit_link(points: Sequence[LinkPoint]) -> LinkFit:
    """The fit with the smallest squared error of the logarithm of the rate.

    Every split of the points into those that posting limits and those that bytes and gap limit is tried, the latter
    with a gap and without. The nanoseconds per operation of the former are best their geometric mean; those of the
    latter a straight line over the block size, fitted by least squares of the relative error (without a gap its
    geometric mean again). Where a gap makes the fit no better by ``_WORTH_A_GAP`` there is none. The latency is the one
    with the smallest squared relative error of one block alone, over all sizes. At least one point.
    """
    assert points, "a fit to no points"
    ordered = sorted(points, key=lambda point: point.block_bytes)
    candidates = []
    for rising in range(len(ordered)):
        operation_ns = _geometric_mean([_one_ns(point) for point in ordered[:rising]]) if rising else 0.0
        for rate, gap_ns in _lines(ordered[rising:]):
            errors = [log(_model_ns(rate, operation_ns, gap_ns, point) / _one_ns(point)) for point in ordered]
            squares = sum(error**2 for error in errors) + (_WORTH_A_GAP if gap_ns else 0.0)
            candidates.append((squares, rising, rate, operation_ns, gap_ns))
    _, _, rate, operation_ns, gap_ns = min(candidates)
    # minimize the sum of ((one operation + 2 x latency) / measured - 1)**2
    weights = [1 / point.latency_ns**2 for point in ordered]
    left_ns = [point.latency_ns - _model_ns(rate, operation_ns, gap_ns, point) for point in ordered]
    latency_ns = max(0, round(sum(map(mul, weights, left_ns)) / sum(weights) / 2))
    deviations = [abs(_one_ns(point) / _model_ns(rate, operation_ns, gap_ns, point) - 1) for point in ordered]
    return LinkFit(rate, round(operation_ns), round(gap_ns), latency_ns, max(deviations))


def nic_fields(name: str, fit: LinkFit) -> dict[str, object]:
    """The fit as the ``nic`` mapping of a scenario.

    What was not measured does not bind: as many messages per second as operations can be posted, and READs enough to
    keep the link busy for a round trip.
    """
    operation_ns = max(1, fit.operation_ns)
    reads_ns = max(1, fit.operation_ns, fit.gap_ns)  # no two READs end closer to each other
    return {
        "name": name,
        "rate": f"{fit.rate_bytes_per_s / 1e9:.4g} GB/s",
        "latency": units.exact_duration(fit.latency_ns),
        "operation": units.exact_duration(fit.operation_ns),
        "gap": units.exact_duration(fit.gap_ns),
        "message_rate": f"{_NANO / operation_ns / 1e6:.6g} Mop/s",
        "reads_outstanding_max": max(64, 2 * ceil(2 * fit.latency_ns / reads_ns)),
    }


class LinkProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a link profile file holds: numbers in base units, the same as a scenario writes them, and the points."""

    origin: str
    date: str
    transport: str
    operation: str
    units: str
    rate_bytes_per_s: float
    base_latency_ns: int
    operation_ns: int
    gap_ns: int
    fit_error: float
    total_bytes: int
    nic: dict[str, object]
    points: tuple[LinkPoint, ...]


def link_profile(
    transport: str, operation: str, points: Sequence[LinkPoint], *, total_bytes: int, origin: str, date: str
) -> LinkProfile:
    """The profile of one transport, from transfers of ``total_bytes``. ``origin`` says where and how they were
    measured, ``date`` when (ISO 8601)."""
    fit = fit_link(points)
    return LinkProfile(
        origin=origin,
        date=date,
        transport=transport,
        operation=operation,
        units="bytes per second, nanoseconds; latency is one way",
        rate_bytes_per_s=fit.rate_bytes_per_s,
        base_latency_ns=fit.latency_ns,
        operation_ns=fit.operation_ns,
        gap_ns=fit.gap_ns,
        fit_error=round(fit.error, 4),
        total_bytes=total_bytes,
        nic=nic_fields(f"measured {transport}", fit),
        points=tuple(points),
    )


def profile_yaml(profile: LinkProfile) -> str:
    """The text of a profile file."""
    import yaml  # noqa: PLC0415

    return str(yaml.safe_dump(msgspec.to_builtins(profile), sort_keys=False, width=120))


def _lines(points: Sequence[LinkPoint]) -> list[tuple[float, float]]:
    """Rates, and gaps in nanoseconds, with which the bytes of these points may have moved."""
    found = [(_geometric_mean([point.bytes_per_s for point in points]), 0.0)]
    if len(points) > 1:
        # minimize the sum of (gap / t + b * per_byte / t - 1)**2: two equations of two unknowns
        weights = [1 / _one_ns(point) for point in points]
        slopes = [point.block_bytes * weight for point, weight in zip(points, weights, strict=True)]
        ones, cross = sum(weight**2 for weight in weights), sum(map(mul, weights, slopes))
        squares, right, below = sum(slope**2 for slope in slopes), sum(weights), sum(slopes)
        determinant = ones * squares - cross**2
        gap_ns = (right * squares - cross * below) / determinant
        per_byte_ns = (ones * below - cross * right) / determinant
        if gap_ns >= 1 and per_byte_ns > 0:
            found.append((_NANO / per_byte_ns, gap_ns))
    return found


def _model_ns(rate_bytes_per_s: float, operation_ns: float, gap_ns: float, point: LinkPoint) -> float:
    """What one operation among many takes."""
    return max(point.block_bytes / rate_bytes_per_s * _NANO + gap_ns, operation_ns)


def _one_ns(point: LinkPoint) -> float:
    return point.block_bytes / point.bytes_per_s * _NANO


def _geometric_mean(values: Sequence[float]) -> float:
    return exp(sum(log(value) for value in values) / len(values))
