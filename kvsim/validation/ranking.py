"""Which of two variants is faster, in reality and in simulation: the question that people ask a simulator.

Two variants serve the same requests, so they are compared request by request. Where reality's difference could be
chance, either answer of the simulator is right. Six variants make fifteen pairs: with 95 % for each, chance alone would
make a difference of one of them in every second validation. So the 95 % are for all pairs of a metric together
(Bonferroni: each interval has its share of the 5 %). This module must not know files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.confidence import LEVEL, Interval, batch_means, mean_interval

Floats = NDArray[np.float64]

BATCHES = 8
"""Neighbouring requests share queues and batches, so intervals are over the means of this many stretches."""
RANKED = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two variants by one metric, in seconds: the mean of the first less that of the second, for real (with an interval
    that holds for all pairs of the metric at once with 95 % confidence) and simulated."""

    metric: str
    first: str
    second: str
    real: Interval
    simulated_s: float

    @property
    def significant(self) -> bool:
        """Whether reality's difference is more than chance."""
        return not isnan(self.real.low) and (self.real.low > 0 or self.real.high < 0)

    @property
    def agrees(self) -> bool:
        """Whether both worlds name the same variant as the faster one. True where reality cannot tell."""
        return not self.significant or self.simulated_s * self.real.mean > 0


def rank(real: Mapping[str, Mapping[str, Floats]], simulated: Mapping[str, Mapping[str, Floats]]) -> list[Pair]:
    """Every pair of variants by every metric of ``RANKED``. Both worlds give variant -> metric -> one value a request,
    in the order of requests, NaN where a request has none."""
    pairs = []
    chosen = list(combinations(real, 2))
    for metric in RANKED:
        for first, second in chosen:
            interval = paired_interval(real[first][metric], real[second][metric], len(chosen))
            theirs = paired_interval(simulated[first][metric], simulated[second][metric])
            pairs.append(Pair(metric, first, second, interval, theirs.mean))
    return pairs


def paired_interval(ours: Floats, theirs: Floats, comparisons: int = 1) -> Interval:
    """The mean difference of requests that have a value in both, with an interval where there are at least two requests
    to a batch: one of ``comparisons`` that hold together with 95 % confidence."""
    if len(ours) != len(theirs):
        return Interval(nan, nan, nan)
    change = ours - theirs
    change = change[~np.isnan(change)]
    if len(change) == 0:
        return Interval(nan, nan, nan)
    mean = float(change.mean())
    if len(change) < 2 * BATCHES:
        return Interval(mean, nan, nan)
    batches = mean_interval(batch_means(change, BATCHES), 1 - (1 - LEVEL) / comparisons)
    reach = (batches.high - batches.low) / 2  # the batches leave out a few requests at the end
    return Interval(mean, mean - reach, mean + reach)


def latencies_s(requests: Any) -> dict[str, dict[str, Floats]]:
    """Variant -> metric -> one value a request, from the requests of a run folder."""
    found: dict[str, dict[str, Floats]] = {}
    for variant, rows in requests.groupby("variant", sort=False):
        ordered = rows.sort_values("request", kind="stable")
        columns = ("arrival_ns", "first_token_ns", "finished_ns", "output_tokens")
        arrival, first, finished, tokens = (ordered[name].to_numpy(dtype=np.float64, na_value=nan) for name in columns)
        gaps = np.where(tokens > 1, tokens - 1, nan)
        found[str(variant)] = {
            "ttft": (first - arrival) / 1e9,
            "tpot": (finished - first) / gaps / 1e9,
            "e2e": np.where(np.isnan(first), nan, finished - arrival) / 1e9,
        }
    return found


def disagreements(pairs: Sequence[Pair]) -> list[str]:
    """Each pair that simulation ranks otherwise than reality, in words."""
    return [
        f"{pair.metric}: {pair.first} against {pair.second} is {pair.real.mean:+.4f} s in reality "
        f"({pair.real.low:+.4f} to {pair.real.high:+.4f}) and {pair.simulated_s:+.4f} s in simulation"
        for pair in pairs
        if not pair.agrees
    ]
