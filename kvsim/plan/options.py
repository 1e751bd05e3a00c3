"""What the command line hands to a plan: lists as text to values, and one call for either question.

It must not print.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from kvsim import units
from kvsim.plan.cluster import Tell, plan_cluster
from kvsim.plan.document import plan_document
from kvsim.plan.errors import PlanError
from kvsim.plan.network import BANDWIDTHS, plan_network
from kvsim.plan.write import check_folder, write_network_plan, write_plan
from kvsim.scenario import Scenario

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Axes:
    """What a break-even map is drawn over. Without lengths and latencies: those of the scenario."""

    bandwidths: tuple[float, ...]
    prompt_tokens: tuple[int, ...]
    latencies_ns: tuple[int, ...]
    nics_lost: tuple[int, ...]

    @classmethod
    def parse(cls, bandwidth: str | None, prompt_tokens: str | None, latency: str | None, nics_lost: str) -> Self:
        """From lists with commas. Raises PlanError for what cannot be read."""
        return cls(
            bandwidths=_values("--bandwidth", bandwidth, units.parse_rate) or BANDWIDTHS,
            prompt_tokens=_values("--prompt-tokens", prompt_tokens, _count),
            latencies_ns=_values("--latency", latency, units.parse_duration),
            nics_lost=_values("--nics-lost", nics_lost, _whole),
        )


def make_plan(
    scenario: Scenario,
    folder: Path,
    gpus: int | None,
    axes: Axes | None,
    *,
    variant: str | None = None,
    requests: int | None = None,
    jobs: int | None = None,
    report: bool = True,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Plan a cluster, or with ``axes`` draw a break-even map, and write the folder. Returns what ``plan.json`` holds.

    Nothing is written before everything is known. Raises KvsimError as the plans do.
    """
    check_folder(folder)
    if axes is not None:
        chart = plan_network(
            scenario,
            gpus,
            bandwidths=axes.bandwidths,
            prompt_tokens=axes.prompt_tokens or None,
            latencies_ns=axes.latencies_ns,
            nics_lost=axes.nics_lost,
            variant=variant,
            requests=requests,
            jobs=jobs,
            tell=tell,
        )
        write_network_plan(chart, folder, report=report)
        return chart.document()
    plan = plan_cluster(scenario, gpus, variant=variant, requests=requests, jobs=jobs, tell=tell)
    write_plan(plan, folder, report=report)
    return plan_document(plan)


def _values(option: str, text: str | None, parse: Callable[[str], Value]) -> tuple[Value, ...]:
    if text is None:
        return ()
    values = []
    for part in text.split(","):
        try:
            values.append(parse(part.strip()))
        except ValueError as error:
            raise PlanError(f"{option}: {error}") from error
    return tuple(dict.fromkeys(values))


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"found '{text}', expected a whole number")
    return int(text)


def _count(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise ValueError(f"found '{text}', expected at least 1")
    return number
