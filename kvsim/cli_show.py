"""The verbs that show what a scenario may say: ``kvsim list`` presets, ``kvsim schema`` the JSON Schema of its file.

As in ``kvsim.cli``, which loads them, each is a thin wrapper around a documented Python call.
"""

from enum import StrEnum
from typing import Annotated

import typer


class Kind(StrEnum):
    """What ``kvsim list`` can show."""

    MODELS = "models"
    GPUS = "gpus"
    NICS = "nics"


def list_presets(kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)]) -> None:
    """Show the presets that a scenario can name, with the source of each."""
    from kvsim.presets.table import presets_table  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415

    print_table(presets_table(kind.value))


def schema() -> None:
    """Print the JSON Schema of scenario files, for editors."""
    from kvsim.scenario.json_schema import json_schema  # noqa: PLC0415

    typer.echo(json_schema(), nl=False)
