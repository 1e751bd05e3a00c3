"""Who gets which rate when flows share resources: pure functions over numbers.

``fair_rates`` is max-min fairness by progressive filling. ``fair_byte_rates`` applies it to transfers, whose bytes and
operations are bounded by different resources. Neither knows what a worker, a NIC or time is.

Source of the algorithm: Bertsekas and Gallager, Data Networks, 2nd edition, 1992, section 6.5.2 (max-min flow control),
here with a coefficient for each use of a resource and a rate limit for each flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """What one flow asks for. At rate x it takes ``coefficient * x`` of the capacity of each resource in ``uses``.

    ``rate_max`` is the flow's own limit, in the unit of the rates. ``uses`` holds pairs (index of a resource,
    coefficient > 0), each resource at most once. A coefficient multiplied by n stands for n flows of equal rate.
    """

    rate_max: float
    uses: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """``flows`` transfers that are alike: each has its own operations of ``bytes_per_operation`` bytes.

    ``bytes_per_s`` is what one of them could reach alone. ``byte_resources`` take a byte per byte; ``operation_uses``
    are (resource, what an operation per second takes of it). ``gap_bytes``: what an operation takes of each of the byte
    resources beyond its bytes, or empty.
    """

    flows: int
    bytes_per_s: float
    byte_resources: tuple[int, ...]
    bytes_per_operation: float
    operation_uses: tuple[tuple[int, float], ...]
    gap_bytes: tuple[float, ...] = ()


def fair_rates(demands: Sequence[Demand], capacities: Sequence[float]) -> list[float]:
    """Rate of each flow, in the order of ``demands``.

    The rates of all flows grow together from 0. A flow stops at its own limit, or together with all other growing flows
    of a resource when that resource is full. The result is max-min fair: a flow below its limit crosses a full
    resource in which no other flow is faster. Only resources that are used are looked at; ``capacities[r]`` is the
    capacity of resource r. Ties go to the lower index, so equal inputs give equal outputs.

    A round stops every flow whose limit lies below the level at which the first resource fills (stopping one of them
    only raises that level for the others); if there is none, it fills that resource and stops its flows.
    """
    rates = [0.0] * len(demands)
    growing: dict[int, dict[int, float]] = {}  # of each resource: the flows that still grow, with their coefficients
    for index, demand in enumerate(demands):
        for resource, coefficient in demand.uses:
            growing.setdefault(resource, {})[index] = coefficient
    spare = {resource: capacities[resource] for resource in growing}
    slopes = {resource: sum(flows.values()) for resource, flows in growing.items()}
    unstopped = dict.fromkeys(range(len(demands)))
    level = 0.0
    while unstopped:
        fill_level, full = _next_full(spare, slopes)
        level = max(level, fill_level)  # rounding must not let a later flow end below an earlier one
        stopping = [index for index in unstopped if demands[index].rate_max <= level] or list(growing[full])
        changed: dict[int, None] = {}
        for index in stopping:
            del unstopped[index]
            rates[index] = min(level, demands[index].rate_max)
            for resource, coefficient in demands[index].uses:
                spare[resource] -= coefficient * rates[index]
                del growing[resource][index]
                changed[resource] = None
        for resource in changed:
            if growing[resource]:  # summed anew: subtracting leaves rounding errors among unequal coefficients
                slopes[resource] = sum(growing[resource].values())
            else:
                del slopes[resource]
    return rates


def _next_full(spare: dict[int, float], slopes: dict[int, float]) -> tuple[float, int]:
    """The level at which the first resource fills, and its index; (infinity, -1) if nothing bounds anybody."""
    fill_level, full = float("inf"), -1
    for resource, slope in slopes.items():
        resource_level = spare[resource] / slope
        if resource_level < fill_level or (resource_level == fill_level and resource < full):
            fill_level, full = resource_level, resource
    return fill_level, full


def fair_byte_rates(bundles: Sequence[Bundle], capacities: Sequence[float]) -> list[float]:
    """Bytes per second of each flow of each bundle, in the order of ``bundles``.

    Bytes are shared max-min fairly. If the operations that these rates need do not fit, operations are shared first,
    max-min fairly per operation, each flow asking for what it would need alone; then bytes again, with a flow's
    operations times its bytes per operation as its limit. No capacity is exceeded either way.

    One sharing of both would not do: where many small blocks keep the poster busy, equal byte rates would slow a flow
    of large blocks down to the rate of the small ones, while a NIC takes posts in turn and the large flow needs few.
    """
    byte_uses = [_byte_uses(bundle) for bundle in bundles]
    demands = [Demand(bundle.bytes_per_s, uses) for bundle, uses in zip(bundles, byte_uses, strict=True)]
    rates = fair_rates(demands, capacities)
    if _operations_suffice(bundles, rates, capacities):
        return rates
    demands = [
        Demand(
            bundle.bytes_per_s / bundle.bytes_per_operation,
            tuple((index, bundle.flows * use) for index, use in bundle.operation_uses),
        )
        for bundle in bundles
    ]
    operation_rates = fair_rates(demands, capacities)
    demands = [
        Demand(operations_per_s * bundle.bytes_per_operation, uses)
        for bundle, operations_per_s, uses in zip(bundles, operation_rates, byte_uses, strict=True)
    ]
    return fair_rates(demands, capacities)


def _byte_uses(bundle: Bundle) -> tuple[tuple[int, float], ...]:
    if not bundle.gap_bytes:
        return tuple((index, float(bundle.flows)) for index in bundle.byte_resources)
    return tuple(
        (index, bundle.flows * (1.0 + gap_bytes / bundle.bytes_per_operation))
        for index, gap_bytes in zip(bundle.byte_resources, bundle.gap_bytes, strict=True)
    )


def _operations_suffice(bundles: Sequence[Bundle], rates: Sequence[float], capacities: Sequence[float]) -> bool:
    wanted: dict[int, float] = {}
    for bundle, bytes_per_s in zip(bundles, rates, strict=True):
        operations_per_s = bundle.flows * bytes_per_s / bundle.bytes_per_operation
        for index, use in bundle.operation_uses:
            wanted[index] = wanted.get(index, 0.0) + use * operations_per_s
    return all(load <= capacities[index] for index, load in wanted.items())
