"""Quantities: what is read, what is refused and with which words, and that printed values can be read back."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.core.integers import div_ceil
from kvsim.units import (
    BYTES,
    DURATION,
    FLOP_RATE,
    OPERATION_RATE,
    RATE,
    REQUEST_RATE,
    UnitError,
    exact_bytes,
    exact_duration,
    exact_flop_rate,
    exact_operation_rate,
    exact_rate,
    exact_request_rate,
    format_bytes,
    format_duration_ns,
    format_rate,
    parse_bytes,
    parse_duration,
    parse_flop_rate,
    parse_operation_rate,
    parse_rate,
    parse_request_rate,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("80 GiB", 80 * 2**30),
        ("80 GB", 80 * 10**9),
        ("16 MB", 16_000_000),
        ("512 B", 512),
        ("1.5KiB", 1536),
        ("0 B", 0),
    ],
)
def test_bytes_tell_powers_of_ten_from_powers_of_two(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "bytes_per_s"), [("400 Gbit/s", 50e9), ("50 GB/s", 50e9), ("8 bit/s", 1.0), ("1 KiB/s", 1024.0)]
)
def test_a_rate_in_bits_is_an_eighth_of_one_in_bytes(text: str, bytes_per_s: float) -> None:
    assert parse_rate(text) == bytes_per_s


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("2 us", 2_000),
        ("2 µs", 2_000),
        ("1.5 ms", 1_500_000),
        ("30 s", 30 * 10**9),
        ("10 min", 600 * 10**9),
        ("1 h", 3600 * 10**9),
        ("0 ns", 0),
        ("0.1 s", 100_000_000),
        ("1e3 ns", 1000),
    ],
)
def test_durations_become_whole_nanoseconds_without_binary_rounding(text: str, duration_ns: int) -> None:
    assert parse_duration(text) == duration_ns


def test_request_operation_and_computing_rates() -> None:
    assert parse_request_rate("2 req/s") == 2.0
    assert parse_request_rate("120 req/min") == 2.0
    assert parse_operation_rate("200 Mop/s") == 2e8
    assert parse_flop_rate("989 TFLOP/s") == 9.89e14
    assert parse_flop_rate("2.25 PFLOP/s") == 2.25e15


PARSERS = [parse_bytes, parse_duration, parse_rate, parse_request_rate, parse_operation_rate, parse_flop_rate]


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "value", [400, 0, 1.5, "400", True, None, [], "", "nan s", "inf B", "many GB", "1 B 2", "1e9999 s"]
)
def test_what_has_no_number_or_no_unit_is_refused_with_an_example(
    parse: Callable[[object], float], value: object
) -> None:
    with pytest.raises(UnitError, match=r"^found .*, expected .* such as '.*' \(units: .*\)$"):
        parse(value)


@pytest.mark.parametrize("quantity", [BYTES, DURATION, RATE, REQUEST_RATE, OPERATION_RATE, FLOP_RATE])
def test_negative_quantities_are_refused_and_examples_are_accepted(quantity: object) -> None:
    assert isinstance(quantity, type(BYTES))
    assert quantity.parse(quantity.example) > 0
    with pytest.raises(UnitError, match="not negative"):
        quantity.parse(f"-{quantity.example}")


@pytest.mark.parametrize(
    ("parse", "text", "hint"),
    [
        (parse_rate, "400 Gbps", "Gbit/s"),
        (parse_rate, "50 GBps", "GB/s"),
        (parse_rate, "50 gb/s", "GB/s"),
        (parse_bytes, "4 KB", "kB"),
        (parse_bytes, "4 gib", "GiB"),
        (parse_duration, "3 seconds", "s"),
        (parse_flop_rate, "989 TFLOPS", "TFLOP/s"),
    ],
)
def test_a_habitual_spelling_is_refused_with_the_right_one(
    parse: Callable[[object], float], text: str, hint: str
) -> None:
    with pytest.raises(UnitError) as caught:
        parse(text)
    assert f"did you mean {hint!r}?" in str(caught.value)


def test_a_wrong_kind_of_unit_gets_no_hint() -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration("3 GiB")
    assert "did you mean" not in str(caught.value)


def test_quantities_that_integers_cannot_hold_are_refused() -> None:
    with pytest.raises(UnitError, match="at least 1 ns"):
        parse_duration("0.5 ns")
    with pytest.raises(UnitError, match="below 2"):
        parse_duration("1e300 s")
    with pytest.raises(UnitError, match="finite"):
        parse_rate("1e305 GB/s")
    assert parse_bytes("0.3 kB") == 300
    assert parse_bytes("79.1 GiB") == 84_932_978_278  # 84,932,978,278.4 rounded down


def test_exact_text_takes_the_shortest_form() -> None:
    assert exact_bytes(2**30) == "1 GiB"
    assert exact_bytes(16 * 10**6) == "16 MB"
    assert exact_bytes(0) == "0 B"
    assert exact_duration(0) == "0 ns"
    assert exact_duration(1_500) == "1.5 us"
    assert exact_duration(90 * 10**9) == "90 s"
    assert exact_rate(50e9) == "50 GB/s"
    assert exact_request_rate(2.0) == "2 req/s"
    assert exact_operation_rate(2e8) == "200 Mop/s"
    assert exact_flop_rate(9.894e14) == "989.4 TFLOP/s"


@given(st.integers(0, 2**63 - 1))
def test_exact_integers_are_read_back_unchanged(value: int) -> None:
    assert parse_bytes(exact_bytes(value)) == value
    assert parse_duration(exact_duration(value)) == value


@given(st.floats(0, 1e18, allow_nan=False))
def test_exact_rates_are_read_back_unchanged(value: float) -> None:
    assert parse_rate(exact_rate(value)) == value
    assert parse_request_rate(exact_request_rate(value)) == value
    assert parse_operation_rate(exact_operation_rate(value)) == value
    assert parse_flop_rate(exact_flop_rate(value)) == value


def test_printing_for_readers_rounds_to_four_digits() -> None:
    assert format_bytes(84_932_978_278) == "79.1 GiB"
    assert format_bytes(512) == "512 B"
    assert format_bytes(2**30 - 1) == "1 GiB"  # 1024 MiB after rounding: the next unit
    assert format_bytes(0) == "0 B"
    assert format_bytes(-1536) == "-1.5 KiB"
    assert format_duration_ns(1_500_000) == "1.5 ms"
    assert format_duration_ns(2_000) == "2 us"
    assert format_duration_ns(0.25) == "0.25 ns"
    assert format_duration_ns(12_345_678_901) == "12.35 s"
    assert format_rate(48.5e9) == "48.5 GB/s"


@given(st.integers(0, 10**12), st.integers(1, 10**6))
def test_div_ceil_is_the_smallest_enough(dividend: int, divisor: int) -> None:
    quotient = div_ceil(dividend, divisor)
    assert quotient * divisor >= dividend
    assert (quotient - 1) * divisor < dividend
