"""Instants at which generated requests arrive.

Gaps are drawn at unit rate and scaled afterwards, so two workloads that differ in the rate alone see the same pattern
of arrivals, stretched (common random numbers: Law, Simulation Modeling and Analysis, ch. 11). This module must not know
what arrives.
"""

import numpy as np
from numpy.typing import NDArray

from kvsim.workload.spec import ArrivalSpec, FixedGapArrivals, GammaArrivals, PoissonArrivals

NS_PER_S = 1_000_000_000


def draw_arrivals(spec: ArrivalSpec, requests: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Arrival of each request in ns from the start of the run, shape ``(requests,)``, non-decreasing.

    Random processes start with a gap; ``FixedGapArrivals`` starts with a request. The first n arrivals do not depend on
    ``requests``. Unit gaps are summed in float64 and each instant is rounded to whole ns once, so that no rounding
    error accumulates beyond that sum (relative error below ``requests`` x 2**-53).
    """
    assert spec.rate_per_s > 0, f"arrivals at {spec.rate_per_s} requests/s"
    arrivals_s = _unit_arrivals(spec, requests, generator) / spec.rate_per_s
    return np.rint(arrivals_s * NS_PER_S).astype(np.int64)


def _unit_arrivals(spec: ArrivalSpec, requests: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Arrivals of the same process at one request per second, in seconds."""
    match spec:
        case PoissonArrivals():
            return np.cumsum(generator.standard_exponential(requests))
        case GammaArrivals(cv=cv):
            # Gamma(shape k, scale 1/k) has mean 1 and coefficient of variation 1/sqrt(k)
            assert cv > 0, f"Gamma arrivals with coefficient of variation {cv}"
            return np.cumsum(generator.standard_gamma(1.0 / cv**2, requests) * cv**2)
        case FixedGapArrivals():
            return np.arange(requests, dtype=np.float64)
