"""Networks and prompt lengths that a break-even map is drawn over, as changes of a scenario.

It must not know layouts or goodputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvsim import units
from kvsim.plan.errors import PlanError
from kvsim.plan.ground import Ground
from kvsim.plan.load import Load
from kvsim.scenario import Scenario, scenario_from_mapping
from kvsim.workload.spec import GeneratedWorkload, LengthPairs

Mapped = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """One point of the map: what each NIC carries one way, its latency (None: the scenario's), how many NICs of each
    worker are lost, and the mean length of prompts."""

    bytes_per_s: float
    latency_ns: int | None
    nics_lost: int
    prompt_tokens: int

    @property
    def name(self) -> str:
        """Short, unique, fit for a file name."""
        latency = "" if self.latency_ns is None else f"-{self.latency_ns}ns"
        lost = f"-{self.nics_lost}lost" if self.nics_lost else ""
        return f"{self.prompt_tokens}tok-{self.bytes_per_s * 8 / 1e9:g}gbit{latency}{lost}"


def scenario_under(ground: Ground, load: Load, condition: Condition) -> Scenario:
    """The ground's scenario with other NICs and prompts. Raises PlanError where no NIC is left, ScenarioError."""
    workers = {name: _pool(name, pool, condition) for name, pool in ground.document["workers"].items()}
    workload = _workload(ground, load, condition.prompt_tokens)
    return scenario_from_mapping({**ground.document, "workers": workers, "workload": workload})


def fits(ground: Ground, load: Load, prompt_tokens: int) -> bool:
    """Whether prompts of this mean length leave room for outputs in the model's context."""
    return prompt_tokens <= _prompt_tokens_max(ground, load)


def check_nics(ground: Ground, lost: Sequence[int]) -> None:
    """Raises PlanError if no NIC would be left."""
    fewest = min(ground.checked.workers[name].nics for name in (ground.prefill, ground.decode))
    for count in lost:
        if count >= fewest:
            raise PlanError(f"--nics-lost: found {count}, expected fewer than a worker has ({fewest})")


def _pool(name: str, pool: Mapped, condition: Condition) -> Mapped:
    nic = {**pool["nic"], "rate": units.exact_rate(condition.bytes_per_s)}
    nic["name"] = f"{condition.bytes_per_s * 8 / 1e9:g} Gbit/s"
    if condition.latency_ns is not None:
        nic["latency"] = units.exact_duration(condition.latency_ns)
    nics = pool["nics"] - condition.nics_lost
    if nics < 1:
        raise PlanError(f"--nics-lost: found {condition.nics_lost}, but workers.{name} has {pool['nics']}")
    return {**pool, "nic": nic, "nics": nics}


def _prompt_tokens_max(ground: Ground, load: Load) -> int:
    """The longest prompt that may be drawn: context and pools as they are, less the longest output."""
    return ground.model.context_tokens_max - int(load.output_tokens.max()) - 1


def _workload(ground: Ground, load: Load, prompt_tokens: int) -> Mapped:
    """Drawn requests with prompts of this mean: the scenario's lengths scaled, with its outputs.

    A trace or a file becomes log-normal lengths of the same coefficients of variation, with Poisson arrivals.
    """
    longest = _prompt_tokens_max(ground, load)
    workload = ground.document["workload"]
    if isinstance(load.spec, GeneratedWorkload) and isinstance(load.spec.lengths, LengthPairs):
        prompts = _scaled(workload["lengths"]["prompt_tokens"], prompt_tokens, longest)
        return {**workload, "lengths": {**workload["lengths"], "prompt_tokens": prompts}}
    natural = load.natural
    drawn: Mapped = {
        "requests": load.requests,
        "arrivals": {"kind": "poisson", "rate": "1 req/s"},
        "lengths": {
            "prompt_tokens": _scaled(_lognormal(natural.prompt_tokens), prompt_tokens, longest),
            "output_tokens": _lognormal(load.output_tokens),
        },
    }
    return drawn


def _lognormal(tokens: np.ndarray) -> Mapped:
    mean, spread = float(np.mean(tokens)), float(np.std(tokens))
    if spread == 0:
        return {"kind": "fixed", "tokens": int(mean)}
    limits = {"tokens_min": int(tokens.min()), "tokens_max": int(tokens.max())}
    return {"kind": "lognormal", "mean_tokens": mean, "cv": spread / mean, **limits}


def _scaled(length: Mapping[str, Any], mean_tokens: int, longest: int) -> Mapped:
    """The same distribution with another mean, cut off at the longest prompt."""
    match length["kind"]:
        case "fixed":
            return {"kind": "fixed", "tokens": mean_tokens}
        case "uniform":
            factor = 2 * mean_tokens / (length["tokens_min"] + length["tokens_max"])
            scaled: Mapped = {"kind": "uniform"}
        case _:
            factor = mean_tokens / length["mean_tokens"]
            scaled = {"kind": "lognormal", "mean_tokens": float(mean_tokens), "cv": length["cv"]}
    low = max(1, round(length["tokens_min"] * factor))
    high = min(max(low, round(length["tokens_max"] * factor)), longest)
    return {**scaled, "tokens_min": min(low, high), "tokens_max": high}
