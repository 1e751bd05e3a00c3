"""The verb ``kvsim explain``: where every number of a scenario comes from.

As in ``kvsim.cli``, which registers it, it is a thin wrapper around a documented Python call.
"""

from typing import Annotated

import typer

from kvsim.cli_arguments import ScenarioPath
from kvsim.errors import KvsimError


class ExplainError(KvsimError):
    """The scenario has no such variant."""


def explain(
    scenario: ScenarioPath,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="As for 'kvsim run'.", metavar="KEY=VALUE")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the scenario's.", min=0)] = None,
    variant: Annotated[str | None, typer.Option(help="Only this variant.", show_default="all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object a number.")] = False,
) -> None:
    """List every number of a scenario with unit and source: file, option, preset, profile, default or formula."""
    import json  # noqa: PLC0415

    from kvsim.report.explain_table import citations, explain_table  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415
    from kvsim.scenario import load_scenario  # noqa: PLC0415
    from kvsim.scenario.explain import explain as numbers_of  # noqa: PLC0415

    loaded = load_scenario(scenario, tuple(overrides or ()), seed)
    names = [one.name for one in loaded.variants]
    if variant is not None and variant not in names:
        raise ExplainError(f"{scenario}: no variant {variant!r}, only {', '.join(names)}")
    numbers = [one for one in numbers_of(loaded) if variant in (None, one.variant)]
    if as_json:
        typer.echo(json.dumps([one.as_mapping() for one in numbers], indent=1, ensure_ascii=False))
    else:
        print_table(explain_table(numbers))
        for line in citations(numbers):
            typer.echo(line)
