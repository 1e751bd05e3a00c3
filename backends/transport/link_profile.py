"""Fits the numbers that a simulated NIC has to what the transfer benchmark measured.

In the simulator n operations of b bytes take ``max(n * b / rate, n * operation)`` plus a round trip of the latency
(``kvsim/sim/network.py``, ``kvsim/sim/transfers.py``). So the bytes per second of large transfers over the block size
are a line through the origin up to a knee, and flat from there on. This module is pure arithmetic and text; it must not
know how the points were measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, log

import msgspec

from kvsim import units

_NANO = 10**9


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
    latency_ns: int
    error: float


def fit_link(points: Sequence[LinkPoint]) -> LinkFit:
    """The fit with the smallest squared error of the logarithm of the rate.

    Every split of the points into a rising and a flat part is tried; in each part the best constant is the geometric
    mean (of the nanoseconds per operation, of the rate). Without a rising part an operation costs nothing that shows:
    it is then as long as the knee at the smallest block allows. At least one point.
    """
    assert points, "a fit to no points"
    ordered = sorted(points, key=lambda point: point.block_bytes)
    candidates = []
    for rising in range(len(ordered)):
        rate = _geometric_mean([point.bytes_per_s for point in ordered[rising:]])
        operation_ns = (
            _geometric_mean([point.block_bytes / point.bytes_per_s * _NANO for point in ordered[:rising]])
            if rising
            else 0.0
        )
        errors = [log(_model(rate, operation_ns, point.block_bytes) / point.bytes_per_s) for point in ordered]
        candidates.append((sum(error**2 for error in errors), rising, rate, operation_ns))
    _, _, rate, operation_ns = min(candidates)
    first = ordered[0]
    alone_ns = max(first.block_bytes / rate * _NANO, operation_ns)
    deviations = [abs(_model(rate, operation_ns, point.block_bytes) / point.bytes_per_s - 1) for point in ordered]
    return LinkFit(rate, round(operation_ns), max(0, round((first.latency_ns - alone_ns) / 2)), max(deviations))


def nic_fields(name: str, fit: LinkFit) -> dict[str, object]:
    """The fit as the ``nic`` mapping of a scenario.

    What was not measured does not bind: as many messages per second as operations can be posted, and READs enough to
    keep the link busy for a round trip.
    """
    operation_ns = max(1, fit.operation_ns)
    return {
        "name": name,
        "rate": f"{fit.rate_bytes_per_s / 1e9:.4g} GB/s",
        "latency": units.exact_duration(fit.latency_ns),
        "operation": units.exact_duration(fit.operation_ns),
        "message_rate": f"{_NANO / operation_ns / 1e6:.6g} Mop/s",
        "reads_outstanding_max": max(64, 2 * ceil(2 * fit.latency_ns / operation_ns)),
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
    fit_error: float
    nic: dict[str, object]
    points: tuple[LinkPoint, ...]


def link_profile(transport: str, operation: str, points: Sequence[LinkPoint], *, origin: str, date: str) -> LinkProfile:
    """The profile of one transport. ``origin`` says where and how it was measured, ``date`` when (ISO 8601)."""
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
        fit_error=round(fit.error, 4),
        nic=nic_fields(f"measured {transport}", fit),
        points=tuple(points),
    )


def profile_yaml(profile: LinkProfile) -> str:
    """The text of a profile file."""
    import yaml  # noqa: PLC0415

    return str(yaml.safe_dump(msgspec.to_builtins(profile), sort_keys=False, width=120))


def _model(rate_bytes_per_s: float, operation_ns: float, block_bytes: int) -> float:
    return block_bytes / max(block_bytes / rate_bytes_per_s, operation_ns / _NANO)


def _geometric_mean(values: Sequence[float]) -> float:
    return exp(sum(log(value) for value in values) / len(values))
