"""The command line: one verb, one job. Every verb is a thin wrapper around a documented Python call.

What the user did wrong is printed as plain lines and answered with exit status 2, an interruption with 130, a failed
check with 1. Imports inside the verbs keep ``kvsim --help`` quick.
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kvsim.cli_audit import audit as print_audit
from kvsim.cli_bench import bench
from kvsim.cli_chaos import chaos
from kvsim.cli_doctor import doctor
from kvsim.cli_explain import explain
from kvsim.cli_fuzz import fuzz
from kvsim.cli_profile import fidelity, profile
from kvsim.cli_real import calibrate, validate
from kvsim.cli_studies import ScenarioPath, compare, sweep
from kvsim.errors import KvsimError

app = typer.Typer(
    name="kvsim",
    help="Study disaggregated LLM inference: one scheduler core that drives a simulator or real GPU workers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")
app.add_typer(profile, name="profile")

RunPath = Annotated[Path, typer.Argument(help="Run folder that 'kvsim run' wrote.", metavar="RUN", show_default=False)]


class Kind(StrEnum):
    """What ``kvsim list`` can show."""

    MODELS = "models"
    GPUS = "gpus"
    NICS = "nics"


class Question(StrEnum):
    """What ``kvsim plan`` answers."""

    CLUSTER = "cluster"
    NETWORK = "network"


def main() -> None:
    """Do what the command line says, and leave the process. ``kvsim.__main__`` calls it."""
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
    out: Annotated[Path | None, typer.Option(help="Run folder to write.", show_default="runs/NAME")] = None,
    record: Annotated[bool, typer.Option("--record", help="Keep the record that 'kvsim replay' reads.")] = False,
    timeline: Annotated[bool, typer.Option("--timeline", help="Write trace.json for ui.perfetto.dev.")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Log every movement of KV cache, for 'kvsim audit'.")] = False,
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
            result = run_scenario(
                loaded, folder, record=record, timeline=timeline, audit=audit, report=report, advance=advance
            )
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


app.command("audit")(print_audit)
app.command()(sweep)
app.command()(compare)
app.command()(explain)
app.command()(calibrate)
app.command()(validate)
app.command()(chaos)
app.command()(doctor)
app.command()(fidelity)

app.command()(fuzz)


@app.command()
def plan(
    scenario: ScenarioPath,
    gpus: Annotated[
        int | None,
        typer.Option(help="GPUs to plan with.", min=1, show_default="those of the scenario"),
    ] = None,
    what: Annotated[
        Question, typer.Option(help="cluster: the best split. network: where disaggregation pays.")
    ] = Question.CLUSTER,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="As for 'kvsim run'.", metavar="KEY=VALUE")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the scenario's.", min=0)] = None,
    variant: Annotated[str | None, typer.Option(help="The variant to start from.", show_default="the first")] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(help="network: rates of a NIC, such as '25 Gbit/s,100 Gbit/s'.", show_default=False),
    ] = None,
    prompt_tokens: Annotated[
        str | None, typer.Option(help="network: mean prompt lengths, such as 1000,4000.", show_default=False)
    ] = None,
    latency: Annotated[
        str | None, typer.Option(help="network: latencies of a NIC, such as '2 us,50 us'.", show_default=False)
    ] = None,
    nics_lost: Annotated[str, typer.Option(help="network: NICs that each worker has lost, such as 0,1.")] = "0",
    requests: Annotated[
        int | None, typer.Option(help="Requests of a run.", min=2, show_default="as many as needed")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes at a time.", min=1, show_default="one per core")] = None,
    out: Annotated[Path | None, typer.Option(help="Plan folder to write.", show_default="plans/NAME")] = None,
    report: Annotated[bool, typer.Option(help="Draw figures and report.html.")] = True,
) -> None:
    """Find the split, tensor parallelism and transfer mode with the most goodput, or where the network makes it pay."""
    from kvsim.plan.options import Axes, make_plan  # noqa: PLC0415
    from kvsim.report.plan_table import network_table, plan_table  # noqa: PLC0415
    from kvsim.report.terminal import print_table, run_progress  # noqa: PLC0415
    from kvsim.scenario import load_scenario  # noqa: PLC0415

    loaded = load_scenario(scenario, tuple(overrides or ()), seed)
    axes = Axes.parse(bandwidth, prompt_tokens, latency, nics_lost) if what is Question.NETWORK else None
    folder = out if out is not None else Path("plans") / loaded.name
    with run_progress(1, "planning") as bar:

        def tell(done: int, known: int, doing: str) -> None:
            bar.advance_to(done, total=known, description=doing)

        document = make_plan(
            loaded, folder, gpus, axes, variant=variant, requests=requests, jobs=jobs, report=report, tell=tell
        )
    print_table(plan_table(document) if axes is None else network_table(document))
    for sentence in document["findings"]:
        typer.echo(sentence)
    for note in document["notes"]:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {folder}" + (" (open report.html in it)" if report else ""))


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
