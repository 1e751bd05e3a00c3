"""Flows over shared NICs and uplinks, to the nanosecond."""

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kvsim.core.messages import TransferKind
from kvsim.sim.clock import Clock
from kvsim.sim.hardware import GpuSpec, Hardware, MessageSpec, ModelShape, NicSpec, UplinkSpec, WorkerHardware
from kvsim.sim.message_times import MessageTimes
from kvsim.sim.network import Network

GPU = GpuSpec("gpu", 1e12, 1, 1e12, 1.0, 1.0, 1.0, 1.0, 1e9, 0, 0, 0)
MODEL = ModelShape("model", 1, 1, 1, 1, 1, 1, 1, 1, 1, False, 2, 2, 1)
NIC = NicSpec("nic", 1e9, latency_ns=1000, operation_ns=0, messages_per_s=1e12, reads_outstanding_max=1_000_000)
"""A byte a nanosecond; nothing else binds."""


def hardware(*uplinks: str | None, nic: NicSpec = NIC, nics: int = 1, uplink_bytes_per_s: float = 1e9) -> Hardware:
    """One worker for each name, behind that uplink."""
    names = sorted({name for name in uplinks if name is not None})
    return Hardware(
        MODEL,
        tuple(WorkerHardware(GPU, 1, nic, nics, uplink) for uplink in uplinks),
        tuple(UplinkSpec(name, uplink_bytes_per_s, latency_ns=5000) for name in names),
        MessageSpec(1, 0, 1.0),
        0,
    )


class Bench:
    """Starts flows at given instants and notes when each has finished."""

    def __init__(self, world: Hardware) -> None:
        self.clock = Clock()
        self.network = Network(self.clock, world)
        self.ends: dict[str, int] = {}
        self.flows: dict[str, int] = {}

    def at(self, at_ns: int, action: Callable[[], None]) -> None:
        self.clock.call_after(at_ns, action)

    def start(
        self,
        name: str,
        source: int,
        target: int,
        size_bytes: int,
        *,
        at_ns: int = 0,
        operations: int = 1,
        kind: TransferKind = "push",
    ) -> None:
        def begin() -> None:
            self.flows[name] = self.network.start(
                source,
                target,
                size_bytes=size_bytes,
                operations=operations,
                kind=kind,
                finished=partial(self._note, name),
            )

        self.clock.call_after(at_ns, begin)

    def run(self) -> dict[str, int]:
        self.clock.run()
        return self.ends

    def _note(self, name: str) -> None:
        assert name not in self.ends
        self.ends[name] = self.clock.now_ns


def test_a_flow_alone_runs_at_the_rate_of_the_slower_side() -> None:
    world = hardware(None, None)
    slow = replace(world, workers=(world.workers[0], replace(world.workers[1], nic=replace(NIC, rate_bytes_per_s=5e8))))
    for kind in ("push", "pull", "message"):
        bench = Bench(slow)
        bench.start("flow", 0, 1, 1000, at_ns=7, kind=kind)
        assert bench.run() == {"flow": 2007}


@pytest.mark.parametrize(("size_bytes", "end_ns"), [(1000, 333), (2000, 667), (3000, 1000), (1, 0)])
def test_the_end_is_rounded_to_the_nearest_nanosecond(size_bytes: int, end_ns: int) -> None:
    bench = Bench(hardware(None, None, nic=replace(NIC, rate_bytes_per_s=3e9)))
    bench.start("flow", 0, 1, size_bytes)
    assert bench.run() == {"flow": end_ns}


def test_several_nics_add_up() -> None:
    bench = Bench(hardware(None, None, nics=4))
    bench.start("flow", 0, 1, 4000)
    assert bench.run() == {"flow": 1000}


def test_two_equal_flows_take_twice_as_long() -> None:
    bench = Bench(hardware(None, None))
    bench.start("a", 0, 1, 1000)
    bench.start("b", 0, 1, 1000)
    assert bench.run() == {"a": 2000, "b": 2000}


