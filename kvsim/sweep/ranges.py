"""``START:STOP:STEP`` as the values it stands for, in exact decimal arithmetic.

It must not know scenario files or keys.
"""

import re
from fractions import Fraction

VALUES_MAX = 100_000
"""A range with more values is a slip of the pen: each of them is a simulation."""

_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,2})?"
_BEGINNING = re.compile(rf"\s*{_NUMBER}[^:,]*:")
_PART = re.compile(rf"\s*(?P<number>{_NUMBER})\s*(?P<unit>[^\d\s.+-].*?)?\s*")

RangeValue = int | float | str


def is_range(text: str) -> bool:
    """Whether a text is meant as a range: it begins with a number and a colon."""
    return _BEGINNING.match(text) is not None


def range_values(text: str) -> tuple[RangeValue, ...]:
    """``1:2:0.5`` -> 1, 1.5, 2, and ``1:2:0.5 req/s`` -> '1 req/s', '1.5 req/s', '2 req/s'.

    The unit stands once, or the same one at several numbers. STOP belongs to the range where the steps meet it. A
    range may go down, with a negative STEP. Raises ValueError with what was found and what is expected.
    """
    parts = [_PART.fullmatch(part) for part in text.split(":")]
    matches = [match for match in parts if match is not None]
    if len(parts) != 3 or len(matches) != 3:
        raise ValueError(f"found '{text.strip()}', expected START:STOP:STEP in numbers, with the unit at the end")
    units = list(dict.fromkeys(match["unit"] for match in matches if match["unit"]))
    if len(units) > 1:
        raise ValueError(f"found the units {' and '.join(units)} in one range, expected one")
    start, stop, step = (Fraction(match["number"]) for match in matches)
    if step == 0:
        raise ValueError(f"found a step of 0 in '{text.strip()}', expected another")
    last = (stop - start) // step
    if last < 0:
        sign = "negative" if step > 0 else "positive"
        raise ValueError(f"found '{text.strip()}', which is empty; expected STOP behind START, or a {sign} STEP")
    if last >= VALUES_MAX:
        raise ValueError(f"found '{text.strip()}' of {last + 1:,} values, expected at most {VALUES_MAX:,}")
    numbers = [decimal_text(start + place * step) for place in range(last + 1)]
    if units:
        return tuple(f"{number} {units[0]}" for number in numbers)
    return tuple(float(number) if "." in number else int(number) for number in numbers)


def decimal_text(value: Fraction) -> str:
    """A sum of decimal numbers in plain decimal notation: exact, no zeros at the end, no exponent."""
    digits = 0
    while (value * 10**digits).denominator != 1:
        digits += 1
    scaled = abs(value.numerator * 10**digits // value.denominator)
    whole, fraction = divmod(scaled, 10**digits)
    text = f"{whole}.{fraction:0{digits}d}" if digits else str(whole)
    return f"-{text}" if value < 0 else text
