"""``kvsim chaos``: trouble for real workers of this machine.

As in ``kvsim.cli``, which registers it, a thin wrapper around a documented Python call.
"""

from enum import StrEnum
from typing import Annotated

import typer

from kvsim.errors import KvsimError

TRANSPORTS = ("tcp", "shm")


class ChaosMode(StrEnum):
    """How KV moves meanwhile."""

    PUSH = "push"
    PULL = "pull"
    STREAMED = "streamed"
    COLOCATED = "colocated"
    ADAPTIVE = "adaptive"


def chaos(
    mode: Annotated[ChaosMode, typer.Option(help="Transfer mode.")] = ChaosMode.PULL,
    transport: Annotated[str, typer.Option(help="What moves KV: tcp, whose connections suffer too, or shm.")] = "tcp",
    rounds: Annotated[int, typer.Option(help="Rounds of trouble, each with every kind of mishap.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Draws when and whom each mishap strikes.", min=0)] = 0,
) -> None:
    """Kill, stop and cut off real workers while they serve; exit status 1 if one output is not what it should be."""
    try:
        from backends.chaos.report import trouble_table, verdict  # noqa: PLC0415
        from backends.chaos.run import run_chaos  # noqa: PLC0415
    except ImportError as error:
        raise KvsimError(f"{error}: real workers need 'pip install \"kvsim[engine]\"'") from error
    from kvsim.report.terminal import print_table  # noqa: PLC0415

    if transport not in TRANSPORTS:
        raise KvsimError(f"--transport {transport}: found no such transport, expected {' or '.join(TRANSPORTS)}")
    trouble = run_chaos(mode.value, transport, rounds=rounds, seed=seed, say=lambda text: typer.echo(text, err=True))
    print_table(trouble_table(trouble))
    typer.echo(verdict(trouble))
    if trouble.wrong:
        raise typer.Exit(1)