def test_the_two_directions_of_a_nic_do_not_disturb_each_other() -> None:
    bench = Bench(hardware(None, None))
    bench.start("there", 0, 1, 1000)
    bench.start("back", 1, 0, 1000)
    assert bench.run() == {"there": 1000, "back": 1000}


def test_flows_without_a_common_worker_do_not_disturb_each_other() -> None:
    bench = Bench(hardware(None, None, None, None))
    bench.start("a", 0, 1, 1000)
    bench.start("b", 2, 3, 1000)
    assert bench.run() == {"a": 1000, "b": 1000}


def test_what_an_ended_flow_leaves_goes_to_the_others() -> None:
    """Half the rate until 2,000 ns, when the small one ends; 2,000 bytes of the large one are left at full rate."""
    bench = Bench(hardware(None, None))
    bench.start("small", 0, 1, 1000)
    bench.start("large", 0, 1, 3000)
    assert bench.run() == {"small": 2000, "large": 4000}


def test_a_flow_that_joins_slows_the_first_down_from_then_on() -> None:
    """600 bytes alone; the other 400 at half the rate until 1,400 ns; then 600 bytes of the second at full rate."""
    bench = Bench(hardware(None, None))
    bench.start("first", 0, 1, 1000)
    bench.start("second", 0, 1, 1000, at_ns=600)
    assert bench.run() == {"first": 1400, "second": 2000}


def test_a_change_is_felt_by_flows_that_share_nothing_with_it_directly() -> None:
    """Three flows into 3 get a third each. One of them comes from 0, so 0->2 gets the other two thirds of transmit.

    After 1,500 ns one of them is through and the other two get half each, as does 0->2, until they end at 2,500 ns.
    """
    bench = Bench(hardware(None, None, None, None))
    bench.start("0->2", 0, 2, 2000)
    bench.start("0->3", 0, 3, 1000)
    bench.start("1->3", 1, 3, 1000)
    bench.start("1->3 too", 1, 3, 500)
    assert bench.run() == {"0->2": 3000, "0->3": 2500, "1->3": 2500, "1->3 too": 1500}


def test_an_uplink_is_shared_by_those_who_leave_the_segment_only() -> None:
    bench = Bench(hardware("a", "a", "a", "b", "b"))
    bench.start("out 1", 0, 3, 1000)
    bench.start("out 2", 1, 4, 1000)
    bench.start("inside", 2, 1, 1000)
    assert bench.run() == {"out 1": 2000, "out 2": 2000, "inside": 1000}


def test_the_two_directions_of_an_uplink_do_not_disturb_each_other() -> None:
    bench = Bench(hardware("a", "a", "b", "b"))
    bench.start("out", 0, 2, 1000)
    bench.start("in", 3, 1, 1000)
    assert bench.run() == {"out": 1000, "in": 1000}


def test_a_slow_uplink_bounds_a_single_flow() -> None:
    bench = Bench(hardware("a", None, uplink_bytes_per_s=1e8))
    bench.start("flow", 0, 1, 1000)
    assert bench.run() == {"flow": 10_000}


def test_latency_is_the_slower_nic_and_every_uplink_on_the_way() -> None:
    world = hardware("a", "a", "b", None)
    slow = replace(world, workers=(*world.workers[:3], replace(world.workers[3], nic=replace(NIC, latency_ns=3000))))
    network = Network(Clock(), slow)
    assert network.latency_ns(0, 1) == 1000
    assert network.latency_ns(0, 2) == network.latency_ns(2, 0) == 1000 + 2 * 5000
    assert network.latency_ns(0, 3) == 3000 + 5000


def test_small_blocks_are_bound_by_posting() -> None:
    """10 operations of 100 ns each by one NIC, or by two NICs side by side, while the bytes would take 100 or 50 ns."""
    for nics, end_ns in ((1, 1000), (2, 500)):
        bench = Bench(hardware(None, None, nic=replace(NIC, operation_ns=100), nics=nics))
        bench.start("flow", 0, 1, 100, operations=10)
        assert bench.run() == {"flow": end_ns}


