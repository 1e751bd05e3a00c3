"""``plan_ratio``: what every split of the GPUs into prefill and decode workers carries, not only the best one.

Where ``plan_cluster`` looks for the best layout, this shows the whole curve, with its spread over seeds. It must not
print or write anything.
"""

from collections.abc import Mapping, Sequence

from kvsim.core.cluster import TransferMode
from kvsim.plan.analytic import AnalyticModel
from kvsim.plan.cluster import SAMPLE_REQUESTS, Tell
from kvsim.plan.errors import PlanError
from kvsim.plan.ground import Ground, ground_of, possible_degrees
from kvsim.plan.layouts import Layout, disaggregated_layouts
from kvsim.plan.load import Load, load_of
from kvsim.plan.ratio_result import TOLERANCE, RatioPlan, goodput_between
from kvsim.plan.run_length import cluster_run_length
from kvsim.plan.search import Found
from kvsim.plan.workers import SearchTask, Workers
from kvsim.scenario import Scenario


def plan_ratio(
    scenario: Scenario,
    gpus: int | None = None,
    *,
    variant: str | None = None,
    mode: TransferMode | None = None,
    prefill_workers: Sequence[int] | None = None,
    seeds: int = 3,
    requests: int | None = None,
    jobs: int | None = None,
    tell: Tell | None = None,
) -> RatioPlan:
    """The goodput of every split of ``gpus`` GPUs (default: as many as the scenario has) between prefill and decode.

    Workers keep the tensor-parallel degrees of the scenario. ``variant`` names the variant that everything else is
    taken from, else the first; ``mode`` is how KV moves (default: as in that variant; pull where it is colocated).

    Rate matching estimates every split. Those with so many ``prefill_workers`` (default: all; an empty list: none) are
    simulated too, with ``seeds`` seeds from the scenario's on. Each seed gives all splits the same requests, as many as
    ``requests`` (default: what the limits ask for); a trace has one form, whatever ``seeds``. ``jobs`` are the
    processes to use.

    The same arguments give the same result, whatever ``jobs``. Raises PlanError for what cannot be planned,
    ScenarioError and TraceError as a run would.
    """
    if seeds < 1:
        raise PlanError(f"seeds: found {seeds}, expected at least 1")
    ground = ground_of(scenario, variant)
    gpus = gpus or ground.gpus
    own = ground.variant.cluster.policy.transfer_mode
    draft = load_of(ground.variant.workload, scenario.seed, requests or SAMPLE_REQUESTS)
    splits = _splits(ground, draft, gpus, mode or ("pull" if own == "colocated" else own))
    wanted = _chosen(splits, prefill_workers)
    model, target = AnalyticModel(ground, draft), ground.variant.slo.attainment
    expected = {split: model.goodput_per_s(split, target) for split in splits}
    start_at = {split: expected[split] or gpus / (4 * model.latency_s(split)) for split in wanted}
    load = load_of(ground.variant.workload, scenario.seed, requests or _requests(ground, gpus, model, expected))
    loads = [load]
    if load.varies_with_seed:
        loads += [load.with_seed(load.seed + further) for further in range(1, seeds)]
    found = _search(ground, loads, start_at, target, jobs, tell)
    return RatioPlan(scenario.name, gpus, load.requests, target, expected, found, load.natural.notes)


def _splits(ground: Ground, load: Load, gpus: int, mode: TransferMode) -> list[Layout]:
    """Every split, by prefill workers. Raises PlanError where there is none."""
    own = {
        role: ground.checked.workers[pool].tensor_parallel
        for role, pool in (("prefill", ground.prefill), ("decode", ground.decode))
    }
    possible, notes = possible_degrees(ground, gpus, load.longest_tokens, sorted(set(own.values())))
    degrees = {role: [degree for degree in possible[role] if degree == own[role]] for role in own}
    splits = list(disaggregated_layouts(gpus, degrees, mode))
    if not splits:
        found = f"found {gpus} GPU{'s' if gpus > 1 else ''}"
        expected = f"enough for a prefill worker of {own['prefill']} and a decode worker of {own['decode']}"
        raise PlanError("; ".join((f"{ground.path}: {found}, expected {expected}", *notes)))
    return splits


def _chosen(splits: Sequence[Layout], prefill_workers: Sequence[int] | None) -> list[Layout]:
    """Raises PlanError for a number of workers that no split has."""
    if prefill_workers is None:
        return list(splits)
    known = [split.prefill.workers for split in splits]
    unknown = [workers for workers in prefill_workers if workers not in known]
    if unknown:
        raise PlanError(f"prefill_workers: found {unknown[0]}, expected one of: {', '.join(map(str, known))}")
    return [split for split in splits if split.prefill.workers in prefill_workers]


def _requests(ground: Ground, gpus: int, model: AnalyticModel, expected: Mapping[Layout, float]) -> int:
    """How many requests a run needs to decide about the target, and to last long enough."""
    best = max(expected, key=lambda split: expected[split])
    slo = ground.variant.slo
    life_s = model.latency_s(best)
    return cluster_run_length(gpus).requests(expected[best], (slo.ttft_ns or 0) / 1e9, life_s, slo.attainment)


def _search(
    ground: Ground,
    loads: Sequence[Load],
    start_at: Mapping[Layout, float],
    target: float,
    jobs: int | None,
    tell: Tell | None,
) -> dict[tuple[Layout, int], Found]:
    """The goodput of each split with each load, by split, then by seed.

    The first seed's searches begin at ``start_at``; the other seeds' begin where the first seed's ended.
    """
    places = [(split, load) for split in start_at for load in loads]
    variants = {split: ground.scenario_of(split).variants[0] for split in start_at}
    begin = dict(start_at)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if tell is not None:
            tell(done, len(places), "searching")

    found: dict[tuple[Layout, int], Found] = {}
    with Workers(jobs if places else 1, step) as workers:
        for first in (True, False):
            now = [(split, load) for split, load in places if (load is loads[0]) is first]
            tasks = [
                SearchTask(variants[split], load, begin[split], target, tolerance=TOLERANCE, step=1 + TOLERANCE)
                for split, load in now
            ]
            for (split, load), each in zip(now, workers.search(tasks), strict=True):
                found[split, load.seed] = each
                begin[split] = goodput_between(each) or begin[split]
    return {(split, load.seed): found[split, load.seed] for split, load in places}
