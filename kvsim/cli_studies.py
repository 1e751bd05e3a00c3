"""The verbs of the command line that put many runs together: ``kvsim sweep`` and ``kvsim compare``.

As in ``kvsim.cli``, which registers them, each is a thin wrapper around a documented Python call.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kvsim.cli_arguments import ScenarioPath


class Engine(StrEnum):
    """What ``kvsim sweep`` runs points on."""

    PROCESSES = "processes"
    RAY = "ray"


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
        typer.Option(help="Folder to write, or to go on in (default: sweeps/NAME).", show_default=False),
    ] = None,
    engine: Annotated[Engine, typer.Option(help="What runs the points.")] = Engine.PROCESSES,
    workers: Annotated[
        int | None, typer.Option(help="Processes at a time (default: one per core).", min=1, show_default=False)
    ] = None,
    figures: Annotated[bool, typer.Option(help="Draw figures.")] = True,
) -> None:
    """Simulate a scenario over a grid of values and seeds; the same command goes on where it was stopped."""
    from kvsim.report.sweep_table import points_progress, sweep_table  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415
    from kvsim.sweep import run_sweep  # noqa: PLC0415

    try:
        with points_progress() as bar:

            def advance(phase: str, done: int, total: int, before: int) -> None:
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
        typer.echo("interrupted; finished points are kept, and the same command goes on with the others", err=True)
        raise typer.Exit(130) from None
    print_table(sweep_table(result.statistics(), result.differences(), result.layout.knobs))
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {result.path}")


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders; the others are compared with the first.", metavar="RUN...")
    ],
    measured: Annotated[
        Path | None,
        typer.Option(
            help="Hold the one run against this recorded run of a real engine (JSON lines or CSV) instead.",
            show_default=False,
        ),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="--measured: the variant.", show_default="the only one")] = None,
    leave_out: Annotated[int, typer.Option(help="--measured: leave out so many first requests.", min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write.", show_default="runs/compare or runs/measured")
    ] = None,
) -> None:
    """Put finished runs side by side, with the differences and how sure they are; or one beside a recorded run."""
    if measured is not None:
        _compare_recorded(runs, measured, variant, leave_out, out)
        return
    from kvsim.compare import compare_runs, find_candidates, joint_summary, write_comparison  # noqa: PLC0415
    from kvsim.report.compare_table import difference_table  # noqa: PLC0415
    from kvsim.report.terminal import comparison_table, print_table  # noqa: PLC0415

    comparison = compare_runs(runs)
    folder = write_comparison(comparison, out if out is not None else Path("runs/compare"))
    print_table(comparison_table(joint_summary(find_candidates(runs))))
    print_table(difference_table(comparison))
    typer.echo(f"wrote {folder}")


def _compare_recorded(runs: list[Path], measured: Path, variant: str | None, leave_out: int, out: Path | None) -> None:
    from kvsim.errors import RunFolderError  # noqa: PLC0415
    from kvsim.report.recorded_table import recorded_table  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415
    from kvsim.validation.recorded import compare_with_recorded, write_recorded_comparison  # noqa: PLC0415

    if len(runs) != 1:
        raise RunFolderError(f"--measured: found {len(runs)} runs, expected one to hold against the recorded run")
    comparison = compare_with_recorded(runs[0], measured, variant, leave_out)
    folder = write_recorded_comparison(comparison, out if out is not None else Path("runs/measured"))
    print_table(recorded_table(comparison.errors))
    for note in comparison.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {folder}")
