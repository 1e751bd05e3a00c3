"""The goodput of one layout: the largest rate at which enough requests meet the limits, by bisection over runs.

A rate is tried by a function that is handed in. The search must not know what a layout is or how it is simulated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

from kvsim.plan.load import rounded_rate
from kvsim.plan.probe import Probe

TOLERANCE = 0.03
"""Bisection ends when the lowest rate that misses is this share above the highest that meets."""
COARSE_TOLERANCE = 0.12
"""The same for a layout that is clearly worse than the best one known."""
STEP = 1.1
"""The first step away from a rate that was expected; each further step goes twice as far."""
LOWEST_SHARE, HIGHEST_SHARE = 1 / 256, 64
"""A layout that misses the target at the lowest share of the expected goodput is given up. One that meets it at the
highest is not pushed further: the run is so short that its requests may as well come all at once."""

Try = Callable[[float], Probe]


@dataclass(frozen=True, slots=True)
class Found:
    """What the search of one layout came to. ``probes`` are all runs in the order in which they were made.

    ``best`` is the run at the goodput, None where even the lowest rate misses; ``beyond`` the one at the lowest rate
    above it that misses. ``target`` is the share of requests that must meet the limits.
    """

    target: float
    probes: tuple[Probe, ...]

    @property
    def best(self) -> Probe | None:
        """The run at the highest rate below which no rate was seen to miss."""
        beyond = self.beyond
        met = [
            each
            for each in self.probes
            if each.attainment >= self.target and (beyond is None or each.rate_per_s < beyond.rate_per_s)
        ]
        return max(met, key=lambda each: each.rate_per_s, default=None)

    @property
    def beyond(self) -> Probe | None:
        """The run at the lowest rate that misses."""
        missed = [each for each in self.probes if each.attainment < self.target]
        return min(missed, key=lambda each: each.rate_per_s, default=None)

    @property
    def goodput_per_s(self) -> float:
        """The largest rate that meets the target; 0 where none does."""
        return 0.0 if self.best is None else self.best.rate_per_s

    @property
    def low_per_s(self) -> float:
        """A rate that meets the target beyond doubt (the 95 % interval of its attainment lies above); 0 if none."""
        sure = [each.rate_per_s for each in self.probes if each.low >= self.target]
        return min(max(sure, default=0.0), self.goodput_per_s)

    @property
    def high_per_s(self) -> float:
        """A rate that misses the target beyond doubt; infinite if none was tried."""
        sure = [each.rate_per_s for each in self.probes if each.high < self.target]
        return max(min(sure, default=float("inf")), self.goodput_per_s)


def find_goodput(
    attempt: Try,
    expected_per_s: float,
    target: float,
    floor_per_s: float = 0.0,
    tolerance: float = TOLERANCE,
    step: float = STEP,
) -> Found:
    """Bracket the goodput around ``expected_per_s``, then bisect it on a logarithmic scale.

    A layout that misses the target at less than ``floor_per_s`` is out of the race: its goodput is found coarsely.
    """
    tried: dict[float, Probe] = {}

    def meets(rate_per_s: float) -> bool:
        rate = rounded_rate(rate_per_s)
        if rate not in tried:
            tried[rate] = attempt(rate)
        return tried[rate].attainment >= target

    low, high = _bracket(meets, expected_per_s, step)
    while low and high / low > 1 + (tolerance if high > floor_per_s else max(tolerance, COARSE_TOLERANCE)):
        middle = sqrt(low * high)
        low, high = (middle, high) if meets(middle) else (low, middle)
    return Found(target, tuple(tried.values()))


def sharpen(attempt: Try, found: Found, steps: int = 3) -> Found:
    """Look for rates at which the target is met and missed beyond doubt, in growing distance from the goodput."""
    probes = {each.rate_per_s: each for each in found.probes}
    for direction in (1 / 1.06, 1.06):
        for step in range(1, steps + 1):
            current = Found(found.target, tuple(probes.values()))
            enough = current.low_per_s if direction < 1 else current.high_per_s < float("inf")
            if enough or not current.goodput_per_s:
                break
            rate = rounded_rate(current.goodput_per_s * direction ** (step * (step + 1) // 2))
            if rate not in probes:
                probes[rate] = attempt(rate)
    return Found(found.target, tuple(probes.values()))


def _bracket(meets: Callable[[float], bool], expected_per_s: float, factor: float) -> tuple[float, float]:
    """A rate that meets and one above that misses. Where none meets: 0 and the lowest tried; where all do: the highest
    tried, twice."""
    if meets(expected_per_s):
        low = expected_per_s
        while meets(low * factor):
            low, factor = low * factor, 2 * factor - 1
            if low > expected_per_s * HIGHEST_SHARE:
                return low, low
        return low, low * factor
    high = expected_per_s
    while high > expected_per_s * LOWEST_SHARE:
        if meets(high / factor):
            return high / factor, high
        high, factor = high / factor, 2 * factor - 1
    return 0.0, high
