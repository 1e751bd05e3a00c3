"""From what a scenario asks for and a seed to a list of faults with their instants: a pure function.

Every entry draws from generators of its own, so adding one at the end moves no other. Gaps are drawn at unit rate and
scaled, and whoever is struck with a small probability is also struck with a larger one (common random numbers: Law,
Simulation Modeling and Analysis, ch. 11). It must not know how a fault is made to happen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from kvsim.core.messages import RequestId, TransferId, WorkerId
from kvsim.sim.faults.spec import CancelSpec, ChanceSpec, Detection, FaultKind, FaultSpecs, TimedSpec
from kvsim.workload import Workload

FAULTS_MAX = 100_000
"""Timed faults of one entry, cancelled requests left out: more of them are a unit that was mistaken."""

_SPAWN_KEY = 1 << 16  # far from those of the purposes of a workload, which come one after the other from 0


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One fault: of a plan, or as it happened. ``entry`` counts the entries of the scenario from 0.

    ``until_ns`` is when it is over, None: never (in a plan, of a worker that will be gone: it is not known yet). A
    ``link_flapping`` is one time that the link is down.
    """

    at_ns: int
    kind: FaultKind
    entry: int
    worker: WorkerId | None = None
    uplink: str | None = None
    request: RequestId | None = None
    transfer: TransferId | None = None
    until_ns: int | None = None
    restart_ns: int | None = None
    factor: float = 1.0
    share: float = 1.0
    extra_ns: int = 0


@dataclass(frozen=True, slots=True)
class Chance:
    """What may happen to any transfer, and the seed of the numbers that decide it."""

    spec: ChanceSpec
    entry: int
    seed: int


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Everything that goes wrong in a run. ``timed`` is in order of time, then of the entries."""

    timed: tuple[Fault, ...]
    chances: tuple[Chance, ...]
    detection: Detection

    def __bool__(self) -> bool:
        """Whether anything can go wrong."""
        return bool(self.timed or self.chances)


def fault_plan(specs: FaultSpecs, workload: Workload, seed: int) -> FaultPlan:
    """The faults of a run. Rates strike until the last request has arrived. The same arguments give the same plan."""
    timed: list[Fault] = []
    chances: list[Chance] = []
    for entry, spec in enumerate(specs.entries):
        match spec:
            case TimedSpec():
                timed += _timed(spec, entry, seed, last_arrival_ns(workload))
            case CancelSpec():
                timed += _cancels(spec, entry, seed, workload)
            case ChanceSpec():
                chances.append(Chance(spec, entry, seed))
    timed.sort(key=lambda fault: (fault.at_ns, fault.entry, -1 if fault.request is None else fault.request))
    return FaultPlan(tuple(timed), tuple(chances), specs.detection)


def last_arrival_ns(workload: Workload) -> int:
    """Until when a run is sure to go on."""
    return int(workload.arrival_ns[-1]) if len(workload) else 0


def generator_of(seed: int, entry: int, purpose: int) -> np.random.Generator:
    """The random numbers of one entry for one purpose, independent of all others and of those of the workload."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SPAWN_KEY, entry, purpose)))


def _timed(spec: TimedSpec, entry: int, seed: int, horizon_ns: int) -> list[Fault]:
    if spec.every_ns is None:
        assert spec.at_ns is not None, f"entry {entry} has neither at nor every"
        instants_ns = [spec.at_ns]
    else:
        instants_ns = _instants_ns(spec.every_ns, generator_of(seed, entry, 0), horizon_ns)
    chosen = generator_of(seed, entry, 1).random(len(instants_ns)).tolist()
    faults: list[Fault] = []
    for at_ns, place in zip(instants_ns, chosen, strict=True):
        struck: tuple[WorkerId | None, ...] = (None,)
        if spec.kind == "worker_joins":
            struck = spec.workers
        elif spec.workers:
            struck = (spec.workers[int(place * len(spec.workers))],)
        for worker in struck:
            faults += _strikes(spec, entry, at_ns, worker)
    return faults


def _instants_ns(mean_ns: int, generator: np.random.Generator, horizon_ns: int) -> list[int]:
    """Exponential gaps until the horizon, which is left out."""
    assert horizon_ns / mean_ns <= FAULTS_MAX, f"a fault every {mean_ns} ns for {horizon_ns} ns"
    instants_ns: list[int] = []
    gaps = 0.0
    while True:
        gaps += float(generator.standard_exponential())
        at_ns = round(gaps * mean_ns)
        if at_ns >= horizon_ns:
            return instants_ns
        instants_ns.append(at_ns)


def _strikes(spec: TimedSpec, entry: int, at_ns: int, worker: WorkerId | None) -> Sequence[Fault]:
    until_ns = None if spec.lasts_ns is None else at_ns + spec.lasts_ns
    fault = Fault(
        at_ns,
        spec.kind,
        entry,
        worker,
        spec.uplink,
        until_ns=until_ns,
        restart_ns=spec.restart_ns,
        factor=spec.factor,
        share=spec.share,
        extra_ns=spec.extra_ns,
    )
    if spec.kind != "link_flapping":
        return (fault,)
    assert until_ns is not None, f"entry {entry}: a link that flaps for ever"
    return [
        msgspec.structs.replace(fault, at_ns=down_ns, until_ns=min(down_ns + spec.down_ns, until_ns))
        for down_ns in range(at_ns, until_ns, spec.down_ns + spec.up_ns)
    ]


def _cancels(spec: CancelSpec, entry: int, seed: int, workload: Workload) -> list[Fault]:
    requests = len(workload)
    struck = generator_of(seed, entry, 0).random(requests) < spec.probability
    patience = np.ones(requests)
    if spec.law == "exponential":
        patience = generator_of(seed, entry, 1).standard_exponential(requests)
    waits_ns = np.maximum(1, np.rint(patience * spec.after_ns).astype(np.int64))  # the request has arrived before
    at_ns = workload.arrival_ns + waits_ns
    return [
        Fault(int(at_ns[request]), "client_cancels", entry, request=RequestId(request))
        for request in np.flatnonzero(struck).tolist()
    ]
