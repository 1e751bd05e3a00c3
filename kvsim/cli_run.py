"""The verbs ``kvsim run`` and ``kvsim replay``: simulate a scenario, and prove that a record tells what happened.

As in ``kvsim.cli``, which loads them, each is a thin wrapper around a documented Python call.
"""

from pathlib import Path
from typing import Annotated

import typer

from kvsim.cli_arguments import ScenarioPath

RunPath = Annotated[Path, typer.Argument(help="Run folder that 'kvsim run' wrote.", metavar="RUN", show_default=False)]


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
    from kvsim.report.progress import run_progress  # noqa: PLC0415
    from kvsim.report.terminal import comparison_table, print_table  # noqa: PLC0415
    from kvsim.run_folder import SUMMARY  # noqa: PLC0415
    from kvsim.scenario import load_scenario  # noqa: PLC0415
    from kvsim.study import run_scenario  # noqa: PLC0415

    loaded = load_scenario(scenario, tuple(overrides or ()), seed)
    folder = out if out is not None else Path("runs") / loaded.name
    with run_progress(1, "simulating") as bar:

        def advance(finished: int, total: int, variant: str) -> None:
            bar.advance_to(finished, total=total, description=variant)

        try:
            watched = advance if bar.is_shown else None  # counting costs more than it should where nobody looks
            result = run_scenario(
                loaded, folder, record=record, timeline=timeline, audit=audit, report=report, advance=watched
            )
        except KeyboardInterrupt:
            kept = f"the variants that had finished are in {folder}" if (folder / SUMMARY).is_file() else "nothing kept"
            typer.echo(f"interrupted; {kept}", err=True)
            raise typer.Exit(130) from None
    print_table(comparison_table(result.summary))
    for note in _notes(result.summary):
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {result.path}" + (" (open report.html in it)" if report else ""))


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
