"""The verb ``kvsim fuzz``. As in ``kvsim.cli``, which registers it, a thin wrapper around a documented Python call."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kvsim.fuzz.campaign import Campaign
    from kvsim.fuzz.schedules import Failure, Tally


def fuzz(
    seeds: Annotated[int, typer.Option(help="How many schedules to play.", min=1)] = 2000,
    start: Annotated[int, typer.Option(help="The first seed.", min=0)] = 0,
    jobs: Annotated[
        int | None, typer.Option(help="Processes at a time (default: one per core).", min=1, show_default=False)
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no more schedules after this time.", min=0, show_default=False)
    ] = None,
    modes: Annotated[
        list[str] | None,
        typer.Option("--mode", help="Only this transfer mode. Repeatable.", show_default=False),
    ] = None,
    unequal_blocks: Annotated[
        bool, typer.Option("--unequal-blocks", help="Workers whose KV blocks differ in length.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where the story of a failing schedule is written.")] = Path("stories"),
) -> None:
    """Play random clusters, loads and faults against the scheduler; shrink the first schedule that fails to a story."""
    from kvsim.fuzz.campaign import run_campaign  # noqa: PLC0415
    from kvsim.fuzz.worlds import MODES  # noqa: PLC0415
    from kvsim.report.progress import run_progress  # noqa: PLC0415
    from kvsim.sweep.pool import available_cores  # noqa: PLC0415

    chosen = tuple([mode for mode in MODES if modes is None or mode in modes])
    unknown = sorted(set(modes or ()) - set(MODES))
    if unknown:
        raise typer.BadParameter(f"found {', '.join(unknown)}, expected {', '.join(MODES)}", param_hint="--mode")
    with run_progress(seeds, "playing schedules") as bar:

        def advance(tally: "Tally") -> None:
            bar.advance_to(tally.schedules, total=seeds, description=f"{tally.calls:,} calls of the scheduler")

        campaign = run_campaign(
            start, seeds, jobs or available_cores(), minutes, chosen, advance, unequal_blocks=unequal_blocks
        )
    _print(campaign)
    if campaign.failure is not None:
        _print_failure(campaign.failure, out)
        raise typer.Exit(1)


def _print(campaign: "Campaign") -> None:
    tally = campaign.tally
    counted = {"mishaps": tally.happened, "requests by end": tally.ends, "schedules by mode": tally.modes}
    typer.echo(
        f"{tally.schedules:,} schedules, seeds {campaign.start} to {campaign.end - 1}: {tally.calls:,} calls, "
        f"{tally.events:,} events in {campaign.duration_s:.1f} s, {campaign.schedules_per_hour:,.0f} schedules an hour"
    )
    for name, counter in counted.items():
        typer.echo(f"{name}: " + ", ".join(f"{kind} {count:,}" for kind, count in counter.most_common()))
    typer.echo("clean" if campaign.failure is None else "NOT clean")


def _print_failure(failure: "Failure", out: Path) -> None:
    from kvsim.fuzz.shrink import shrink, story_of  # noqa: PLC0415

    again = f"kvsim fuzz --seeds 1 --start {failure.seed} --jobs 1 --mode {failure.mode}"
    typer.echo(f"{failure}\nagain: {again}{' --unequal-blocks' if failure.unequal_blocks else ''}")
    short = shrink(failure)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"fuzz_{failure.mode}_{failure.seed}.txt"
    path.write_text(story_of(short), encoding="utf-8")
    typer.echo(
        f"wrote {path}: {len(short.world.records)} calls. Once it is mended, put it into tests/stories and write its "
        "transcript anew: pytest tests/test_stories.py --rewrite"
    )
