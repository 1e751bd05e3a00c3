"""The load of a run: what a user may ask for, and the requests that come of it."""

from kvsim.workload.generate import Workload, generate
from kvsim.workload.spec import (
    ArrivalSpec,
    EmpiricalPairs,
    FixedGapArrivals,
    FixedLength,
    GammaArrivals,
    GeneratedWorkload,
    LengthPairs,
    LengthSpec,
    LognormalLength,
    PoissonArrivals,
    TraceWorkload,
    UniformLength,
    WorkloadSpec,
)

__all__ = [
    "ArrivalSpec",
    "EmpiricalPairs",
    "FixedGapArrivals",
    "FixedLength",
    "GammaArrivals",
    "GeneratedWorkload",
    "LengthPairs",
    "LengthSpec",
    "LognormalLength",
    "PoissonArrivals",
    "TraceWorkload",
    "UniformLength",
    "Workload",
    "WorkloadSpec",
    "generate",
]
