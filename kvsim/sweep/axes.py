"""A knob as a column of the table: numbers where all its values are numbers of one unit, else text.

It must not know what the key means.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kvsim.sweep.grid import Knob, value_text

_QUANTITY = re.compile(r"\s*(?P<number>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)\s*(?P<unit>\D.*?)\s*")

Entry = int | float | str


@dataclass(frozen=True, slots=True)
class Axis:
    """``entries`` are the knob's values in order: all int, all float or all str. Numbers are in ``unit``, if any."""

    key: str
    unit: str
    entries: tuple[Entry, ...]

    @property
    def column(self) -> str:
        """The name of the column: the key, and in brackets the unit."""
        return f"{self.key} ({self.unit})" if self.unit else self.key


def axis_of(knob: Knob) -> Axis:
    """The column of a knob. Equal units are taken off; values in several units, names and mappings stay text."""
    numbers = _numbers(knob.values)
    if numbers is not None:
        return Axis(knob.key, "", numbers)
    matches = [_QUANTITY.fullmatch(value) if isinstance(value, str) else None for value in knob.values]
    quantities = [match for match in matches if match is not None]
    units = {match["unit"]: None for match in quantities}
    if len(quantities) == len(matches) and len(units) == 1:
        numbers = _numbers([_number(match["number"]) for match in quantities])
        assert numbers is not None, knob.values
        return Axis(knob.key, next(iter(units)), numbers)
    return Axis(knob.key, "", tuple(value_text(value) for value in knob.values))


def _number(text: str) -> int | float:
    return float(text) if any(letter in text for letter in ".eE") else int(text)


def _numbers(values: Sequence[object]) -> tuple[Entry, ...] | None:
    """The values as ints, or else as floats; None if one is no number. True and false are none."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != len(values):
        return None
    if all(isinstance(value, int) for value in numbers):
        return tuple(numbers)
    return tuple(float(value) for value in numbers)
