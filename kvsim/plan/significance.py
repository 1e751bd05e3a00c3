"""How far a share that was observed in a simulated run can be trusted.

It must not know what is counted.
"""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959964  # two-sided 95 % of the standard normal distribution
BATCHES = 20
ROUNDING = 1e-12


def wilson_interval(share: float, samples: float, z: float = Z_95) -> tuple[float, float]:
    """Interval of a proportion seen in ``samples`` independent trials (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927).

    ``samples`` may be fractional: an effective size. Without samples nothing is known.
    """
    assert 0 <= share <= 1, share
    if samples <= 0:
        return 0.0, 1.0
    spread = z * z / samples
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / samples + spread / (4 * samples))
    low, high = centre - half, centre + half
    return (0.0 if low < ROUNDING else low), (1.0 if high > 1 - ROUNDING else high)


def effective_samples(flags: NDArray[np.bool_]) -> float:
    """How many independent trials tell as much as these flags, given in order of time; shape ``(requests,)``.

    Requests that arrive together fare alike, so a run says less than its length suggests. Non-overlapping batch means
    (Law, Simulation Modeling and Analysis, ch. 9): with b batches of m flags whose means vary by s**2, the variance of
    the overall mean is s**2 / b, and p (1 - p) / n of as many independent ones. Never more than there are flags.
    """
    requests = len(flags)
    share = float(np.mean(flags)) if requests else 0.0
    size = requests // BATCHES
    if size < 1 or share in (0.0, 1.0):
        return float(requests)
    means = flags[: size * BATCHES].reshape(BATCHES, size).mean(axis=1)
    variance = float(np.var(means, ddof=1)) / BATCHES
    if variance <= 0:
        return float(requests)
    return min(float(requests), share * (1 - share) / variance)
