"""``Plan``: what a plan found, as values and tables. Every figure names the run that it comes from.

It must not simulate, print or write anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isinf
from typing import TYPE_CHECKING, Any

from kvsim.plan.candidates import best_of
from kvsim.plan.costs import Savings, Service, cost_per_hour, cost_per_million_tokens, savings
from kvsim.plan.ground import Ground
from kvsim.plan.layouts import Layout
from kvsim.plan.load import Load
from kvsim.plan.probe import Probe
from kvsim.plan.search import Found
from kvsim.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """A budget of GPUs, planned. ``found`` holds every layout that was simulated, ``expected_per_s`` what rate matching
    expected of each, ``further`` runs of the finalists with other seeds.
    """

    name: str
    gpus: int
    ground: Ground
    load: Load
    target: float
    found: Mapping[Layout, Found]
    expected_per_s: Mapping[Layout, float]
    further: Mapping[Layout, tuple[Probe, ...]]
    notes: tuple[str, ...]

    @property
    def winner(self) -> Layout:
        """The layout with the largest goodput."""
        return best_of(self.found)

    @property
    def best_disaggregated(self) -> Layout | None:
        """The best layout with a transfer; None if there is none that meets the limits."""
        return self._best(colocated=False)

    @property
    def best_colocated(self) -> Layout | None:
        """The best layout without a transfer; None if there is none that meets the limits."""
        return self._best(colocated=True)

    @property
    def configurations(self) -> "pd.DataFrame":
        """One row a layout that was simulated, the largest goodput first. Rates are per second, times in seconds."""
        import pandas as pd  # noqa: PLC0415  # heavy

        return pd.DataFrame(self.configuration_rows())

    @property
    def runs(self) -> "pd.DataFrame":
        """One row a run, by layout, then in the order in which they were made."""
        import pandas as pd  # noqa: PLC0415  # heavy

        return pd.DataFrame(self.run_rows())

    @property
    def savings(self) -> Savings | None:
        """What disaggregation saves; None without costs, or where one side does not meet the limits."""
        disaggregated, colocated = self.best_disaggregated, self.best_colocated
        if self.ground.cost is None or disaggregated is None or colocated is None:
            return None
        return savings(self.ground.cost, self.service(disaggregated), self.service(colocated))

    def service(self, layout: Layout) -> Service:
        """A layout at its goodput, as costs are computed from it."""
        found = self.found[layout]
        assert found.best is not None, f"{layout} meets the limits at no rate"
        return Service(
            gpus=layout.gpus,
            worker_gpus=layout.prefill.tensor_parallel,
            nics=self.ground.nics(layout),
            goodput_per_s=found.goodput_per_s,
            low_per_s=found.low_per_s,
            high_per_s=found.high_per_s,
            output_tokens_per_request=found.best.output_tokens_per_request,
        )

    def scenario_of(self, layout: Layout, rate_per_s: float | None = None) -> Scenario:
        """The scenario of a layout at a rate (its goodput, else the natural rate), which ``kvsim run`` accepts."""
        rate = rate_per_s or self.found[layout].goodput_per_s or self.load.natural_rate_per_s
        changes = {
            "name": f"{self.name}-{layout.name}",
            "workload": self.load.document_at(self.ground.document["workload"], rate),
        }
        return self.ground.scenario_of(layout, changes)

    def configuration_rows(self) -> list[Row]:
        """The table of layouts as plain values; the rows of the Pareto front are marked."""
        ordered = sorted(self.found, key=lambda layout: (-self.found[layout].goodput_per_s, layout.gpus, layout.name))
        rows = [self._row(layout) for layout in ordered]
        for row in rows:
            row["pareto"] = row["goodput_req_per_s"] > 0 and not any(_dominates(other, row) for other in rows)
        return rows

    def run_rows(self) -> list[Row]:
        """The table of runs as plain values."""
        return [
            {"run": run_id(layout, each), "layout": layout.name, **each.row()}
            for layout, found in self.found.items()
            for each in (*found.probes, *self.further.get(layout, ()))
        ]

    def _best(self, *, colocated: bool) -> Layout | None:
        side = {
            layout: found
            for layout, found in self.found.items()
            if layout.colocated is colocated and found.goodput_per_s
        }
        return best_of(side) if side else None

    def finalist_runs(self) -> list[str]:
        finalists = [layout for layout in (self.best_disaggregated, self.best_colocated) if layout is not None]
        bests = [(layout, self.found[layout].best) for layout in finalists]
        return [run_id(layout, best) for layout, best in bests if best is not None]

    def _row(self, layout: Layout) -> Row:
        found, decode = self.found[layout], layout.decode
        best, beyond = found.best, found.beyond
        priced = self.ground.cost is not None and best is not None
        return {
            "layout": layout.name,
            "mode": layout.mode,
            "prefill_workers": layout.prefill.workers,
            "prefill_tensor_parallel": layout.prefill.tensor_parallel,
            "decode_workers": 0 if decode is None else decode.workers,
            "decode_tensor_parallel": 0 if decode is None else decode.tensor_parallel,
            "gpus": layout.gpus,
            "goodput_req_per_s": found.goodput_per_s,
            "goodput_low": found.low_per_s,
            "goodput_high": None if isinf(found.high_per_s) else found.high_per_s,
            "goodput_per_gpu": found.goodput_per_s / layout.gpus,
            "expected_req_per_s": self.expected_per_s[layout],
            **{key: None if best is None else best.row()[key] for key in _SHOWN_OF_BEST},
            "cost_per_hour": self._priced(cost_per_hour, layout) if priced else None,
            "cost_per_million_output_tokens": self._priced(cost_per_million_tokens, layout) if priced else None,
            "binding": None if beyond is None else beyond.binding,
            "binding_share": None if beyond is None else beyond.binding_share,
            "run": None if best is None else run_id(layout, best),
            "run_beyond": None if beyond is None else run_id(layout, beyond),
        }

    def _priced(self, price: Any, layout: Layout) -> float:
        return float(price(self.ground.cost, self.service(layout)))


_SHOWN_OF_BEST = ("attainment", "ttft_p90_s", "tpot_p90_s", "e2e_mean_s", "link_utilisation")


def run_id(layout: Layout, run: Probe) -> str:
    """Names a run: its layout, rate and seed, which is all that it depends on beside the scenario."""
    return f"{layout.name}@{run.rate_per_s:g}#{run.seed}"


def _dominates(other: Row, row: Row) -> bool:
    """Whether ``other`` is at least as good in goodput per GPU, latency and cost, and better in one of them."""
    if not other["goodput_req_per_s"]:
        return False
    keys = [("goodput_per_gpu", -1.0), ("e2e_mean_s", 1.0), ("cost_per_million_output_tokens", 1.0)]
    pairs = [(sign * other[key], sign * row[key]) for key, sign in keys if row[key] is not None]
    return all(one <= two for one, two in pairs) and any(one < two for one, two in pairs)
