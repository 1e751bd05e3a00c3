"""Max-min fair sharing: cases computed by hand, and the laws that every result obeys."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.sim.fairshare import Bundle, Demand, fair_byte_rates, fair_rates

UNLIMITED = float("inf")
ROUNDING = 1e-9


def crossing(*resources: int, rate_max: float = UNLIMITED) -> Demand:
    return Demand(rate_max, tuple((resource, 1.0) for resource in resources))


def test_two_equal_flows_on_one_link_get_half_each() -> None:
    assert fair_rates([crossing(0), crossing(0)], [10.0]) == [5.0, 5.0]


def test_one_sender_to_two_receivers_is_bound_by_its_transmit_side() -> None:
    assert fair_rates([crossing(0, 1), crossing(0, 2)], [10.0, 10.0, 10.0]) == [5.0, 5.0]


def test_what_a_slow_receiver_cannot_take_goes_to_the_other() -> None:
    assert fair_rates([crossing(0, 1), crossing(0, 2)], [10.0, 2.0, 10.0]) == [2.0, 8.0]


def test_parking_lot_gives_the_long_flow_the_share_of_its_tightest_link() -> None:
    """The long flow crosses both links; each link has a flow of its own; the second link has two."""
    flows = [crossing(0, 1), crossing(0), crossing(1), crossing(1)]
    assert fair_rates(flows, [10.0, 12.0]) == [4.0, 6.0, 4.0, 4.0]


def test_a_flow_below_its_fair_share_leaves_the_rest_to_the_others() -> None:
    flows = [crossing(0, rate_max=1.0), crossing(0, rate_max=4.0), crossing(0)]
    assert fair_rates(flows, [12.0]) == [1.0, 4.0, 7.0]


def test_a_coefficient_makes_a_flow_fill_its_resource_sooner() -> None:
    """Level x fills the resource of capacity 12 when x + 3 x = 12."""
    flows = [Demand(UNLIMITED, ((0, 1.0),)), Demand(UNLIMITED, ((0, 3.0),))]
    assert fair_rates(flows, [12.0]) == [3.0, 3.0]


def test_a_flow_that_nothing_bounds_runs_at_its_own_limit() -> None:
    assert fair_rates([Demand(7.0, ())], []) == [7.0]
    assert fair_rates([], []) == []


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Demand], list[float]]:
    capacities = draw(st.lists(st.floats(1.0, 1e6), min_size=1, max_size=6))
    one_use = st.tuples(st.integers(0, len(capacities) - 1), st.floats(0.01, 100.0))
    uses = st.lists(one_use, min_size=1, max_size=4, unique_by=lambda use: use[0]).map(tuple)
    limits = st.one_of(st.just(UNLIMITED), st.floats(0.1, 1e6))
    return draw(st.lists(st.builds(Demand, limits, uses), min_size=1, max_size=10)), capacities


def loads(demands: list[Demand], rates: list[float], resources: int) -> list[float]:
    sums = [0.0] * resources
    for demand, rate in zip(demands, rates, strict=True):
        for resource, coefficient in demand.uses:
            sums[resource] += coefficient * rate
    return sums


@given(problems())
def test_no_resource_is_over_its_capacity_and_no_flow_over_its_limit(problem: tuple[list[Demand], list[float]]) -> None:
    demands, capacities = problem
    rates = fair_rates(demands, capacities)
    assert all(rate <= demand.rate_max for rate, demand in zip(rates, demands, strict=True))
    used = loads(demands, rates, len(capacities))
    assert all(load <= capacity * (1 + ROUNDING) for load, capacity in zip(used, capacities, strict=True))


@given(problems())
def test_a_flow_below_its_limit_is_the_fastest_of_a_full_resource(problem: tuple[list[Demand], list[float]]) -> None:
    demands, capacities = problem
    rates = fair_rates(demands, capacities)
    used = loads(demands, rates, len(capacities))
    for demand, rate in zip(demands, rates, strict=True):
        if rate == demand.rate_max:
            continue
        bottlenecks = []
        for resource, _ in demand.uses:
            rivals = [other for rival, other in zip(demands, rates, strict=True) if resource in dict(rival.uses)]
            full = used[resource] >= capacities[resource] * (1 - ROUNDING)
            bottlenecks.append(full and rate >= max(rivals) * (1 - ROUNDING))
        assert any(bottlenecks)


@given(problems())
def test_the_order_of_the_flows_does_not_matter(problem: tuple[list[Demand], list[float]]) -> None:
    demands, capacities = problem
    backwards = fair_rates(demands[::-1], capacities)[::-1]
    assert fair_rates(demands, capacities) == pytest.approx(backwards, rel=1e-9)


def bundle(size_bytes: float, flows: int = 1, bytes_per_s: float = 1000.0) -> Bundle:
    """Crosses byte resource 0; its operations count once at resource 1."""
    return Bundle(flows, bytes_per_s, (0,), size_bytes, ((1, 1.0),))


def test_transfers_share_bytes_where_operations_suffice() -> None:
    """500 B/s each of 10 B and 100 B per operation need 50 + 5 operations/s."""
    assert fair_byte_rates([bundle(10), bundle(100)], [1000.0, 55.0]) == [500.0, 500.0]


def test_small_operations_bound_by_the_message_rate_do_not_slow_large_ones_down() -> None:
    """Alone they would need 100 and 5 operations/s of 40: 35 and 5 are left to them, 350 and 1000 B/s, of 1000 B/s."""
    assert fair_byte_rates([bundle(10), bundle(200)], [1000.0, 40.0]) == [350.0, 650.0]


def test_two_flows_with_small_operations_share_the_poster() -> None:
    assert fair_byte_rates([bundle(10), bundle(10)], [1000.0, 40.0]) == [200.0, 200.0]


def test_a_bundle_stands_for_as_many_equal_flows() -> None:
    for capacities in ([1000.0, 1000.0], [1000.0, 40.0]):
        apart = fair_byte_rates([bundle(10), bundle(10), bundle(10), bundle(50)], capacities)
        together = fair_byte_rates([bundle(10, flows=3), bundle(50)], capacities)
        assert apart == pytest.approx([together[0]] * 3 + [together[1]], rel=1e-12)


@given(st.lists(st.floats(1.0, 1000.0), min_size=1, max_size=8), st.floats(1.0, 1e5), st.floats(0.1, 1e4))
def test_neither_bytes_nor_operations_exceed_their_capacity(
    sizes: list[float], bytes_per_s: float, operations_per_s: float
) -> None:
    bundles = [bundle(size, bytes_per_s=bytes_per_s) for size in sizes]
    rates = fair_byte_rates(bundles, [bytes_per_s, operations_per_s])
    assert sum(rates) <= bytes_per_s * (1 + ROUNDING)
    operations = sum(rate / size for rate, size in zip(rates, sizes, strict=True))
    assert operations <= operations_per_s * (1 + ROUNDING)
    by_size = sorted(zip(sizes, rates, strict=True))
    assert all(slower[1] <= faster[1] * (1 + ROUNDING) for slower, faster in pairwise(by_size))
