"""The command line: one verb, one job. Every verb is a thin wrapper around a documented Python call.

What the user did wrong is printed as plain lines and answered with exit status 2, an interruption with 130, a failed
check with 1. Imports inside the verbs keep ``kvsim --help`` quick.
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kvsim.errors import KvsimError

app = typer.Typer(
    name="kvsim",
    help="Study disaggregated LLM inference: one scheduler core that drives a simulator or real GPU workers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(help="Measure kvsim itself.", no_args_is_help=True)
app.add_typer(bench, name="bench")

ScenarioPath = Annotated[
    Path, typer.Argument(help="Scenario file (YAML).", metavar="SCENARIO.yaml", show_default=False)
]
RunPath = Annotated[Path, typer.Argument(help="Run folder that 'kvsim run' wrote.", metavar="RUN", show_default=False)]


class Kind(StrEnum):
    """What ``kvsim list`` can show."""

    MODELS = "models"
    GPUS = "gpus"
    NICS = "nics"


class Engine(StrEnum):
    """What ``kvsim sweep`` runs points on."""

    PROCESSES = "processes"
    RAY = "ray"


def main() -> None:
    """Entry point of the ``kvsim`` command."""
    try:
        app()
    except KvsimError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)


def _print_version(wanted: bool) -> None:
    if wanted:
        from kvsim.version import VERSION  # noqa: PLC0415

        typer.echo(f"kvsim {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def run(
    scenario: ScenarioPath,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a value: dotted key, '=', YAML value. May be repeated.", metavar="KEY=VALUE"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the scenario's.", min=0)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to write [default: runs/NAME].", show_default=False)
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Keep the record that 'kvsim replay' reads.")] = False,
    timeline: Annotated[bool, typer.Option("--timeline", help="Write trace.json for ui.perfetto.dev.")] = False,
    report: Annotated[bool, typer.Option(help="Draw figures and report.html.")] = True,
) -> None:
    """Simulate every variant of a scenario, compare them and write a run folder."""
    from kvsim.report.terminal import comparison_table, print_table, run_progress  # noqa: PLC0415
    from kvsim.run_folder import SUMMARY  # noqa: PLC0415
    from kvsim.scenario import load_scenario  # noqa: PLC0415
    from kvsim.study import run_scenario  # noqa: PLC0415

    loaded = load_scenario(scenario, tuple(overrides or ()), seed)
    folder = out if out is not None else Path("runs") / loaded.name
    with run_progress(1, "simulating") as bar:

        def advance(finished: int, total: int, variant: str) -> None:
            bar.advance_to(finished, total=total, description=variant)

        try:
            result = run_scenario(loaded, folder, record=record, timeline=timeline, report=report, advance=advance)
        except KeyboardInterrupt:
            kept = f"the variants that had finished are in {folder}" if (folder / SUMMARY).is_file() else "nothing kept"
            typer.echo(f"interrupted; {kept}", err=True)
            raise typer.Exit(130) from None
    print_table(comparison_table(result.summary))
    for note in _notes(result.summary):
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {result.path}" + (" (open report.html in it)" if report else ""))


@app.command()
def replay(
    run_path: RunPath,
    request: Annotated[int | None, typer.Option(help="Tell the story of this request instead.", min=0)] = None,
    variant: Annotated[str | None, typer.Option(help="Only this variant.", show_default=False)] = None,
) -> None:
    """Feed a recorded run to a fresh scheduler and compare every command; exit status 1 if one differs."""
    from kvsim.core.messages import RequestId  # noqa: PLC0415
    from kvsim.errors import RunFolderError  # noqa: PLC0415
    from kvsim.record import read_header, read_records  # noqa: PLC0415
    from kvsim.replay import replay_file  # noqa: PLC0415
    from kvsim.story import tell  # noqa: PLC0415

    differs = False
    for name, path in _records(run_path, variant).items():
        if request is not None:
            lines = list(tell(read_header(path).cluster, read_records(path), RequestId(request)))
            if not lines:
                raise RunFolderError(f"{path}: request {request} is not in this run; requests count from 0")
            typer.echo(f"{name}: request {request}")
            for line in lines:
                typer.echo(line)
            continue
        result = replay_file(path)
        if result.difference is None:
            typer.echo(f"{name}: identical ({result.calls} calls, {result.events} events, {result.commands} commands)")
        else:
            differs = True
            typer.echo(f"{name}: different, first in {result.difference}")
    if differs:
        raise typer.Exit(1)


@app.command()
def sweep(
    scenario: ScenarioPath,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            help="Values of a dotted key: 'V1,V2,...' or 'START:STOP:STEP UNIT'. Repeated: every combination. "
            "Instead of the section 'sweep' of the file.",
            metavar="KEY=VALUES",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="As for 'kvsim run'.", metavar="KEY=VALUE")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="First seed, instead of the scenario's.", min=0)] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Seeds of each combination; several give intervals.", min=1, show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write, or to go on in [default: sweeps/NAME].", show_default=False),
    ] = None,
    engine: Annotated[Engine, typer.Option(help="What runs the points.")] = Engine.PROCESSES,
    workers: Annotated[
        int | None, typer.Option(help="Processes at a time [default: one per core].", min=1, show_default=False)
    ] = None,
    figures: Annotated[bool, typer.Option(help="Draw figures.")] = True,
) -> None:
    """Simulate a scenario over a grid of values and seeds; the same command goes on where it was stopped."""
    from kvsim.report.sweep_table import points_progress, sweep_table  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415
    from kvsim.sweep import run_sweep  # noqa: PLC0415

    finished = 0
    try:
        with points_progress() as bar:

            def advance(phase: str, done: int, total: int, before: int) -> None:
                nonlocal finished
                finished = before + done
                bar.advance_to(f"{phase} ({before} were finished)" if before else phase, done, total)

            result = run_sweep(
                scenario,
                vary or (),
                seeds,
                out,
                engine.value,
                overrides=overrides or (),
                seed=seed,
                workers=workers,
                figures=figures,
                advance=advance,
            )
    except KeyboardInterrupt:
        kept = f"{finished} points are finished and kept; the same command goes on with the others"
        typer.echo(f"interrupted; {kept}", err=True)
        raise typer.Exit(130) from None
    print_table(sweep_table(result.statistics(), result.differences(), result.layout.knobs))
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {result.path}")


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders; the others are compared with the first.", metavar="RUN...")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/compare"),
) -> None:
    """Put finished runs side by side, with the differences and how sure they are."""
    from kvsim.compare import compare_runs, find_candidates, joint_summary, write_comparison  # noqa: PLC0415
    from kvsim.report.compare_table import difference_table  # noqa: PLC0415
    from kvsim.report.terminal import comparison_table, print_table  # noqa: PLC0415

    comparison = compare_runs(runs)
    folder = write_comparison(comparison, out)
    print_table(comparison_table(joint_summary(find_candidates(runs))))
    print_table(difference_table(comparison))
    typer.echo(f"wrote {folder}")


@app.command("list")
def list_presets(kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)]) -> None:
    """Show the presets that a scenario can name, with the source of each."""
    from kvsim.presets.table import presets_table  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415

    print_table(presets_table(kind.value))


@app.command()
def schema() -> None:
    """Print the JSON Schema of scenario files, for editors."""
    from kvsim.scenario.json_schema import json_schema  # noqa: PLC0415

    typer.echo(json_schema(), nl=False)


@bench.command("simulator")
def bench_simulator(
    scenarios: Annotated[
        list[Path] | None,
        typer.Argument(help="Scenario files [default: scenarios/bench_4p4d.yaml].", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="As for 'kvsim run'.", metavar="KEY=VALUE")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Runs of each; the median is shown.", min=1)] = 3,
) -> None:
    """Time whole 'kvsim run' processes: CPU seconds, requests per CPU second, peak memory."""
    from kvsim.bench import bench_table, measure  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415

    paths = scenarios or [Path("scenarios/bench_4p4d.yaml")]
    print_table(bench_table([measure(path, tuple(overrides or ()), rounds) for path in paths]))


def _records(run_path: Path, variant: str | None) -> dict[str, Path]:
    from kvsim.errors import RunFolderError  # noqa: PLC0415
    from kvsim.run_folder import load_run  # noqa: PLC0415

    found = load_run(run_path).records
    if not found:
        raise RunFolderError(f"{run_path}: holds no records; run the scenario with --record")
    if variant is not None and variant not in found:
        raise RunFolderError(f"{run_path}: no variant {variant!r}, only {', '.join(found)}")
    return found if variant is None else {variant: found[variant]}


def _notes(summary: dict[str, object]) -> list[str]:
    """Every note of every variant, each once, in order."""
    variants = summary["variants"]
    assert isinstance(variants, dict)
    return list(dict.fromkeys(note for variant in variants.values() for note in variant["notes"]))


if __name__ == "__main__":
    main()
