"""The fit of a simulated NIC to measured transfers, and the file that holds it."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from backends.transport.bench import IdleRow, TransferBench, TransferRow
from backends.transport.bench_report import notes, profiles, transfer_table, write_profiles
from backends.transport.link_profile import LinkPoint, fit_link, link_profile, nic_fields, profile_yaml
from kvsim.presets.fields import NicFields

BLOCKS = (2**12, 2**14, 2**16, 2**18, 2**20)


def points_of(rate_bytes_per_s: float, operation_ns: int, latency_ns: int) -> list[LinkPoint]:
    """What the simulator's NIC would measure: n blocks take max(n b / rate, n op), one block a round trip more."""
    points = []
    for block_bytes in BLOCKS:
        one_ns = max(block_bytes / rate_bytes_per_s * 1e9, operation_ns)
        points.append(LinkPoint(block_bytes, block_bytes / one_ns * 1e9, one_ns + 2 * latency_ns))
    return points


def test_a_link_with_a_knee_is_found_again() -> None:
    # 4 KiB at 2 us an operation are 2.048 GB/s, 16 KiB would be 8.192: the knee lies between them
    fit = fit_link(points_of(6e9, 2000, 15_000))
    assert fit.rate_bytes_per_s == pytest.approx(6e9)
    assert (fit.operation_ns, fit.latency_ns) == (2000, 15_000)
    assert fit.error < 1e-9


def test_a_link_whose_rate_does_not_depend_on_the_block_has_free_operations() -> None:
    fit = fit_link(points_of(6e9, 0, 1000))
    assert fit.rate_bytes_per_s == pytest.approx(6e9)
    assert (fit.operation_ns, fit.latency_ns) == (0, 1000)


def test_a_rounded_knee_is_a_gap() -> None:
    # as of a copy with a cost per block: 1/rate + gap/block, here 6 GB/s and 500 ns
    points = [LinkPoint(block, 1 / (1 / 6e9 + 500e-9 / block), block / 6 + 500 + 2 * 1900) for block in BLOCKS]
    fit = fit_link(points)
    assert fit.rate_bytes_per_s == pytest.approx(6e9)
    assert (fit.operation_ns, fit.gap_ns) == (0, 500)
    assert fit.latency_ns == 1900
    assert fit.error < 1e-9


def test_posting_and_a_gap_are_told_apart() -> None:
    # 4 KiB wait for the poster, 3 us each; from 16 KiB on a gap of 800 ns comes on top of the bytes at 6 GB/s
    times_ns = [max(3000.0, block / 6e9 * 1e9 + 800) for block in BLOCKS]
    fit = fit_link(
        [LinkPoint(block, block / one_ns * 1e9, 1e5) for block, one_ns in zip(BLOCKS, times_ns, strict=True)]
    )
    assert fit.rate_bytes_per_s == pytest.approx(6e9)
    assert (fit.operation_ns, fit.gap_ns) == (3000, 800)


def test_a_gap_that_explains_less_than_noise_is_none() -> None:
    # 0.2 % off at the smallest block
    fit = fit_link([LinkPoint(block, 6e9 * (0.998 if block == 4096 else 1), 1e5) for block in BLOCKS])
    assert fit.gap_ns == 0


def test_the_latency_is_as_near_as_can_be_to_one_block_alone_of_every_size() -> None:
    # beyond their bytes 2 us are left of 3, and 3 us of 5: (2 / 3**2 + 3 / 5**2) / (1 / 3**2 + 1 / 5**2) = 2.2647 us
    fit = fit_link([LinkPoint(4096, 4.096e9, 3000.0), LinkPoint(8192, 4.096e9, 5000.0)])
    assert fit.latency_ns == 1132


def test_a_latency_below_the_time_of_the_bytes_counts_as_none() -> None:
    assert fit_link([LinkPoint(4096, 1e9, 1000.0)]).latency_ns == 0


def test_points_may_come_in_any_order() -> None:
    points = points_of(3e9, 3000, 10_000)
    assert fit_link(points[::-1]) == fit_link(points)


