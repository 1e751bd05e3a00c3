"""Quantities as people write them (``80 GiB``, ``400 Gbit/s``, ``2 us``) to base units, and back.

The only place where units are parsed. A bare number is refused, since it hides which unit its writer had in mind:
``GB`` is 10**9 bytes and ``GiB`` 2**30, and a bit is an eighth of a byte. Decimal text is read exactly, without a
detour through binary fractions. It must not know scenario files or hardware.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

_NUMBER_AND_UNIT = re.compile(r"\s*(?P<number>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)\s*(?P<unit>\D.*?)?\s*")
# Three exponent digits: with more, a few characters would make an integer that fills the memory.

_INTEGER_MAX = 2**63 - 1  # what an int64 column of a result table holds

_TEXTS_REMEMBERED = 4096
"""Variants of a scenario have most of their quantities in common, and finding the shortest text takes long."""

_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}

_HABITS = {
    "KB": "kB",
    "KB/s": "kB/s",
    "usec": "us",
    "msec": "ms",
    "sec": "s",
    "seconds": "s",
    "m": "min",
    "minutes": "min",
    "hours": "h",
    "rps": "req/s",
    "qps": "req/s",
    "TFLOPS": "TFLOP/s",
    "TFLOPs": "TFLOP/s",
    **{f"{prefix}{habit}": f"{prefix}bit/s" for prefix in _DECIMAL for habit in ("bps", "b/s")},
    **{f"{prefix}Bps": f"{prefix}B/s" for prefix in _DECIMAL},
}
"""Spellings that people bring along, and what they most likely mean: a hint for the message, never an answer."""

Units = Mapping[str, Fraction]
"""Unit -> its size in the base unit, in the order that messages list them. Of two spellings the later is printed."""


class UnitError(ValueError):
    """A quantity that cannot be read. The text says what was found and which form is expected."""


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """One kind of quantity: its name in messages, an example, its units and the unit that values are counted in. Those
    below are all there are: each equals itself only."""

    name: str
    example: str
    units: Units

    def parse(self, text: object) -> Fraction:
        """The exact value in base units. Raises UnitError for anything but a finite number >= 0 with its unit."""
        if isinstance(text, bool) or not isinstance(text, int | float | str):
            raise UnitError(f"found {text!r}, expected {self._expected()}")
        if not isinstance(text, str):
            raise UnitError(f"found {text} without a unit, expected {self._expected()}")
        match = _NUMBER_AND_UNIT.fullmatch(text)
        if match is None:
            raise UnitError(f"found {text!r}, expected {self._expected()}")
        unit = match["unit"]
        if unit is None:
            raise UnitError(f"found {text!r} without a unit, expected {self._expected()}")
        if unit not in self.units:
            raise UnitError(f"found {text!r} with the unit {unit!r}{self._hint(unit)}, expected {self._expected()}")
        value = Fraction(match["number"]) * self.units[unit]
        if value < 0:
            raise UnitError(f"found {text!r}, expected {self.name} that is not negative")
        return value

    def exact(self, value: Fraction) -> str:
        """Text that parses back to ``value``, in the unit that makes it shortest (see ``_shortest``)."""
        texts = []
        for unit, size in self.units.items():
            number = _decimal_text(value / size)
            if number is not None:
                texts.append(f"{number} {unit}")
        assert texts, f"{value} cannot be written as {self.name}"
        return _shortest(texts)

    def _expected(self) -> str:
        return f"{self.name} such as '{self.example}' (units: {', '.join(self.units)})"

    def _hint(self, unit: str) -> str:
        known = {name.casefold(): name for name in self.units}
        meant = _HABITS.get(unit, known.get(unit.casefold()))
        return f" (did you mean {meant!r}?)" if meant in self.units else ""


def _decimal_text(value: Fraction) -> str | None:
    """Plain decimal notation of a value that has a finite one of at most 30 digits, else None."""
    twos, fives, rest = 0, 0, value.denominator
    while rest % 2 == 0:
        twos, rest = twos + 1, rest // 2
    while rest % 5 == 0:
        fives, rest = fives + 1, rest // 5
    digits = max(twos, fives)
    if rest != 1 or digits > 30:
        return None
    scaled = value.numerator * 10**digits // value.denominator
    whole, fraction = divmod(scaled, 10**digits)
    return f"{whole}.{fraction:0{digits}d}" if digits else str(whole)


def _shortest(texts: list[str]) -> str:
    """The shortest text without a leading ``0.``; of equally short ones the last, the largest unit. For 0 the first."""
    if texts[0].startswith("0 "):
        return texts[0]
    return min(reversed(texts), key=lambda text: (text.startswith("0."), len(text)))


def _scaled(prefixes: Mapping[str, int], base: str, size: Fraction) -> dict[str, Fraction]:
    return {prefix + base: factor * size for prefix, factor in prefixes.items()}


_BYTES = {**_scaled(_DECIMAL, "B", Fraction(1)), **_scaled(_BINARY, "B", Fraction(1))}
_BITS = _scaled(_DECIMAL, "bit", Fraction(1, 8))
_NANOSECONDS = {"ns": 1, "µs": 10**3, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}

BYTES = Quantity("an amount of memory", "80 GiB", _BYTES)
RATE = Quantity("a rate", "400 Gbit/s", {f"{unit}/s": size for unit, size in {**_BITS, **_BYTES}.items()})
DURATION = Quantity("a duration", "50 ms", {unit: Fraction(size) for unit, size in _NANOSECONDS.items()})
REQUEST_RATE = Quantity(
    "a request rate", "2 req/s", {"req/h": Fraction(1, 3600), "req/min": Fraction(1, 60), "req/s": Fraction(1)}
)
OPERATION_RATE = Quantity("an operation rate", "200 Mop/s", _scaled(_DECIMAL, "op/s", Fraction(1)))
FLOP_RATE = Quantity("a computing rate", "989 TFLOP/s", _scaled({**_DECIMAL, "P": 10**15}, "FLOP/s", Fraction(1)))


def parse_bytes(text: object) -> int:
    """``80 GiB`` -> bytes, rounded down to a whole byte."""
    return _integer(BYTES, text, "1 B")


def parse_duration(text: object) -> int:
    """``1.5 ms`` -> nanoseconds, rounded down to a whole one."""
    return _integer(DURATION, text, "1 ns")


def parse_rate(text: object) -> float:
    """``400 Gbit/s`` or ``50 GB/s`` -> bytes per second."""
    return _real(RATE, text)


def parse_request_rate(text: object) -> float:
    """``120 req/min`` -> requests per second."""
    return _real(REQUEST_RATE, text)


def parse_operation_rate(text: object) -> float:
    """``200 Mop/s`` -> operations per second."""
    return _real(OPERATION_RATE, text)


def parse_flop_rate(text: object) -> float:
    """``989 TFLOP/s`` -> floating-point operations per second."""
    return _real(FLOP_RATE, text)


def exact_bytes(size_bytes: int) -> str:
    """Text for files: ``parse_bytes`` gives the same value back."""
    return _exact(BYTES, size_bytes)


def exact_duration(duration_ns: int) -> str:
    """Text for files: ``parse_duration`` gives the same value back."""
    return _exact(DURATION, duration_ns)


def exact_rate(bytes_per_s: float) -> str:
    """Text for files: ``parse_rate`` gives the same value back."""
    return _exact_real(RATE, bytes_per_s, parse_rate)


def exact_request_rate(per_s: float) -> str:
    """Text for files: ``parse_request_rate`` gives the same value back."""
    return _exact_real(REQUEST_RATE, per_s, parse_request_rate)


def exact_operation_rate(per_s: float) -> str:
    """Text for files: ``parse_operation_rate`` gives the same value back."""
    return _exact_real(OPERATION_RATE, per_s, parse_operation_rate)


def exact_flop_rate(per_s: float) -> str:
    """Text for files: ``parse_flop_rate`` gives the same value back."""
    return _exact_real(FLOP_RATE, per_s, parse_flop_rate)


def format_bytes(size_bytes: float) -> str:
    """For readers, 4 digits at most: ``79.1 GiB``, ``512 B``. Memory comes in powers of two, so binary units."""
    return _rounded(size_bytes, {"B": Fraction(1), **_scaled(_BINARY, "B", Fraction(1))})


def format_duration_ns(duration_ns: float) -> str:
    """For readers, 4 digits at most: ``1.5 ms``, ``12.3 s``, ``2 h``."""
    return _rounded(duration_ns, {unit: size for unit, size in DURATION.units.items() if unit != "µs"})


def format_rate(bytes_per_s: float) -> str:
    """For readers, 4 digits at most, in bytes: ``48.5 GB/s``."""
    return _rounded(bytes_per_s, {f"{unit}/s": size for unit, size in _scaled(_DECIMAL, "B", Fraction(1)).items()})


def _integer(quantity: Quantity, text: object, smallest: str) -> int:
    value = quantity.parse(text)
    if 0 < value < 1:
        raise UnitError(f"found {text!r}, expected at least {smallest} or 0")
    if value > _INTEGER_MAX:
        raise UnitError(f"found {text!r}, expected {quantity.name} below 2**63 times {smallest}")
    return int(value)


def _real(quantity: Quantity, text: object) -> float:
    value = quantity.parse(text)
    try:
        return float(value)
    except OverflowError:
        raise UnitError(f"found {text!r}, expected {quantity.name} that is finite") from None


@lru_cache(maxsize=_TEXTS_REMEMBERED)
def _exact(quantity: Quantity, value: int) -> str:
    return quantity.exact(Fraction(value))


@lru_cache(maxsize=_TEXTS_REMEMBERED)
def _exact_real(quantity: Quantity, value: float, parse: Callable[[object], float]) -> str:
    """The shortest ``repr`` over the units that parses back; the value in its base unit always does."""
    texts = [f"{float(Fraction(value) / size)!r} {unit}".replace(".0 ", " ") for unit, size in quantity.units.items()]
    return _shortest([text for text in texts if parse(text) == value])


def _rounded(value: float, units: Units) -> str:
    """Four significant digits in the largest unit that leaves at least 1 after rounding."""
    sign, size = ("-", -value) if value < 0 else ("", value)
    for unit, factor in sorted(units.items(), key=lambda item: item[1], reverse=True):
        number = float(f"{size / float(factor):.4g}")
        if number >= 1:
            return f"{sign}{number:g} {unit}"
    smallest = min(units.items(), key=lambda item: item[1])
    return f"{sign}{size / float(smallest[1]):.4g} {smallest[0]}"
