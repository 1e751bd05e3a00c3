"""One validation: every variant served for real, recorded and replayed, then simulated with the same requests.

What serves for real is handed in, so this module knows neither workers nor processes; in tests the simulator itself may
play reality. The simulation gets the arrivals as the real driver saw them, which is later than planned by as much as it
takes to wake up.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import Any, TypeAlias

from kvsim.metrics import Collector, RunColumns
from kvsim.metrics.columns import NS_PER_S, Integers
from kvsim.record import RECORD_SUFFIX, RecordWriter
from kvsim.replay import ReplayResult, replay_file
from kvsim.run_folder import RECORDS, prepare_folder
from kvsim.scenario import Scenario, Variant
from kvsim.scenario.real_schema import Tolerance
from kvsim.sim.driver import Observer
from kvsim.study import VariantResult, auditing, make_audits, result_of, simulate, workload_of, write_run
from kvsim.validation.errors import beyond_tolerance, error_rows, median_errors
from kvsim.validation.folder import (
    REAL,
    SIMULATED,
    ValidationFolder,
    all_known,
    known,
    pair_values,
    prepare_validation,
    write_validation,
)
from kvsim.validation.ranking import disagreements, latencies_s, rank
from kvsim.validation.unreal import refuse_faults
from kvsim.version import VERSION
from kvsim.workload import Workload

OTHERS_NOTED = 0.25
"""Cores that others kept busy, from which on a variant is served again, and a reader is told if that did not help."""


@dataclass(frozen=True, slots=True)
class RealRun:
    """What only the real side knows of a run: the mean turn of its scheduler, the cores that other processes kept busy
    meanwhile (NaN where that is not known), and how long its workers took to start."""

    decision_ns: int
    other_cores: float
    start_s: float


ServeReal: TypeAlias = Callable[[Variant, Workload, tuple[Observer, ...]], RealRun]
"""Serves a workload with real workers until every request is over and all pools are empty, which it checks. Observers
see every call of the scheduler; request i is row i of the workload."""

Tell: TypeAlias = Callable[[int, int, str], None]
"""Is told how far a validation is: variants done, variants, what comes next."""


@dataclass(frozen=True, slots=True)
class _Both:
    real: VariantResult
    simulated: VariantResult
    run: RealRun
    replay: ReplayResult


def validate_scenario(
    scenario: Scenario,
    out: Path | str,
    serve: ServeReal,
    *,
    profile: Path | None = None,
    again_max: int = 0,
    audit: bool = False,
    report: bool = True,
    tell: Tell = lambda _done, _total, _doing: None,
) -> ValidationFolder:
    """Validate all variants, one after the other, and write the validation folder. A variant during which other
    processes were busy is served again, up to ``again_max`` times, and the last serving counts, whatever came out.
    ``profile`` is kept in the folder, and with ``audit`` logs of every movement of KV in both worlds.

    If it is interrupted, the runs that are finished are written all the same. Raises KvsimError for what the user got
    wrong and where workers fail.
    """
    refuse_faults(scenario)
    workloads = {variant.name: workload_of(scenario, variant) for variant in scenario.variants}
    folder = prepare_validation(out)
    real, simulated = prepare_folder(folder / REAL), prepare_folder(folder / SIMULATED)
    (real / RECORDS).mkdir(exist_ok=True)
    done: dict[str, _Both] = {}
    try:
        for variant in scenario.variants:
            tell(len(done), len(scenario.variants), variant.name)
            audits = make_audits(real, audit=audit), make_audits(simulated, audit=audit)
            path = real / RECORDS / f"{variant.name}{RECORD_SUFFIX}"
            done[variant.name] = _both(variant, workloads[variant.name], serve, path, audits, again_max)
    finally:
        if done:
            complete = len(done) == len(scenario.variants)
            write_run(real, scenario, {name: both.real for name, both in done.items()}, complete=complete)
            write_run(simulated, scenario, {name: both.simulated for name, both in done.items()}, complete=complete)
    tell(len(done), len(scenario.variants), "comparing")
    return _compare(folder, scenario, done, profile, report=report)


def tolerance_of(scenario: Scenario) -> Tolerance:
    """The section ``tolerance``; without one nothing is asked for."""
    return Tolerance.model_validate(scenario.document.get("tolerance", {}))


def _both(
    variant: Variant,
    workload: Workload,
    serve: ServeReal,
    record: Path,
    audits: tuple[Path | None, Path | None],
    again_max: int,
) -> _Both:
    servings, disturbed = 0, True
    while disturbed and servings <= again_max:
        columns, run = _served(variant, workload, serve, record, audits[0])
        servings, disturbed = servings + 1, run.other_cores > OTHERS_NOTED
    real = result_of(variant, columns, _real_notes(workload, columns, run, servings))
    with auditing(audits[1], variant) as auditors:
        simulated = simulate(variant, as_served(workload, columns), auditors)
    return _Both(real, simulated, run, replay_file(record))


def _served(
    variant: Variant, workload: Workload, serve: ServeReal, record: Path, audits: Path | None
) -> tuple[RunColumns, RealRun]:
    """One serving; its record and its log take the place of those of an earlier one."""
    collector = Collector(variant.cluster)
    try:
        with RecordWriter(record, variant.name, variant.cluster) as writer, auditing(audits, variant) as auditors:
            run = serve(variant, workload, (writer.observe, collector.observe, *auditors))
    except BaseException:
        record.unlink(missing_ok=True)  # half a record is of no use to anybody
        raise
    return collector.finish(), run


def as_served(workload: Workload, columns: RunColumns) -> Workload:
    """The same requests at the instants at which they really arrived."""
    requests = columns.requests
    assert len(requests.request) == len(workload), f"{len(requests.request)} of {len(workload)} requests arrived"
    assert requests.prompt_tokens.tolist() == workload.prompt_tokens.tolist(), "requests arrived in another order"
    return Workload(
        requests.arrival_ns.copy(),
        workload.prompt_tokens,
        workload.output_tokens,
        workload.output_tokens_max,
        workload.notes,
        workload.labels,
    )


def _real_notes(workload: Workload, columns: RunColumns, run: RealRun, servings: int) -> list[str]:
    notes = list(workload.notes)
    if run.other_cores > OTHERS_NOTED:
        notes.append(f"other processes kept {run.other_cores:.1f} cores busy while real workers served")
    if servings > 1:
        notes.append(f"served {servings} times, as other processes were busy; the last serving counts")
    unfinished = len(workload) - int(columns.requests.finished.sum())
    if unfinished:
        notes.append(f"{unfinished} requests ended without output")
    return notes


def _compare(
    folder: Path, scenario: Scenario, done: Mapping[str, _Both], profile: Path | None, *, report: bool
) -> ValidationFolder:
    rows = error_rows(
        {name: both.real.summary for name, both in done.items()},
        {name: both.simulated.summary for name, both in done.items()},
    )
    validation = ValidationFolder(folder, {})
    pairs = rank(latencies_s(validation.real.requests), latencies_s(validation.simulated.requests))
    medians, tolerance = median_errors(rows), tolerance_of(scenario)
    failures = [
        f"{name}: the replay differs in {both.replay.difference}"
        for name, both in done.items()
        if not both.replay.identical
    ]
    failures += beyond_tolerance(medians, tolerance)
    wrong = disagreements(pairs)
    if tolerance.ranking:
        failures += wrong
    notes = [f"{name}: {note}" for name, both in done.items() for note in both.real.summary["notes"]]
    notes += list(dict.fromkeys(note for both in done.values() for note in both.simulated.summary["notes"]))
    summary: dict[str, Any] = {
        "scenario": scenario.name,
        "seed": scenario.seed,
        "kvsim_version": VERSION,
        "failures": failures,
        "median_errors": medians,
        "tolerance": tolerance.model_dump(),
        "ranking": [pair_values(pair) for pair in pairs],
        "replay": {name: _replay_values(both.replay) for name, both in done.items()},
        "real": {name: all_known(asdict(both.run)) for name, both in done.items()},
        "steps": {name: _steps(both) for name, both in done.items()},
        "errors": [
            {
                "variant": row.variant,
                "metric": row.metric,
                "statistic": row.statistic,
                "real_s": known(row.real_s),
                "simulated_s": known(row.simulated_s),
                "error": known(row.error),
            }
            for row in rows
        ],
        "notes": notes,
    }
    return write_validation(folder, summary, rows, profile, report=report)


def _steps(both: _Both) -> dict[str, Any]:
    """Mean durations of a step by kind in both worlds, from order or last step to report: what tells a machine that has
    changed since its calibration from a model that queues otherwise."""
    worlds = {"real_s": both.real.columns, "simulated_s": both.simulated.columns}
    return {
        "prefill": {
            world: known(_mean_s(columns.prefills.end_ns - columns.prefills.start_ns))
            for world, columns in worlds.items()
        },
        "decode": {world: known(_mean_s(columns.steps.duration_ns)) for world, columns in worlds.items()},
    }


def _mean_s(durations_ns: Integers) -> float:
    return float(durations_ns.mean()) / NS_PER_S if len(durations_ns) else nan


def _replay_values(replay: ReplayResult) -> dict[str, Any]:
    return {
        "identical": replay.identical,
        "calls": replay.calls,
        "events": replay.events,
        "commands": replay.commands,
    }
