"""Waiting times in front of equal servers, by formulas that need no simulation.

It must not know what is served.
"""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def chance_within(
    slack_s: Floats, service_s: Floats, servers: int, rate_per_s: float, arrival_cv2: float
) -> Floats | None:
    """The chance that a wait is at most ``slack_s``, for each entry; None where the servers are overloaded.

    ``service_s`` is a sample of service times. The queue is G/G/c, first come, first served: the chance to wait at all
    is that of M/M/c in the closed form of Sakasegawa (Ann. Inst. Stat. Math. 29, 1977), and waits are exponential with
    the mean of the heavy-traffic limit, s (ca**2 + cs**2) / (2 c (1 - rho)) (Allen and Cunneen; Kingman, 1962).
    """
    mean_s = float(np.mean(service_s))
    load = rate_per_s * mean_s / servers
    if load >= 1:
        return None
    service_cv2 = float(np.var(service_s)) / mean_s**2
    waits = load ** (sqrt(2 * (servers + 1)) - 1)
    wait_s = mean_s * max(arrival_cv2 + service_cv2, 1e-9) / (2 * servers * (1 - load))
    within: Floats = 1.0 - waits * np.exp(-np.maximum(slack_s, 0.0) / wait_s)
    return np.where(slack_s >= 0, within, 0.0)
