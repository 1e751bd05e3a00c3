"""The verb ``kvsim plan``: search for the best cluster, or for the network that makes disaggregation pay.

As in ``kvsim.cli``, which loads it, it is a thin wrapper around a documented Python call.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kvsim.cli_arguments import ScenarioPath


class Question(StrEnum):
    """What ``kvsim plan`` answers."""

    CLUSTER = "cluster"
    NETWORK = "network"


def plan(
    scenario: ScenarioPath,
    gpus: Annotated[
        int | None,
        typer.Option(help="GPUs to plan with.", min=1, show_default="those of the scenario"),
    ] = None,
    what: Annotated[
        Question, typer.Option(help="cluster: the best split. network: where disaggregation pays.")
    ] = Question.CLUSTER,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="As for 'kvsim run'.", metavar="KEY=VALUE")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the scenario's.", min=0)] = None,
    variant: Annotated[str | None, typer.Option(help="The variant to start from.", show_default="the first")] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(help="network: rates of a NIC, such as '25 Gbit/s,100 Gbit/s'.", show_default=False),
    ] = None,
    prompt_tokens: Annotated[
        str | None, typer.Option(help="network: mean prompt lengths, such as 1000,4000.", show_default=False)
    ] = None,
    latency: Annotated[
        str | None, typer.Option(help="network: latencies of a NIC, such as '2 us,50 us'.", show_default=False)
    ] = None,
    nics_lost: Annotated[str, typer.Option(help="network: NICs that each worker has lost, such as 0,1.")] = "0",
    requests: Annotated[
        int | None, typer.Option(help="Requests of a run.", min=2, show_default="as many as needed")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes at a time.", min=1, show_default="one per core")] = None,
    out: Annotated[Path | None, typer.Option(help="Plan folder to write.", show_default="plans/NAME")] = None,
    report: Annotated[bool, typer.Option(help="Draw figures and report.html.")] = True,
) -> None:
    """Find the split, tensor parallelism and transfer mode with the most goodput, or where the network makes it pay."""
    from kvsim.plan.options import Axes, make_plan  # noqa: PLC0415
    from kvsim.report.plan_table import network_table, plan_table  # noqa: PLC0415
    from kvsim.report.progress import run_progress  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415
    from kvsim.scenario import load_scenario  # noqa: PLC0415

    loaded = load_scenario(scenario, tuple(overrides or ()), seed)
    axes = Axes.parse(bandwidth, prompt_tokens, latency, nics_lost) if what is Question.NETWORK else None
    folder = out if out is not None else Path("plans") / loaded.name
    with run_progress(1, "planning") as bar:

        def tell(done: int, known: int, doing: str) -> None:
            bar.advance_to(done, total=known, description=doing)

        document = make_plan(
            loaded, folder, gpus, axes, variant=variant, requests=requests, jobs=jobs, report=report, tell=tell
        )
    print_table(plan_table(document) if axes is None else network_table(document))
    for sentence in document["findings"]:
        typer.echo(sentence)
    for note in document["notes"]:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {folder}" + (" (open report.html in it)" if report else ""))
