"""From the faults of a document to specifications that the simulator carries out: names become ids.

It must not draw anything: when faults strike depends on the seed of a run.
"""

from collections.abc import Mapping

from kvsim.core.messages import WorkerId
from kvsim.errors import Problem
from kvsim.scenario.fault_schema import (
    ClientCancels,
    CompletionDuplicated,
    CompletionLost,
    CompletionReordered,
    ControllerRestart,
    FaultEntry,
    NicLost,
    TransferBreaks,
    WorkerJoins,
)
from kvsim.scenario.merge import nearest
from kvsim.scenario.problems import Report
from kvsim.scenario.schema import Document
from kvsim.scenario.tree import Place, problem_at
from kvsim.scenario.values import Variant
from kvsim.sim.faults.plan import FAULTS_MAX, last_arrival_ns
from kvsim.sim.faults.spec import CancelSpec, ChanceSpec, Detection, FaultSpec, FaultSpecs, TimedSpec
from kvsim.units import format_duration_ns
from kvsim.workload import Workload

_NAMES_MAX = 12  # of workers in a message

_TIMED_FIELDS = {
    "at": "at_ns",
    "every": "every_ns",
    "lasts": "lasts_ns",
    "restart": "restart_ns",
    "factor": "factor",
    "share": "share",
    "extra": "extra_ns",
    "down": "down_ns",
    "up": "up_ns",
    "uplink": "uplink",
}
"""Keys that mean the same wherever an entry has them, and what a specification calls them."""


def resolve_faults(document: Document, report: Report) -> tuple[FaultSpecs, tuple[Place, ...]]:
    """The faults of a variant, and where each is written. ``report`` is told of names that are not there."""
    workers = _worker_names(document)
    for index, entry in enumerate(document.faults):
        _check_names(entry, index, document, workers, report)
    specs = tuple(_spec(entry, workers) for entry in document.faults)
    places = tuple(report.place(["faults", str(index)]) for index in range(len(document.faults)))
    detection = document.detection
    return FaultSpecs(specs, Detection(detection.crash, detection.hang, detection.transfer)), places


def late_workers(document: Document) -> frozenset[WorkerId]:
    """Workers that are not there from the start."""
    workers = _worker_names(document)
    late = [workers.get(entry.worker, ()) for entry in document.faults if isinstance(entry, WorkerJoins)]
    return frozenset(worker for some in late for worker in some)


def check_faults(variant: Variant, workload: Workload) -> list[Problem]:
    """Faults that no run of this load would live to see, and such as would strike all the time."""
    horizon_ns = last_arrival_ns(workload)
    problems: list[Problem] = []
    for index, (spec, place) in enumerate(zip(variant.faults.entries, variant.fault_places, strict=True)):
        if not isinstance(spec, TimedSpec):
            continue
        if spec.at_ns is not None and spec.at_ns > horizon_ns:
            latest = f"at most {format_duration_ns(horizon_ns)}, when the last request arrives"
            message = f"found {format_duration_ns(spec.at_ns)}, expected {latest}"
            problems.append(problem_at(place, f"faults.{index}.at", message))
        elif spec.every_ns is not None and horizon_ns > FAULTS_MAX * spec.every_ns / 2:
            least = f"at least {format_duration_ns(2 * horizon_ns / FAULTS_MAX)}"
            message = f"found {format_duration_ns(spec.every_ns)}, expected {least} for a load of this length"
            problems.append(problem_at(place, f"faults.{index}.every", message))
    return problems


def _worker_names(document: Document) -> dict[str, tuple[WorkerId, ...]]:
    """What a fault may name: every worker and every pool, and which workers that is."""
    names: dict[str, tuple[WorkerId, ...]] = {}
    first = 0
    for pool, facts in document.workers.items():
        ids = tuple(WorkerId(first + index) for index in range(facts.count))
        names |= {f"{pool}{index}": (worker,) for index, worker in enumerate(ids)}
        names[pool] = ids
        first += facts.count
    return names


def _check_names(
    entry: FaultEntry, index: int, document: Document, workers: Mapping[str, tuple[WorkerId, ...]], report: Report
) -> None:
    path = ["faults", str(index)]
    worker = getattr(entry, "worker", None)
    if worker is not None and not workers.get(worker):
        known = [name for name in workers if workers[name]]
        some = ", ".join(known if len(known) <= _NAMES_MAX else [*known[:_NAMES_MAX], "..."])
        near = nearest(worker, known)
        report.add([*path, "worker"], f"found '{worker}'{near}, expected a worker or a pool: {some}")
    uplink, uplinks = getattr(entry, "uplink", None), document.network.uplinks
    if uplink is not None and uplink not in uplinks:
        expected = f"one of network.uplinks: {', '.join(uplinks)}" if uplinks else "none, as network.uplinks is empty"
        report.add([*path, "uplink"], f"found '{uplink}'{nearest(uplink, uplinks)}, expected {expected}")
    if isinstance(entry, NicLost):
        names = [name for name in document.workers if set(workers[name]) & set(workers.get(entry.worker, ()))]
        for name in names:
            if document.workers[name].nics == 1:
                message = f"found '{entry.worker}', expected workers with several nics: those of {name} have one"
                report.add([*path, "worker"], message)
        if entry.every is not None and entry.lasts is None:
            report.add([*path, "lasts"], "found none with every, expected how long each NIC is lost")


def _spec(entry: FaultEntry, workers: Mapping[str, tuple[WorkerId, ...]]) -> FaultSpec:
    match entry:
        case ClientCancels():
            return CancelSpec(entry.probability, entry.after, entry.law)
        case TransferBreaks():
            return ChanceSpec(entry.kind, entry.probability)
        case CompletionLost():
            return ChanceSpec(entry.kind, entry.probability, entry.side)
        case CompletionDuplicated() | CompletionReordered():
            return ChanceSpec(entry.kind, entry.probability, entry.side, entry.delay)
        case WorkerJoins():
            return TimedSpec(entry.kind, at_ns=entry.at, workers=workers.get(entry.worker, ()))
    fields = {field: getattr(entry, key) for key, field in _TIMED_FIELDS.items() if key in type(entry).model_fields}
    worker = None if isinstance(entry, ControllerRestart) else entry.worker
    return TimedSpec(entry.kind, workers=() if worker is None else workers.get(worker, ()), **fields)
