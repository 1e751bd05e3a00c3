"""The verbs of ``kvsim profile`` and ``kvsim fidelity``: descriptions of hardware, and how true predictions are.

As in ``kvsim.cli``, which registers them, each is a thin wrapper around a documented Python call.
"""

from pathlib import Path
from typing import Annotated

import typer

from kvsim.profile_kinds import IMPORTERS

_KINDS = "; ".join(f"{importer.kind}: {importer.reads}" for importer in IMPORTERS)

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


def fidelity(
    folder: Annotated[
        Path, typer.Argument(help="Folder with the public measurements.", metavar="DIR", show_default=False)
    ],
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only the targets whose name begins so. May be repeated.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Hold predictions against measurements that were not fitted; exit status 1 where one misses its limit."""
    from kvsim.fidelity import fidelity_rows  # noqa: PLC0415
    from kvsim.report.fidelity_table import fidelity_markdown, fidelity_table  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415

    rows = fidelity_rows(folder, tuple(only or ()))
    if markdown:
        typer.echo(fidelity_markdown(rows))
    else:
        print_table(fidelity_table(rows))
    for note in dict.fromkeys(row.note for row in rows if row.note):
        typer.echo(f"note: {note}", err=True)
    if not all(row.met for row in rows):
        raise typer.Exit(1)
