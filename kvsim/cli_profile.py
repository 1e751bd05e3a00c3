"""The verbs of ``kvsim profile`` and ``kvsim fidelity``: descriptions of hardware, and how true predictions are.

As in ``kvsim.cli``, which registers them, each is a thin wrapper around a documented Python call.
"""

from pathlib import Path
from typing import Annotated

import typer

from kvsim.profile_kinds import FITTED, IMPORTERS

_KINDS = "; ".join(f"{importer.kind}: {importer.reads}" for importer in IMPORTERS)
_FITTED = "; ".join(f"{kind}: {reads}" for kind, reads in FITTED.items())

profile = typer.Typer(help="Import, fit and show descriptions of real hardware.", no_args_is_help=True)

ProfilePath = Annotated[Path, typer.Argument(help="Profile file.", metavar="FILE", show_default=False)]


@profile.command("import")
def import_tables(
    kind: Annotated[str, typer.Argument(help=f"What PATH holds. {_KINDS}.", metavar="KIND", show_default=False)],
    path: Annotated[Path, typer.Argument(help="File or folder to read.", metavar="PATH", show_default=False)],
    out: Annotated[Path, typer.Option(help="Profile to write; large tables go beside it as Parquet.")],
) -> None:
    """Make a profile of measured tables: per-layer times, kernels, collectives, links."""
    from kvsim.profile.importers import import_profile  # noqa: PLC0415

    for line in import_profile(kind, path, out):
        typer.echo(line)


@profile.command("fit")
def fit_constants(
    kind: Annotated[str, typer.Argument(help=f"What PATH holds. {_FITTED}.", metavar="KIND", show_default=False)],
    path: Annotated[Path, typer.Argument(help="File or folder to read.", metavar="PATH", show_default=False)],
    gpu: Annotated[
        str | None, typer.Option(help="The preset to start from: datasheet, and what the data cannot tell.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="print only")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="serving: fit only rows with this value. May be repeated.", metavar="COLUMN=VALUE"),
    ] = None,
) -> None:
    """Estimate the roofline's constants, or those of links, from measured times; what is left over is told by class."""
    from kvsim.profile.fitters import fit_text_of  # noqa: PLC0415

    text = fit_text_of(kind, path, gpu, tuple(where or ()))
    typer.echo(text, nl=False)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        typer.echo(f"wrote {out}")


@profile.command("steps")
def compose_steps(
    path: ProfilePath,
    model: Annotated[str, typer.Option(help="Preset of the model.")],
    gpu: Annotated[str, typer.Option(help="Preset of the GPU: what no table has, as collectives.")],
    out: Annotated[Path, typer.Option(help="Profile to write, for scenarios to name.")],
    tensor_parallel: Annotated[int, typer.Option(help="GPUs of one worker.", min=1)] = 1,
) -> None:
    """Compose the steps of a model from imported tables of kernels, as a profile that a scenario can name."""
    from kvsim.profile.fitters import steps_profile  # noqa: PLC0415
    from kvsim.profile.write import write_profile  # noqa: PLC0415

    composed = steps_profile(path, model, gpu, tensor_parallel)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_profile(out, composed)
    for name, residual in composed.residuals.items():
        typer.echo(
            f"{name}: {residual.points} steps, tables off by {residual.mean:.1%}, at most {residual.largest:.1%}"
        )
    for note in composed.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {out}")


@profile.command("show")
def show_profile(
    path: ProfilePath,
    out: Annotated[Path | None, typer.Option(help="Picture to draw (PNG, SVG, PDF).", show_default="none")] = None,
) -> None:
    """Print what a profile holds, with origin and units, and draw it."""
    from kvsim.report.profile_figure import draw_profile  # noqa: PLC0415
    from kvsim.report.profile_table import profile_table  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415
    from kvsim.scenario import read_profile  # noqa: PLC0415

    found = read_profile(path).model_dump(mode="json")
    print_table(profile_table(found))
    if out is not None:
        draw_profile(found, path.parent, out)
        typer.echo(f"wrote {out}")


def fidelity(
    folder: Annotated[
        Path, typer.Argument(help="Folder with the public measurements.", metavar="DIR", show_default=False)
    ],
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only the targets whose name begins so. May be repeated.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="File for table and points, which notebooks/fidelity.ipynb draws (JSON).")
    ] = None,
) -> None:
    """Hold predictions against measurements that were not fitted; exit status 1 where one misses its limit."""
    from kvsim.fidelity import FidelityError, fidelity_rows  # noqa: PLC0415
    from kvsim.report.fidelity_table import fidelity_markdown, fidelity_table  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415

    if out is not None and only:
        raise FidelityError("found --only beside --out, expected one of them: the file holds every target")
    rows = fidelity_rows(folder, tuple(only or ()))
    if markdown:
        typer.echo(fidelity_markdown(rows))
    else:
        print_table(fidelity_table(rows))
    for note in dict.fromkeys(row.note for row in rows if row.note):
        typer.echo(f"note: {note}", err=True)
    if out is not None:
        from json import dumps  # noqa: PLC0415

        from kvsim.fidelity.figures import figures  # noqa: PLC0415

        out.write_text(dumps(figures(folder, rows)) + "\n", encoding="utf-8")
        typer.echo(f"wrote {out}", err=True)
    if not all(row.met for row in rows):
        raise typer.Exit(1)
