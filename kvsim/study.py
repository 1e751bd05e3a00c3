"""Run every variant of a scenario and keep what came of it in a run folder.

What the command line does is a call here that returns values: ``run_scenario`` writes a folder and returns it,
``simulate`` runs one variant in memory. This module must not decide what is printed.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from kvsim.audit import AUDIT_SUFFIX, AuditWriter
from kvsim.errors import ScenarioError
from kvsim.metrics import Collector, RunColumns, answers, summarise, write_requests_parquet, write_workers_parquet
from kvsim.record import RECORD_SUFFIX, RecordWriter, read_header, read_records
from kvsim.run_folder import (
    AUDITS,
    FAULTS,
    FIGURES,
    RECORDS,
    REQUESTS,
    SCENARIO,
    SUMMARY,
    TIMELINE,
    WORKERS,
    RunFolder,
    prepare_folder,
    remove_empty_parts,
)
from kvsim.scenario import Scenario, Variant, check_faults, check_fits, dump_resolved
from kvsim.sim.driver import Observer, Simulation
from kvsim.sim.faults.document import fault_document, struck_by_kind
from kvsim.sim.faults.plan import fault_plan
from kvsim.version import VERSION
from kvsim.workload import Workload, generate

Advance = Callable[[int, int, str], None]
"""Is told how far a run is: requests finished in all variants so far, requests of all variants, the variant's name."""


class VariantResult(msgspec.Struct, frozen=True):
    """One variant, simulated. ``summary`` is what ``summary.json`` holds for it, ``faults`` what ``faults.json``
    does, where something could go wrong."""

    variant: Variant
    columns: RunColumns
    summary: dict[str, Any]
    simulator_events: int
    faults: dict[str, Any] | None = None


def link_rates(variant: Variant) -> list[float]:
    """Bytes per second that each worker's NICs carry one way."""
    return [worker.nics * worker.nic.rate_bytes_per_s for worker in variant.hardware.workers]


def workload_of(scenario: Scenario, variant: Variant) -> Workload:
    """The requests of a variant. The same seed gives the same arrivals to every variant. Raises ScenarioError if a
    request can never be served or a fault never strike, TraceError if a trace cannot be read."""
    workload = generate(variant.workload, scenario.seed)
    problems = [*check_fits(variant, workload, scenario.path), *check_faults(variant, workload)]
    if problems:
        raise ScenarioError(tuple(problems))
    return workload


def simulate(
    variant: Variant, workload: Workload, observers: tuple[Observer, ...] = (), *, seed: int = 1
) -> VariantResult:
    """Simulate one variant in memory. ``observers`` see every call of the scheduler. ``seed``, that of the scenario,
    decides when the variant's faults strike; one without faults does not ask for it."""
    collector = Collector(variant.cluster)
    plan = fault_plan(variant.faults, workload, seed)
    simulation = Simulation(variant.cluster, variant.hardware, workload, (collector.observe, *observers), plan)
    simulation.run()
    notes = [*workload.notes, *simulation.notes()]
    struck = simulation.faults
    columns = _as_sent(collector.finish(), workload)
    result = result_of(variant, columns, notes, simulation.events_total, struck_by_kind(struck))
    if not plan:
        return result
    names = [worker.name for worker in variant.cluster.workers]
    return replace(result, faults=fault_document(plan, struck, names, answers(columns)))


def _as_sent(columns: RunColumns, workload: Workload) -> RunColumns:
    """With the instants at which clients sent their requests: a controller that is away hears of them later."""
    requests = columns.requests
    sent_ns = workload.arrival_ns[requests.request]
    start_ns = int(sent_ns.min()) if len(sent_ns) else columns.start_ns
    return replace(columns, requests=replace(requests, arrival_ns=sent_ns), start_ns=start_ns)


def result_of(
    variant: Variant,
    columns: RunColumns,
    notes: Sequence[str],
    events: int = 0,
    struck: Mapping[str, int] | None = None,
) -> VariantResult:
    """What came of a variant, from the columns of a run, simulated or real. ``struck`` counts simulated faults."""
    summary = summarise(
        columns,
        variant.cluster,
        link_rates(variant),
        slo_ttft_ns=variant.slo.ttft_ns,
        slo_tpot_ns=variant.slo.tpot_ns,
        first_token=variant.first_token,
        struck=struck,
    )
    summary["notes"] = list(notes)
    return VariantResult(variant, columns, summary, events)


