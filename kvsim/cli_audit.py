"""The verb ``kvsim audit``: where the KV cache of a run went. ``kvsim.cli`` registers it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kvsim.audit import Movement


def audit(
    run_path: Annotated[Path, typer.Argument(help="A run folder written with --audit or --record.", metavar="RUN")],
    variant: Annotated[str | None, typer.Option(help="Only this variant.", show_default=False)] = None,
    request: Annotated[int | None, typer.Option(help="Only this request.", min=0)] = None,
) -> None:
    """Print every movement of KV cache: when, whose, from where, to where, how much, how it ended and why it began."""
    import msgspec  # noqa: PLC0415

    for name, moved in _logs(run_path, variant):
        for movement in moved:
            if request is None or movement.request == request:
                line = msgspec.json.encode({"variant": name} | msgspec.to_builtins(movement))
                typer.echo(line.decode())


def _logs(run_path: Path, variant: str | None) -> "Iterator[tuple[str, Iterator[Movement]]]":
    """Each variant with its movements, from its log, else from its record."""
    from kvsim.audit import movements, read_audit  # noqa: PLC0415
    from kvsim.errors import RunFolderError  # noqa: PLC0415
    from kvsim.record import read_header, read_records  # noqa: PLC0415
    from kvsim.run_folder import load_run  # noqa: PLC0415

    run = load_run(run_path)
    logs, records = run.audits, run.records
    known = [name for name in run.summary["variants"] if name in logs or name in records]
    if not known:
        raise RunFolderError(f"{run_path}: holds no audit log; run the scenario with --audit")
    if variant is not None and variant not in known:
        raise RunFolderError(f"{run_path}: no variant {variant!r}, only {', '.join(known)}")
    for name in known if variant is None else [variant]:
        if name in logs:
            yield name, read_audit(logs[name])
        else:
            yield name, movements(read_header(records[name]).cluster, read_records(records[name]))