@given(
    rate=st.floats(1e8, 1e11),
    operation_ns=st.integers(1, 100_000),
    latency_ns=st.integers(0, 1_000_000),
    scale=st.floats(0.5, 2.0),
)
def test_a_uniformly_faster_link_has_a_fit_that_is_faster_by_as_much(
    rate: float, operation_ns: int, latency_ns: int, scale: float
) -> None:
    points = points_of(rate, operation_ns, latency_ns)
    faster = [LinkPoint(point.block_bytes, point.bytes_per_s * scale, point.latency_ns) for point in points]
    assert fit_link(faster).rate_bytes_per_s == pytest.approx(fit_link(points).rate_bytes_per_s * scale, rel=1e-6)


@given(rate=st.floats(1e8, 1e11), operation_ns=st.integers(0, 100_000), latency_ns=st.integers(0, 1_000_000))
def test_the_fields_are_a_nic_that_scenarios_accept(rate: float, operation_ns: int, latency_ns: int) -> None:
    fit = fit_link(points_of(rate, operation_ns, latency_ns))
    nic = NicFields.model_validate(nic_fields("measured", fit)).value()
    assert nic.rate_bytes_per_s == pytest.approx(fit.rate_bytes_per_s, rel=1e-3)
    assert (nic.latency_ns, nic.operation_ns, nic.gap_ns) == (fit.latency_ns, fit.operation_ns, fit.gap_ns)
    # neither bound that was not measured slows a READ down: operations per second against Little's law
    assert nic.messages_per_s >= 1e9 / max(1, fit.operation_ns) * (1 - 1e-5)
    reads_per_s = 1e9 / max(1, fit.operation_ns, fit.gap_ns)
    assert nic.reads_outstanding_max >= min(10**9, reads_per_s * 2e-9 * fit.latency_ns)


def test_a_profile_file_holds_numbers_points_and_a_nic() -> None:
    text = profile_yaml(
        link_profile("tcp", "read", points_of(6e9, 2000, 15_000), total_bytes=2**26, origin="a test", date="2026-11-22")
    )
    read = yaml.safe_load(text)
    assert (read["origin"], read["date"], read["transport"]) == ("a test", "2026-11-22", "tcp")
    assert read["rate_bytes_per_s"] == pytest.approx(6e9)
    assert (read["base_latency_ns"], read["operation_ns"]) == (15_000, 2000)
    assert [point["block_bytes"] for point in read["points"]] == list(BLOCKS)
    assert read["nic"]["rate"] == "6 GB/s"
    assert (read["nic"]["latency"], read["nic"]["operation"]) == ("15 us", "2 us")


def bench(*transports: str, other_cores: float = 0.0) -> TransferBench:
    """A made-up result: 2 GB/s for READs of 512 MiB, 1 GB/s for everything else, one block takes 50 us more."""
    rows = tuple(
        TransferRow(
            transport, operation, total, block, 2e9 if (operation, total) == ("read", 2**29) else 1e9,
            4e9, 0.5, 2e9, 1.0, block / 2 + 50_000.0, 0, other_cores,
        )
        for transport in transports
        for total in (2**26, 2**29)
        for operation in ("read", "write")
        for block in BLOCKS
    )  # fmt: skip
    return TransferBench(rows, (IdleRow(transports[0], 0.001, 2.0),), {"nixl": "nixl-cu12 is not installed"})


def test_a_profile_comes_from_the_reads_of_the_largest_total() -> None:
    (profile,) = profiles(bench("shm"), "2026-11-22")
    assert profile.rate_bytes_per_s == pytest.approx(2e9)
    assert len(profile.points) == len(BLOCKS)
    assert profile.base_latency_ns == 25_000


def test_one_transport_is_written_to_the_file_itself_and_several_beside_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "new" / "link.yaml"
    assert write_profiles(out, profiles(bench("shm"), "2026-11-22")) == [out]
    assert write_profiles(out, profiles(bench("shm", "tcp"), "2026-11-22")) == [
        out.with_name("link-shm.yaml"),
        out.with_name("link-tcp.yaml"),
    ]
    assert yaml.safe_load(out.with_name("link-tcp.yaml").read_text())["transport"] == "tcp"


def test_the_table_has_a_row_for_each_cell_and_marks_a_busy_machine() -> None:
    result = bench("shm", "tcp", other_cores=0.8)
    table = transfer_table(result)
    assert table.row_count == len(result.rows)
    assert next(iter(table.columns[4].cells)) == "1 GB/s*"
    assert notes(result) == [
        "shm: idle owner 0.1% of a core, 2 wake-ups/s",
        "*: other processes kept more than 0.5 cores busy meanwhile",
        "nixl: skipped, nixl-cu12 is not installed",
    ]