def run_scenario(
    scenario: Scenario,
    out: Path | str,
    *,
    record: bool = False,
    timeline: bool = False,
    audit: bool = False,
    report: bool = True,
    advance: Advance | None = None,
) -> RunFolder:
    """Simulate every variant and write the run folder; with ``audit``, logs of every movement of KV in it.

    Everything that a user can have got wrong is found before the first variant starts. If the run is interrupted, the
    variants that are finished are written all the same, and the interruption goes on.
    """
    workloads = {variant.name: workload_of(scenario, variant) for variant in scenario.variants}
    folder = prepare_folder(Path(out))  # last, as it removes the results of an earlier run
    results: dict[str, VariantResult] = {}
    with ExitStack() as stack:
        records = folder / RECORDS
        if record:
            records.mkdir(exist_ok=True)
        elif timeline:
            records = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        audits = make_audits(folder, audit=audit)
        try:
            total = sum(len(workload) for workload in workloads.values())
            done = 0
            for variant in scenario.variants:
                workload = workloads[variant.name]
                watch = _watcher(advance, variant.name, done, total)
                with auditing(audits, variant) as auditors:
                    results[variant.name] = _simulate_recorded(
                        variant, workload, scenario.seed, records if record or timeline else None, (*auditors, *watch)
                    )
                done += len(workload)
        finally:
            if results:
                run = write_run(folder, scenario, results, complete=len(results) == len(scenario.variants))
            else:
                remove_empty_parts(folder)
        if timeline:
            _write_timeline(run, records, tuple(results))
    if report:
        write_run_report(run)
    return run


def make_audits(folder: Path, *, audit: bool) -> Path | None:
    """The folder of audit logs inside a run folder, made; None if none are wanted."""
    if not audit:
        return None
    (folder / AUDITS).mkdir(exist_ok=True)
    return folder / AUDITS


@contextmanager
def auditing(audits: Path | None, variant: Variant) -> Iterator[tuple[Observer, ...]]:
    """The observer that writes a variant's log into the folder ``audits``; none without one."""
    if audits is None:
        yield ()
        return
    with AuditWriter(audits / f"{variant.name}{AUDIT_SUFFIX}", variant.cluster) as writer:
        yield (writer.observe,)


def write_run_report(run: RunFolder) -> None:
    """Draw the figures and the HTML report of a run folder."""
    from kvsim.metrics import DEFINITIONS  # noqa: PLC0415
    from kvsim.report.figures import draw_figures, save_figures  # noqa: PLC0415  # matplotlib and pandas are heavy
    from kvsim.report.html import write_report  # noqa: PLC0415

    figures = draw_figures(run.summary, run.requests, run.workers, run.faults)
    save_figures(run.path / FIGURES, figures)
    definitions = {key: (definition.unit, definition.text) for key, definition in DEFINITIONS.items()}
    write_report(run.path, run.summary, figures, run.scenario, definitions)


def _simulate_recorded(
    variant: Variant, workload: Workload, seed: int, records: Path | None, watch: tuple[Observer, ...]
) -> VariantResult:
    if records is None:
        return simulate(variant, workload, watch, seed=seed)
    path = records / f"{variant.name}{RECORD_SUFFIX}"
    try:
        with RecordWriter(path, variant.name, variant.cluster) as writer:
            return simulate(variant, workload, (writer.observe, *watch), seed=seed)
    except BaseException:
        path.unlink(missing_ok=True)  # half a record is of no use to anybody
        raise


def _watcher(advance: Advance | None, name: str, done: int, total: int) -> tuple[Observer, ...]:
    """An observer that counts finished requests and tells ``advance`` of each thousandth; none if nobody watches."""
    if advance is None:
        return ()
    from kvsim.core.messages import FinishRequest  # noqa: PLC0415

    tell = advance
    finished = told = done

    def watch(_now_ns: int, _events: object, commands: Any) -> None:
        nonlocal finished, told
        for command in commands:
            finished += type(command) is FinishRequest
        if (finished - told) * 1000 >= total or finished == total != told:
            told = finished
            tell(finished, total, name)

    tell(done, total, name)
    return (watch,)


def write_run(
    folder: Path, scenario: Scenario, results: Mapping[str, VariantResult], *, complete: bool = True
) -> RunFolder:
    """Write what makes a folder that ``prepare_folder`` made ready a run folder."""
    summary: dict[str, Any] = {
        "scenario": scenario.name,
        "seed": scenario.seed,
        "kvsim_version": VERSION,
        "variants": {name: result.summary for name, result in results.items()},
    }
    if not complete:
        summary["interrupted"] = True
    (folder / SCENARIO).write_text(dump_resolved(scenario), encoding="utf-8")
    faults = {name: result.faults for name, result in results.items() if result.faults is not None}
    if faults:
        (folder / FAULTS).write_text(json.dumps(faults, indent=1) + "\n", encoding="utf-8")
    columns = {name: result.columns for name, result in results.items()}
    write_requests_parquet(folder / REQUESTS, columns, scenario.variants[0].first_token)
    write_workers_parquet(folder / WORKERS, columns)
    # written last: a folder with a summary holds a run
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return RunFolder(folder, summary)


def _write_timeline(run: RunFolder, records: Path, names: tuple[str, ...]) -> None:
    from kvsim.report.timeline import write_timeline  # noqa: PLC0415

    files = {name: records / f"{name}{RECORD_SUFFIX}" for name in names}
    write_timeline(
        run.path / TIMELINE,
        {name: read_records(file) for name, file in files.items()},
        {name: read_header(file).cluster for name, file in files.items()},
        run.faults,
    )
