"""What transport verbs is measured beside, as far as it shows without a device: perftest's output, the report."""

import pytest

from backends.transport.bench import TransferBench, TransferRow
from backends.transport.bench_beside import open_beside
from backends.transport.bench_perftest import figure, missing
from backends.transport.bench_report import transfer_table

READ_BW = """\
---------------------------------------------------------------------------------------
 #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]   MsgRate[Mpps]
 65536      500              1.39               1.33   		   0.002546
---------------------------------------------------------------------------------------
"""
"""As ib_read_bw 4.5 prints it with --report_gbits."""

READ_LAT = """\
 #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]
 4096    500          31.99          10130.54      39.22    	       41.76       	18.17  		108.81
"""


def test_perftests_average_is_read_as_bytes_per_second_and_its_typical_latency_as_nanoseconds() -> None:
    assert figure(READ_BW, "ib_read_bw", 65536) == pytest.approx(1.33e9 / 8)
    assert figure(READ_LAT, "ib_read_lat", 4096) == pytest.approx(39_220)


def test_a_row_of_another_size_or_none_is_no_figure() -> None:
    assert figure(READ_BW, "ib_read_bw", 4096) is None
    assert figure("Couldn't connect to 127.0.0.1:18515", "ib_read_bw", 65536) is None


def test_a_rate_of_zero_is_shown_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from backends.transport import bench_perftest

    asked: list[int] = []

    def run(_program: object, _place: object, _block_bytes: int, iterations: int) -> str:
        asked.append(iterations)
        return READ_BW.replace("1.33", "0.00")

    monkeypatch.setattr(bench_perftest, "_run", run)
    place = bench_perftest.Place("rxe0", 1, 1)
    assert bench_perftest.measured("ib_read_bw", place, 65536, 2**24) is None
    assert asked == [256] * 3  # 16 MiB in blocks of 64 KiB, and again
    asked.clear()
    bench_perftest.measured("ib_read_lat", place, 2**20, 2**24)
    assert asked == [100] * 3


def test_programs_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert missing() == "ib_read_bw, ib_write_bw, ib_read_lat not found: install the package perftest"


def test_other_transports_have_nothing_beside_them() -> None:
    with open_beside("shm", 1 << 20) as beside:
        assert beside is None


def row(**beside: float) -> TransferRow:
    return TransferRow("verbs", "read", 2**24, 2**16, 2e8, 4e9, 0.05, 2e9, 0.1, 5e4, 0, 0.0, **beside)


def test_the_table_shows_what_was_measured_beside_and_blanks_where_perftest_said_nothing() -> None:
    full = row(
        chain_bytes_per_s=2.1e8,
        chain_ratio=0.96,
        chain_latency_ns=4e4,
        perftest_bytes_per_s=2.5e8,
        perftest_latency_ns=3e4,
    )
    silent = row(chain_bytes_per_s=2.1e8, chain_ratio=0.96, chain_latency_ns=4e4)
    table = transfer_table(TransferBench((full, silent), (), {}))
    shown = {str(column.header): list(column.cells) for column in table.columns}
    assert shown["x chain"] == ["0.96", "0.96"]
    assert shown["perftest"] == ["250 MB/s", ""]
    assert shown["x perftest"] == ["0.80", ""]
    assert shown["chain's"] == ["40 us", "40 us"]
    assert shown["ib_read_lat"] == ["30 us", ""]


def test_without_verbs_the_table_has_no_such_columns() -> None:
    headers = [str(column.header) for column in transfer_table(TransferBench((row(),), (), {})).columns]
    assert headers == ["transport", "operation", "total", "block", "rate", "x memcpy", "x stream", "one block", "wrong"]
