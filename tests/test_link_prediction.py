"""The simulator's link, fitted to a measured curve, must give that curve back."""

import pytest
from rich.console import Console

from backends.transport.link_profile import LinkPoint, fit_link, nic_fields
from kvsim.link_prediction import predict, prediction_table

TOTAL_BYTES = 64 * 2**20
BLOCKS = (2**12, 2**14, 2**16, 2**18, 2**20)


def points(rates_mb_per_s: tuple[float, ...], latencies_us: tuple[float, ...]) -> list[tuple[int, float, float]]:
    return [
        (block, rate * 1e6, latency * 1e3)
        for block, rate, latency in zip(BLOCKS, rates_mb_per_s, latencies_us, strict=True)
    ]


def fitted(curve: list[tuple[int, float, float]]) -> dict[str, object]:
    return nic_fields("measured", fit_link([LinkPoint(*point) for point in curve]))


def test_a_link_of_gap_rate_and_latency_is_predicted_to_the_rounding_of_its_fields() -> None:
    """2 GB/s, 3 us between operations, 10 us one way; the benchmark times the round trip with the bytes."""
    times_ns = [block / 2 + 3000 for block in BLOCKS]
    curve = [
        (block, TOTAL_BYTES / (TOTAL_BYTES // block * one_ns + 20_000) * 1e9, one_ns + 20_000)
        for block, one_ns in zip(BLOCKS, times_ns, strict=True)
    ]
    for row in predict(fitted(curve), TOTAL_BYTES, curve):
        assert row.rate_error == pytest.approx(0, abs=0.01), row
        assert row.latency_error == pytest.approx(0, abs=0.01), row


def test_the_table_shows_both_curves_and_how_far_they_are_apart() -> None:
    curve = points((100.0,) * 5, tuple(block / 100 + 960 for block in BLOCKS))  # 100 bytes take 1 us
    nic = {**fitted(curve), "rate": "0.11 GB/s"}
    table = prediction_table(predict(nic, TOTAL_BYTES, curve))
    console = Console(width=120, no_color=True)
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().splitlines()
    assert "off by" in lines[0]
    assert "100 MB/s" in captured.get()
    assert "+9.8%" in captured.get()  # 0.11 GB/s less a round trip of 0.96 ms in 610 ms
