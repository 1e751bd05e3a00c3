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
    from kvsim.scenario import load_scenario  # noqa: PLC0415
    from kvsim.study import run_scenario  # noqa: PLC0415

    loaded = load_scenario(scenario, tuple(overrides or ()), seed)
    folder = out if out is not None else Path("runs") / loaded.name
    with run_progress(1, "simulating") as bar:

        def advance(finished: int, total: int, variant: str) -> None:
            bar.advance_to(finished, total=total, description=variant)

        result = run_scenario(loaded, folder, record=record, timeline=timeline, report=report, advance=advance)
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
    from kvsim.record import read_header, read_records  # noqa: PLC0415
    from kvsim.replay import replay_file  # noqa: PLC0415
    from kvsim.story import tell  # noqa: PLC0415

    differs = False
    for name, path in _records(run_path, variant).items():
        if request is not None:
            lines = list(tell(read_header(path).cluster, read_records(path), RequestId(request)))
            typer.echo(f"{name}: request {request}" + ("" if lines else " is not in this run"))
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
    from kvsim.study import load_run  # noqa: PLC0415

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
