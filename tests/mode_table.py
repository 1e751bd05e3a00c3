"""Every shipped scenario in every transfer mode, beside mode adaptive: ``python tests/mode_table.py [REQUESTS]``.

Variants that differ in their transfer mode only are one environment; each environment is simulated in every fixed mode
that moves KV one-sidedly. Scenarios that replay a trace are left out, as traces are not shipped.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kvsim.scenario import Variant, load_scenario
from kvsim.study import simulate, workload_of

SCENARIOS = Path(__file__).parent.parent / "scenarios"
FIXED = ("push", "pull", "streamed")
NAMES = ("push_vs_pull", "slow_network", "kvdirect", "bench_4p4d", "two_sites", "validate_cpu", "validate_gpu")


@dataclass(frozen=True)
class Row:
    """Mean E2E in seconds of one environment, by mode."""

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


def environments(name: str) -> dict[str, dict[str, Any]]:
    """Each environment's changes to the file, under the name of its first variant."""
    document = yaml.safe_load((SCENARIOS / f"{name}.yaml").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = {}
    for variant, changes in (document.get("variants") or {"base": {}}).items():
        own = {key: value for key, value in (changes or {}).items() if key != "transfer.mode"}
        if own not in found.values():
            found[variant] = own
    return found


def mean_e2e_s(variant: Variant, overrides: Sequence[str], path: Path) -> float:
    """Of the requests that finish; all of them must."""
    workload = workload_of(load_scenario(path, tuple(overrides)), variant)
    requests = simulate(variant, workload).columns.requests
    assert requests.finished.all(), f"{variant.name}: some requests did not finish"
    return float((requests.finished_ns - requests.arrival_ns).mean()) / 1e9


def rows(names: Sequence[str], requests: int | None) -> Iterator[Row]:
    """The table, row by row; with ``requests`` each run is cut to so many."""
    for name in names:
        path = SCENARIOS / f"{name}.yaml"
        cut = [] if requests is None else [f"workload.requests={requests}"]
        for environment, changes in environments(name).items():
            e2e_s = {}
            for mode in (*FIXED, "adaptive"):
                variants = {"tried": {**changes, "transfer.mode": mode}}
                overrides = [
                    f"variants={yaml.safe_dump(variants, default_flow_style=True, width=10_000).strip()}",
                    *cut,
                ]
                loaded = load_scenario(path, tuple(overrides))
                variant = next(variant for variant in loaded.variants if variant.name == "tried")
                e2e_s[mode] = mean_e2e_s(variant, overrides, path)
            yield Row(name, environment, e2e_s)


def show(row: Row) -> str:
    """One line."""
    times = "".join(f"{row.e2e_s[mode]:10.4f}" for mode in (*FIXED, "adaptive"))
    return f"{row.scenario:14}{row.environment:16}{times}   {row.excess:+7.1%} of {row.best}"


if __name__ == "__main__":
    print(f"{'mean E2E (s)':30}" + "".join(f"{mode:>10}" for mode in (*FIXED, "adaptive")))
    for line in rows(NAMES, int(sys.argv[1]) if len(sys.argv) > 1 else None):
        print(show(line), flush=True)
