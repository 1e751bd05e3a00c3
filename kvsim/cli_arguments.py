"""Arguments that several verbs of the command line take. It must not know any verb."""

from pathlib import Path
from typing import Annotated

import typer

ScenarioPath = Annotated[
    Path, typer.Argument(help="Scenario file (YAML).", metavar="SCENARIO.yaml", show_default=False)
]
