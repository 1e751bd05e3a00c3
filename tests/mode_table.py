"""Every shipped scenario in every transfer mode, beside mode adaptive: ``python tests/mode_table.py [REQUESTS]
[NAME | NAME/ENVIRONMENT ...]``.

Variants that differ in their transfer mode only are one environment; each environment is simulated in every fixed mode
that moves KV one-sidedly, in mode adaptive, and colocated, which is no mode of a disaggregated cluster and stands there
to be compared with. ``LEFT_OUT`` says which scenarios are not in the table, and why.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kvsim.scenario import Scenario, Variant, load_scenario
from kvsim.study import simulate, workload_of

SCENARIOS = Path(__file__).parent.parent / "scenarios"
FIXED = ("push", "pull", "streamed")
MODES = (*FIXED, "adaptive", "colocated")
NAMES = (
    *("push_vs_pull", "slow_network", "kvdirect", "bench_4p4d", "two_sites", "validate_cpu", "validate_gpu"),
    *("failures", "day_swing"),
)
LEFT_OUT = {
    "azure_conv": "replays a trace, and traces are not shipped",
    "mooncake": "replays a trace, and traces are not shipped",
    "rtx4090_vllm": "replays a trace; one colocated worker, so nothing is moved",
}


@dataclass(frozen=True)
class Row:
    """Mean E2E in seconds of one environment, by mode, over the requests that ended with output."""

    scenario: str
    environment: str
    e2e_s: dict[str, float]

    @property
    def best(self) -> str:
        """The fixed mode with the lowest mean E2E."""
        return min(FIXED, key=lambda mode: self.e2e_s[mode])

    @property
    def excess(self) -> float:
        """By how much adaptive is above the best fixed mode, as a share of it."""
        return self.e2e_s["adaptive"] / self.e2e_s[self.best] - 1

    @property
    def against_colocated(self) -> float | None:
        """By how much adaptive is above colocated, as a share of it; None where no worker may do both."""
        return self.e2e_s["adaptive"] / self.e2e_s["colocated"] - 1 if "colocated" in self.e2e_s else None


def environments(name: str) -> dict[str, dict[str, Any]]:
    """Each environment's changes to the file, under the name of its first variant."""
    document = yaml.safe_load((SCENARIOS / f"{name}.yaml").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = {}
    for variant, changes in (document.get("variants") or {"base": {}}).items():
        own = {key: value for key, value in (changes or {}).items() if key != "transfer.mode"}
        if own not in found.values():
            found[variant] = own
    return found


def modes_of(changes: dict[str, Any], modes: Sequence[str]) -> tuple[str, ...]:
    """Those of ``modes`` that an environment can be simulated in: a colocated worker has no role to change."""
    return tuple([mode for mode in modes if mode != "colocated" or "scheduling.roles" not in changes])


def shortened(name: str, requests: int | None) -> list[str]:
    """What cuts a scenario to about so many requests; of a day in phases, each becomes shorter."""
    if requests is None:
        return []
    document = yaml.safe_load((SCENARIOS / f"{name}.yaml").read_text(encoding="utf-8"))
    phases = document["workload"].get("phases")
    if phases is None:
        return [f"workload.requests={requests}"]
    seconds = [float(phase["duration"].split()[0]) for phase in phases]
    rates = [float(phase["arrivals"]["rate"].split()[0]) for phase in phases]
    share = requests / sum(duration * rate for duration, rate in zip(seconds, rates, strict=True))
    shorter = [{**phase, "duration": f"{s * share:.3f} s"} for phase, s in zip(phases, seconds, strict=True)]
    return [f"workload.phases={json.dumps(shorter)}"]


def mean_e2e_s(scenario: Scenario, variant: Variant) -> float:
    """Of the requests that end with output: all but those whose clients go away."""
    workload = workload_of(scenario, variant)
    requests = simulate(variant, workload).columns.requests
    ended = int(requests.finished.sum()) + requests.ended_as("cancelled")
    assert ended == len(workload), f"{variant.name}: {len(workload) - ended} requests did not finish"
    return float((requests.finished_ns - requests.arrival_ns)[requests.finished].mean()) / 1e9


def rows(names: Sequence[str], requests: int | None, modes: Sequence[str] = MODES) -> Iterator[Row]:
    """The table, row by row; with ``requests`` each run is cut to so many. A name may name one environment only."""
    for name, _, only in (each.partition("/") for each in names):
        changed = {place: own for place, own in environments(name).items() if only in ("", place)}
        tried = {
            f"{environment}_in_{mode}": {**changes, "transfer.mode": mode}
            for environment, changes in changed.items()
            for mode in modes_of(changes, modes)
        }
        written = yaml.safe_dump(tried, default_flow_style=True, width=10_000).strip()
        scenario = load_scenario(SCENARIOS / f"{name}.yaml", (f"variants={written}", *shortened(name, requests)))
        variants = {variant.name: variant for variant in scenario.variants}
        for environment, changes in changed.items():
            e2e_s = {
                mode: mean_e2e_s(scenario, variants[f"{environment}_in_{mode}"]) for mode in modes_of(changes, modes)
            }
            yield Row(name, environment, e2e_s)


def show(row: Row) -> str:
    """One line."""
    times = "".join(f"{row.e2e_s[mode]:10.4f}" if mode in row.e2e_s else f"{'–':>10}" for mode in MODES)
    against = "" if row.against_colocated is None else f"{row.against_colocated:+8.1%} of colocated"
    return f"{row.scenario:13}{row.environment:17}{times}  {row.excess:+7.1%} of {row.best:8}{against}"


def spread(shares: Sequence[float | None]) -> str:
    """The least and the most of what is known, in per cent."""
    known = sorted(share for share in shares if share is not None)
    texts = list(dict.fromkeys(f"{100 * share:+.1f}" for share in (*known[:1], *known[-1:])))
    return " to ".join(texts) + " %" if texts else ""


def summary(table: Sequence[Row]) -> Iterator[str]:
    """The table in short, in Markdown: a line a scenario."""
    yield "| scenario | environments | adaptive against the best fixed mode | against colocated |"
    yield "|---|---|---|---|"
    for scenario in dict.fromkeys(row.scenario for row in table):
        mine = [row for row in table if row.scenario == scenario]
        shares = spread([row.excess for row in mine]), spread([row.against_colocated for row in mine])
        yield f"| `{scenario}` | {len(mine)} | {shares[0]} | {shares[1]} |"


if __name__ == "__main__":
    print(f"{'mean E2E (s)':30}" + "".join(f"{mode:>10}" for mode in MODES) + "  adaptive is")
    counts = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    lines: list[Row] = []
    names = [word for word in sys.argv[1:] if not word.isdecimal()]
    for line in rows(names or NAMES, counts[0] if counts else None):
        lines.append(line)
        print(show(line), flush=True)
    print(*summary(lines), sep="\n")
    for left_out, why in LEFT_OUT.items():
        print(f"{left_out}: left out: {why}")
