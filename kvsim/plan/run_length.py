"""How many requests a run needs before its goodput can be trusted.

A run starts empty, so a short one meets limits at rates that no lasting service could carry: in the extreme all its
requests come at once and are served before a limit has passed. It must not know layouts.
"""

from dataclasses import dataclass
from math import ceil

MISSES_MIN = 30
"""So many requests may miss at the target: fewer would decide by chance."""


@dataclass(frozen=True, slots=True)
class RunLength:
    """Arrivals should last ``limits`` limits of the first token and ``lives`` lives of a request, in
    ``requests_min`` to ``requests_max`` requests."""

    limits: float
    lives: float
    requests_min: int
    requests_max: int

    def requests(self, rate_per_s: float, ttft_s: float, life_s: float, target: float) -> int:
        """Requests of a run at about this rate, where a share ``target`` must meet the limits."""
        least = max(self.requests_min, ceil(MISSES_MIN / max(1 - target, 0.001)))
        wanted = ceil(rate_per_s * max(self.limits * ttft_s, self.lives * life_s))
        return min(max(wanted, least), max(self.requests_max, least))


REQUEST_GPUS_MAX = 48_000
"""Requests times GPUs of a run of a plan: what lets a plan of 32 GPUs end within two minutes on two cores."""
NETWORK = RunLength(limits=10, lives=2, requests_min=300, requests_max=2000)
"""Of a break-even map, which has many points."""
FILLING_SHARE_MAX = 0.2
"""Where filling the cluster takes a larger share of the arrivals, a run is called short."""


def cluster_run_length(gpus: int) -> RunLength:
    """Of the runs of a plan: the larger the cluster, the more runs there are and the fewer requests each can have."""
    most = min(max(REQUEST_GPUS_MAX // gpus, 1500), 6000)
    return RunLength(limits=30, lives=6, requests_min=1000, requests_max=most)