@pytest.mark.parametrize(("kind", "busy"), [("push", 0), ("message", 0), ("pull", 1)])
def test_the_initiator_posts(kind: TransferKind, busy: int) -> None:
    world = hardware(None, None)
    workers = list(world.workers)
    workers[busy] = replace(workers[busy], nic=replace(NIC, operation_ns=100))
    bench = Bench(replace(world, workers=tuple(workers)))
    bench.start("flow", 0, 1, 100, operations=10, kind=kind)
    assert bench.run() == {"flow": 1000}


def test_two_flows_of_small_blocks_share_the_poster() -> None:
    bench = Bench(hardware(None, None, None, nic=replace(NIC, operation_ns=100)))
    bench.start("a", 0, 1, 100, operations=10)
    bench.start("b", 0, 2, 100, operations=10)
    assert bench.run() == {"a": 2000, "b": 2000}


def test_small_blocks_do_not_slow_large_ones_down_to_their_rate() -> None:
    """Of 1e7 posts/s the large flow needs 1e5 to have all bytes. The small one gets the other 99e5, of 10 bytes each,
    99e6 bytes/s, and the large one the other 901e6. The wire is busy from the first byte to the last."""
    bench = Bench(hardware(None, None, nic=replace(NIC, operation_ns=100)))
    bench.start("small", 0, 1, 1000, operations=100)
    bench.start("large", 0, 1, 9_010_000, operations=901)
    assert bench.run() == {"small": 10_101, "large": 9_011_000}


def test_message_rate_bounds_operations_on_either_side() -> None:
    world = hardware(None, None)
    for busy in (0, 1):
        workers = list(world.workers)
        workers[busy] = replace(workers[busy], nic=replace(NIC, messages_per_s=1e6))
        bench = Bench(replace(world, workers=tuple(workers)))
        bench.start("flow", 0, 1, 100, operations=10)
        assert bench.run() == {"flow": 10_000}


def test_reads_are_bound_by_how_many_may_be_in_flight() -> None:
    """2 NICs with 4 READs in flight each, a round trip of 2,000 ns: 8 READs of 10 bytes every 2,000 ns."""
    world = hardware(None, None, nic=replace(NIC, reads_outstanding_max=4), nics=2)
    bench = Bench(world)
    bench.start("read", 0, 1, 160, operations=16, kind="pull")
    assert bench.run() == {"read": 4000}
    bench = Bench(world)
    bench.start("write", 0, 1, 160, operations=16, kind="push")
    assert bench.run() == {"write": 80}


def test_uplinks_lengthen_the_round_trip_of_reads() -> None:
    """One READ of 10 bytes at a time, 2 * (1,000 + 5,000 + 5,000) ns each."""
    bench = Bench(hardware("a", "b", nic=replace(NIC, reads_outstanding_max=1)))
    bench.start("read", 0, 1, 30, operations=3, kind="pull")
    assert bench.run() == {"read": 66_000}


def test_flows_that_end_together_finish_in_order_of_start() -> None:
    bench = Bench(hardware(None, None, None, None))
    bench.start("second", 2, 3, 500, at_ns=500)
    bench.start("first", 0, 1, 1000)
    bench.start("third", 1, 0, 250, at_ns=750)
    assert list(bench.run().items()) == [("first", 1000), ("second", 1000), ("third", 1000)]


def test_no_bytes_take_no_time_and_disturb_nobody() -> None:
    bench = Bench(hardware(None, None))
    bench.start("nothing", 0, 1, 0, at_ns=300, operations=0)
    bench.start("flow", 0, 1, 1000)
    assert bench.run() == {"nothing": 300, "flow": 1000}


