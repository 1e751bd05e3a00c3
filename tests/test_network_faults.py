"""Links whose rate and latency change while bytes flow, and flows that are taken back; to the nanosecond."""

import pytest
from msgspec.structs import replace
from test_network import NIC, Bench, hardware


def test_a_link_at_a_quarter_of_its_rate_takes_four_times_as_long_for_what_is_left() -> None:
    """400 bytes at a byte a nanosecond, 600 at a quarter of that: 400 + 2,400."""
    bench = Bench(hardware(None, None))
    bench.start("flow", 0, 1, 1000)
    bench.at(400, lambda: bench.network.set_nics(1, rate_share=0.25, nics_share=1.0, extra_ns=0))
    assert bench.run() == {"flow": 2800}


def test_a_link_that_is_down_moves_nothing_and_goes_on_where_it_was() -> None:
    bench = Bench(hardware(None, None))
    bench.start("flow", 0, 1, 1000)
    bench.at(400, lambda: bench.network.set_nics(0, rate_share=0.0, nics_share=1.0, extra_ns=0))
    bench.at(5400, lambda: bench.network.set_nics(0, rate_share=1.0, nics_share=1.0, extra_ns=0))
    assert bench.run() == {"flow": 6000}


def test_what_a_slow_link_cannot_take_goes_to_others() -> None:
    """Both get half of worker 2's NIC, 500 bytes each until 1,000; then a gets a tenth and b nine: b has 500 left for
    556 ns. a has 444.4 left then, still at a tenth of a byte a nanosecond."""
    bench = Bench(hardware(None, None, None))
    bench.start("a", 0, 2, 1000)
    bench.start("b", 1, 2, 1000)
    bench.at(1000, lambda: bench.network.set_nics(0, rate_share=0.1, nics_share=1.0, extra_ns=0))
    assert bench.run() == {"b": 1556, "a": 6000}


def test_a_lost_nic_takes_its_share_of_rate_and_of_posting() -> None:
    posting = replace(NIC, operation_ns=100)  # 10 operations of 100 bytes: posting binds with two NICs and with one
    for nics_share, end_ns in ((1.0, 500), (0.5, 1000)):
        bench = Bench(hardware(None, None, nic=posting, nics=2))
        bench.network.set_nics(0, rate_share=1.0, nics_share=nics_share, extra_ns=0)
        bench.start("flow", 0, 1, 100, operations=10)
        assert bench.run() == {"flow": end_ns}


def test_a_slow_uplink_slows_those_who_cross_it() -> None:
    bench = Bench(hardware("site", "site", None))
    bench.network.set_uplink("site", rate_share=0.5, extra_ns=0)
    bench.start("inside", 0, 1, 1000)
    bench.start("across", 1, 2, 1000)
    assert bench.run() == {"inside": 1000, "across": 2000}


def test_latency_on_top_counts_once_for_each_link_on_the_way() -> None:
    bench = Bench(hardware("site", None))
    assert bench.network.latency_ns(0, 1) == 1000 + 5000
    bench.network.set_nics(0, rate_share=1.0, nics_share=1.0, extra_ns=300)
    bench.network.set_uplink("site", rate_share=1.0, extra_ns=40)
    assert bench.network.latency_ns(0, 1) == bench.network.latency_ns(1, 0) == 6340


def test_latency_on_top_leaves_fewer_reads_in_flight() -> None:
    """One READ of 100 bytes in flight: a round trip of 2,000 ns each, and of 4,000 with 1,000 ns on top."""
    bench = Bench(hardware(None, None, nic=replace(NIC, reads_outstanding_max=1)))
    bench.start("flow", 0, 1, 400, operations=4, kind="pull")
    bench.at(4000, lambda: bench.network.set_nics(0, rate_share=1.0, nics_share=1.0, extra_ns=1000))
    assert bench.run() == {"flow": 4000 + 2 * 4000}


def test_a_flow_that_is_cancelled_leaves_its_rate_to_the_others_and_never_ends() -> None:
    """250 bytes each until 500, then 750 alone."""
    bench = Bench(hardware(None, None))
    bench.start("kept", 0, 1, 1000)
    bench.start("cancelled", 0, 1, 1000)
    bench.at(500, lambda: bench.network.cancel(bench.flows["cancelled"]))
    assert bench.run() == {"kept": 1250}


@pytest.mark.parametrize("size_bytes", [0, 1000])
def test_to_cancel_a_flow_that_has_ended_changes_nothing(size_bytes: int) -> None:
    bench = Bench(hardware(None, None))
    bench.start("flow", 0, 1, size_bytes)
    bench.start("other", 1, 0, 3000)
    bench.at(2000, lambda: bench.network.cancel(bench.flows["flow"]))
    assert bench.run() == {"flow": size_bytes, "other": 3000}
