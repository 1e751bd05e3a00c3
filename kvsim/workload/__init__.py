"""The load of a run: what a user may ask for, and the requests that come of it."""

from kvsim.workload.columns import Workload
from kvsim.workload.generate import generate
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
    PhasedWorkload,
    PhaseSpec,
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
    "PhaseSpec",
    "PhasedWorkload",
    "PoissonArrivals",
    "TraceWorkload",
    "UniformLength",
    "Workload",
    "WorkloadSpec",
    "generate",
]
