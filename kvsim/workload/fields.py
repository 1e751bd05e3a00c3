"""Fields of a trace file: decimal digits in, integers out, exactly.

Each parser takes the text of one field and raises ``ValueError`` that says what was found and what is expected; whoever
reads the file adds the place. No instant passes through a float. This module must not know about files.
"""

import re
from datetime import date
from decimal import Decimal, InvalidOperation

TOKENS_MAX = 2**31 - 1  # no context is near this; it keeps every sum of a column in 64 bits
TIME_MAX_NS = 2**63 - 1
AZURE_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):?(\d\d))?", re.ASCII
)


def parse_tokens(text: str) -> int:
    """A whole number of tokens, 0 included; ``12.0`` is one too."""
    if len(text) < 10 and text.isdecimal():  # the fast path: below 10**9 by its length
        return int(text)
    value = _decimal(text)
    if value is None or value != value.to_integral_value() or not 0 <= value <= TOKENS_MAX:
        raise ValueError(f"{text!r} found, a whole number of tokens from 0 to {TOKENS_MAX:,} expected")
    return int(value)


def parse_seconds(text: str) -> int:
    """Seconds in decimal digits to ns; digits beyond the ninth are rounded half to even."""
    value = _decimal(text)
    if value is None or not 0 <= value <= TIME_MAX_NS // 10**9:
        raise ValueError(f"{text!r} found, a number of seconds of 0 or more expected")
    return int((value * 10**9).to_integral_value())


class AzureClock:
    """``parse_azure_time`` for a whole column: rows of the same second share the work, which is most of it."""

    def __init__(self) -> None:
        self._seconds_ns: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        second, fraction = text[:19], text[19:].removesuffix("+00:00")
        if not (fraction[:1] == "." and 2 <= len(fraction) <= 10 and fraction[1:].isdecimal()):
            return parse_azure_time(text)
        if second not in self._seconds_ns:
            self._seconds_ns[second] = parse_azure_time(second)
        base_ns = self._seconds_ns[second]
        return base_ns + int(fraction[1:].ljust(9, "0"))


def parse_azure_time(text: str) -> int:
    """``2023-11-16 18:15:46.6805900`` (UTC unless it says otherwise) to ns since 1970, exactly."""
    match = AZURE_TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} found, a timestamp like 2023-11-16 18:15:46.6805900 expected")
    year, month, day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = match.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - 719_163  # the ordinal of 1970-01-01
    except ValueError:
        days = -1
    clock_valid = int(hour) < 24 and int(minute) < 60 and int(second) < 60 and int(zone_hours or 0) < 24
    if not 0 <= days < 106_749 or not clock_valid:  # 2**63 ns are 106,751 days
        raise ValueError(f"{text!r} found, an instant from 1970 to 2261 expected")
    seconds = ((days * 24 + int(hour)) * 60 + int(minute)) * 60 + int(second)
    if sign is not None:
        offset = int(zone_hours) * 3600 + int(zone_minutes) * 60
        seconds += offset if sign == "-" else -offset
    return seconds * 10**9 + (int(fraction.ljust(9, "0")) if fraction else 0)


def _decimal(text: str) -> Decimal | None:
    """The finite number that ``text`` says, or None."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
