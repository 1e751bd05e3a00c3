"""One run of a layout at one rate, reduced to what a plan needs to know of it.

It must not know which rate comes next.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from kvsim.metrics import Collector, summarise
from kvsim.plan.binding import binding_of
from kvsim.plan.load import Load
from kvsim.plan.misses import misses_of
from kvsim.plan.significance import effective_samples, wilson_interval
from kvsim.scenario import Variant
from kvsim.sim.driver import Simulation
from kvsim.study import link_rates


@dataclass(frozen=True, slots=True)
class Probe:
    """What one run showed. ``attainment`` is the share of the requests that met every limit; ``low`` and ``high``
    bound it at 95 %, from ``effective_requests`` independent ones. Latencies are in seconds, None without a sample.

    ``binding`` is the resource to blame for ``binding_share`` of the missed limits.
    """

    rate_per_s: float
    seed: int
    requests: int
    attainment: float
    low: float
    high: float
    effective_requests: float
    duration_s: float
    ttft_mean_s: float | None
    ttft_p90_s: float | None
    ttft_p99_s: float | None
    tpot_mean_s: float | None
    tpot_p90_s: float | None
    tpot_p99_s: float | None
    e2e_mean_s: float | None
    e2e_p99_s: float | None
    output_tokens_per_request: float
    binding: str | None
    binding_share: float
    gpu_busy: dict[str, float]
    link_utilisation: float

    def row(self) -> dict[str, Any]:
        """Plain values for JSON and tables."""
        return asdict(self)


def probe(variant: Variant, load: Load, rate_per_s: float) -> Probe:
    """Simulate ``variant`` under ``load`` at a rate. The same run as ``kvsim run`` makes of the same scenario."""
    world = replace(variant, workload=load.spec_at(rate_per_s))
    collector = Collector(world.cluster)
    Simulation(world.cluster, world.hardware, load.at(rate_per_s), (collector.observe,)).run()
    columns = collector.finish()
    slo, first_token = world.slo, world.first_token
    summary = summarise(
        columns,
        world.cluster,
        link_rates(world),
        slo_ttft_ns=slo.ttft_ns,
        slo_tpot_ns=slo.tpot_ns,
        first_token=first_token,
    )
    met = misses_of(columns, slo, first_token).met
    attainment = summary["slo_attainment"]
    assert attainment == int(met.sum()) / len(met), (attainment, met.sum(), len(met))
    samples = effective_samples(met)
    low, high = wilson_interval(attainment, samples)
    binding = binding_of(columns, slo, first_token)
    return Probe(
        rate_per_s=rate_per_s,
        seed=load.seed,
        requests=load.requests,
        attainment=attainment,
        low=low,
        high=high,
        effective_requests=samples,
        duration_s=summary["makespan_s"],
        **_latencies(summary),
        output_tokens_per_request=float(columns.requests.output_tokens.mean()),
        binding=binding.resource,
        binding_share=binding.share,
        gpu_busy=summary["gpu_busy"],
        link_utilisation=max(max(ways.values()) for ways in summary["link_utilisation"].values()),
    )


def _latencies(summary: dict[str, Any]) -> dict[str, float | None]:
    wanted = {"ttft": ("mean", "p90", "p99"), "tpot": ("mean", "p90", "p99"), "e2e": ("mean", "p99")}
    return {
        f"{name}_{statistic}_s": None if summary[f"{name}_s"] is None else summary[f"{name}_s"][statistic]
        for name, statistics in wanted.items()
        for statistic in statistics
    }