def test_a_callback_may_start_the_next_flow() -> None:
    clock = Clock()
    network = Network(clock, hardware(None, None))
    ends: list[int] = []

    def again() -> None:
        ends.append(clock.now_ns)
        if len(ends) < 3:
            network.start(0, 1, size_bytes=1000, operations=1, kind="push", finished=again)

    again()
    clock.run()
    assert ends == [0, 1000, 2000]


FLOWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(1, 3),
        st.integers(1, 5000),
        st.integers(1, 50),
        st.integers(0, 5000),
        st.sampled_from(("push", "pull", "message")),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=50)
@given(FLOWS)
def test_every_flow_ends_once_no_sooner_than_alone_and_no_later_than_one_by_one(
    flows: list[tuple[int, int, int, int, int, TransferKind]],
) -> None:
    world = hardware("a", "a", "b", None, nic=replace(NIC, operation_ns=20, reads_outstanding_max=100))
    bench = Bench(world)
    alone_ns = []
    for number, (source, distance, size_bytes, operations, at_ns, kind) in enumerate(flows):
        target = (source + distance) % 4
        bench.start(str(number), source, target, size_bytes, at_ns=at_ns, operations=operations, kind=kind)
        single = Bench(world)
        single.start("alone", source, target, size_bytes, operations=operations, kind=kind)
        alone_ns.append(single.run()["alone"])
    ends = bench.run()
    assert len(ends) == len(flows)
    for number, flow in enumerate(flows):
        assert ends[str(number)] - flow[4] >= alone_ns[number] - 1
    assert max(ends.values()) <= max(flow[4] for flow in flows) + sum(alone_ns) + len(flows)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(2, 3), st.integers(1, 5000), st.integers(0, 5000)),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.integers(0, 10_000), max_size=8),
)
def test_sharing_anew_without_need_changes_no_end(
    flows: list[tuple[int, int, int, int]], reads_at_ns: list[int]
) -> None:
    """Worker 0 also reads from worker 4. That makes its writes share anew, as it posts both, but takes nothing."""
    ends = []
    for instants_ns in ([], reads_at_ns):
        bench = Bench(hardware("a", "a", None, None, None))
        for number, (source, target, size_bytes, at_ns) in enumerate(flows):
            bench.start(str(number), source, target, size_bytes, at_ns=at_ns)
        for number, at_ns in enumerate(instants_ns):
            bench.start(f"read {number}", 4, 0, 100, at_ns=at_ns, kind="pull")
        ends.append({name: end_ns for name, end_ns in bench.run().items() if "read" not in name})
    assert ends[0] == ends[1]


@pytest.mark.parametrize("kind", ["push", "pull", "message"])
def test_a_transfer_alone_takes_what_was_measured(kind: TransferKind) -> None:
    """10,000 bytes in 60 us of which 1 us is latency: 59 us until the last byte has left, at a byte a nanosecond 10."""
    nic = replace(NIC, message_times=MessageTimes((1000, 10_000), (20_000, 60_000)))
    bench = Bench(hardware(None, None, nic=nic))
    bench.start("flow", 0, 1, 10_000, kind=kind)
    assert bench.run() == {"flow": 59_000}


def test_the_slower_end_of_a_transfer_counts() -> None:
    world = hardware(None, None)
    slow = replace(NIC, message_times=MessageTimes((1000,), (41_000,)))
    for end in (0, 1):
        workers = list(world.workers)
        workers[end] = replace(workers[end], nic=slow)
        bench = Bench(replace(world, workers=tuple(workers)))
        bench.start("flow", 0, 1, 10_000)
        assert bench.run() == {"flow": 40_000}


def test_what_was_measured_cannot_beat_rate_and_operations() -> None:
    nic = replace(NIC, operation_ns=100, message_times=MessageTimes((1000,), (1000,)))
    bench = Bench(hardware(None, None, nic=nic))
    bench.start("bytes", 0, 1, 10_000)
    bench.start("operations", 1, 0, 10_000, operations=1000)
    assert bench.run() == {"bytes": 10_000, "operations": 100_000}


