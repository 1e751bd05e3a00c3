"""``kvsim doctor``: whether this machine can move KV caches over RDMA, and what to do where it cannot.

As in ``kvsim.cli``, which registers it, a thin wrapper around a documented Python call.
"""

import json
from typing import Annotated

import typer

from kvsim.errors import KvsimError


def doctor(
    device: Annotated[
        str,
        typer.Option(
            help="RDMA device that workers are to use.", show_default="the one nearest to each GPU, else the first"
        ),
    ] = "",
    pool: Annotated[str, typer.Option(help="KV cache in host memory that each worker registers.")] = "1 GiB",
    workers: Annotated[int, typer.Option(help="Workers on this machine.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of lines.")] = False,
) -> None:
    """Check what transport verbs needs here, a line each with the remedy; exit status 1 if it cannot be used."""
    try:
        from backends.transport.verbs.doctor import Needs, examine, this_machine  # noqa: PLC0415
    except ImportError as error:
        raise KvsimError(f"{error}: real transports need 'pip install \"kvsim[engine]\"'") from error
    from kvsim.units import UnitError, parse_bytes  # noqa: PLC0415

    try:
        pool_bytes = parse_bytes(pool)
    except UnitError as error:
        raise KvsimError(f"--pool: {error}") from None
    report = examine(this_machine(), Needs(pool_bytes, workers, device))
    if as_json:
        typer.echo(json.dumps(report.document(), indent=2))
    else:
        for finding in report.findings:
            typer.echo(finding.line())
        typer.echo(report.verdict())
    if not report.usable:
        raise typer.Exit(1)
