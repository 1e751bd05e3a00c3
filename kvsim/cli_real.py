"""The verbs of the command line that run real workers: ``kvsim calibrate`` and ``kvsim validate``.

As in ``kvsim.cli``, which registers them, each is a thin wrapper around a documented Python call.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvsim.cli_arguments import ScenarioPath

if TYPE_CHECKING:
    from kvsim.scenario import Scenario

Overrides = Annotated[list[str] | None, typer.Option("--set", help="As for 'kvsim run'.", metavar="KEY=VALUE")]
Seed = Annotated[int | None, typer.Option(help="Seed, instead of the scenario's.", min=0)]
Profiles = Annotated[Path, typer.Option(help="Folder in which profiles are kept and looked for.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure anew, even where a profile is there.")]


TransportOption = Annotated[
    str | None,
    typer.Option(
        help="What moves KV, where no variant says otherwise: shm, tcp, message, verbs, cuda_ipc.",
        show_default="what nic names",
    ),
]


def calibrate(
    scenario: ScenarioPath,
    overrides: Overrides = None,
    transport: Annotated[
        list[str] | None,
        typer.Option(
            help="Transport to measure. May be repeated.", show_default="shm, tcp, message; on a GPU cuda_ipc"
        ),
    ] = None,
    profiles: Profiles = Path("profiles"),
    fresh: Fresh = False,
) -> None:
    """Measure the steps and links of this machine with real workers, and write a profile that scenarios can name."""
    from kvsim.real import calibrate as measure  # noqa: PLC0415
    from kvsim.real import real_of  # noqa: PLC0415

    loaded = _load(scenario, overrides, None, None)
    on_gpu = real_of(loaded).device.startswith("cuda")
    transports = transport or (("cuda_ipc",) if on_gpu else ("shm", "tcp", "message"))

    def say(part: str) -> None:
        typer.echo(f"measuring: {part}", err=True)

    result = measure(loaded, profiles, transports=transports, fresh=fresh, say=say)
    typer.echo(f"wrote {result.path}" if result.measured else f"found {result.path} (--fresh measures anew)")


def validate(
    scenario: ScenarioPath,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Annotated[
        Path | None, typer.Option(help="Validation folder to write.", show_default="validations/NAME")
    ] = None,
    transport: TransportOption = None,
    profiles: Profiles = Path("profiles"),
    profile: Annotated[
        Path | None, typer.Option(help="Use this profile and measure none.", show_default="that of this machine")
    ] = None,
    fresh: Fresh = False,
    again: Annotated[
        int, typer.Option(min=0, help="Serve a variant so many times more while other processes keep the machine busy.")
    ] = 2,
    audit: Annotated[bool, typer.Option("--audit", help="As for 'kvsim run', of both worlds.")] = False,
    report: Annotated[bool, typer.Option(help="Draw the figure.")] = True,
) -> None:
    """Serve a scenario with real workers, simulate the same requests and compare; exit status 1 beyond tolerance."""
    from kvsim.real import calibrate as measure  # noqa: PLC0415
    from kvsim.real import validate as hold_against  # noqa: PLC0415
    from kvsim.report.progress import run_progress  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415
    from kvsim.report.validation_table import validation_table, verdict_lines  # noqa: PLC0415

    loaded = _load(scenario, overrides, seed, transport)
    folder = out if out is not None else Path("validations") / loaded.name
    with run_progress(len(loaded.variants), "calibrating") as bar:
        used = profile
        if used is None:
            used = measure(loaded, profiles, fresh=fresh, say=lambda part: bar.advance_to(0, description=part)).path

        def tell(done: int, total: int, doing: str) -> None:
            bar.advance_to(done, total=total, description=doing)

        result = hold_against(loaded, folder, used, again_max=again, audit=audit, report=report, tell=tell)
    print_table(validation_table(result.summary))
    for line in verdict_lines(result.summary):
        typer.echo(line)
    for note in result.summary["notes"]:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {result.path}, simulated with the profile {used}")
    if not result.passed:
        raise typer.Exit(1)


def _load(path: Path, overrides: list[str] | None, seed: int | None, transport: str | None) -> "Scenario":
    from kvsim.real import with_transport  # noqa: PLC0415
    from kvsim.scenario import load_scenario  # noqa: PLC0415

    loaded = load_scenario(path, tuple(overrides or ()), seed)
    return loaded if transport is None else with_transport(loaded, transport)