def test_each_of_several_nics_carries_its_share() -> None:
    """20,000 bytes over two NICs: each takes 10,000, 60 us with 1 us of latency."""
    nic = replace(NIC, message_times=MessageTimes((1000, 10_000), (20_000, 60_000)))
    bench = Bench(hardware(None, None, nic=nic, nics=2))
    bench.start("flow", 0, 1, 20_000)
    assert bench.run() == {"flow": 59_000}


def test_two_transfers_at_once_share_the_rate_and_keep_their_own_limits() -> None:
    """Alone 1,000 bytes move in 19 us and 10,000 in 59 us: both together are far below a byte a nanosecond."""
    nic = replace(NIC, message_times=MessageTimes((1000, 10_000), (20_000, 60_000)))
    bench = Bench(hardware(None, None, nic=nic))
    bench.start("small", 0, 1, 1000)
    bench.start("large", 0, 1, 10_000)
    ends = bench.run()
    assert ends["small"] == pytest.approx(19_000, rel=0.02)  # rates are whole bytes per second
    assert ends["large"] == pytest.approx(59_000, rel=0.001)


@pytest.mark.parametrize("kind", ["push", "pull", "message"])
def test_a_gap_comes_on_top_of_the_bytes_of_each_operation(kind: TransferKind) -> None:
    """10 operations of 1,000 bytes at a byte a nanosecond, each with 250 ns in which nothing else moves."""
    bench = Bench(hardware(None, None, nic=replace(NIC, gap_ns=250)))
    bench.start("flow", 0, 1, 10_000, operations=10, kind=kind)
    assert bench.run() == {"flow": 12_500}


def test_the_longer_gap_of_the_two_ends_counts_and_posting_may_still_be_slower() -> None:
    world = hardware(None, None, nic=replace(NIC, gap_ns=100))
    for end in (0, 1):
        workers = list(world.workers)
        workers[end] = replace(workers[end], nic=replace(NIC, gap_ns=250))
        bench = Bench(replace(world, workers=tuple(workers)))
        bench.start("flow", 0, 1, 10_000, operations=10)
        assert bench.run() == {"flow": 12_500}
    posting = replace(NIC, gap_ns=250, operation_ns=2000)
    bench = Bench(hardware(None, None, nic=posting))
    bench.start("flow", 0, 1, 10_000, operations=10)
    assert bench.run() == {"flow": 20_000}


def test_gaps_of_several_nics_pass_side_by_side() -> None:
    bench = Bench(hardware(None, None, nic=replace(NIC, gap_ns=250), nics=2))
    bench.start("flow", 0, 1, 20_000, operations=20)
    assert bench.run() == {"flow": 12_500}


def test_gaps_are_shared_like_the_bytes() -> None:
    """Into one worker: each flow is as long as alone twice over, and a gap takes what bytes do not get."""
    bench = Bench(hardware(None, None, None, nic=replace(NIC, gap_ns=1000)))
    bench.start("one", 0, 2, 10_000, operations=10)
    bench.start("other", 1, 2, 10_000, operations=10)
    assert bench.run() == {"one": 40_000, "other": 40_000}
    mixed = Bench(hardware(None, None, None, nic=replace(NIC, gap_ns=1000)))
    mixed.start("small", 0, 2, 10_000, operations=10)  # 20 us of the link
    mixed.start("large", 1, 2, 10_000, operations=1)  # 11 us of the link
    ends = mixed.run()
    assert max(ends.values()) == pytest.approx(31_000, abs=2)


def test_a_slowed_nic_stretches_gaps_as_it_stretches_bytes() -> None:
    bench = Bench(hardware(None, None, nic=replace(NIC, gap_ns=250)))
    bench.at(0, lambda: bench.network.set_nics(0, rate_share=0.5, nics_share=1.0, extra_ns=0))
    bench.start("flow", 0, 1, 10_000, at_ns=1, operations=10)
    assert bench.run() == {"flow": 25_001}
