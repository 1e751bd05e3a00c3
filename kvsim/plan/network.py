"""``plan_network``: over which networks and prompt lengths does disaggregation pay, and how should KV move there?

Every point of the map has its own best layout for each way to move KV, chosen by rate matching among the degrees of the
scenario, and its goodput by simulation. It must not print or write anything.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from kvsim.core.cluster import TransferMode
from kvsim.plan.analytic import AnalyticModel
from kvsim.plan.candidates import rank
from kvsim.plan.cluster import MODES
from kvsim.plan.conditions import Condition, check_nics, fits, scenario_under
from kvsim.plan.errors import PlanError
from kvsim.plan.ground import Ground, ground_of, possible_degrees
from kvsim.plan.layouts import Layout, colocated_layouts, disaggregated_layouts
from kvsim.plan.load import Load, load_of
from kvsim.plan.network_result import TOLERANCE, Entry, NetworkPlan
from kvsim.plan.run_length import NETWORK
from kvsim.plan.search import Found
from kvsim.plan.workers import SearchTask, Workers
from kvsim.scenario import Scenario

GBIT_BYTES = 1e9 / 8
BANDWIDTHS = tuple(rate * GBIT_BYTES for rate in (10, 25, 50, 100, 400))
"""Line rates of usual NICs, in bytes per second each way."""
PROMPT_FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Prompt lengths of the map, as multiples of the scenario's mean."""
SAMPLE_REQUESTS = 400


def plan_network(
    scenario: Scenario,
    gpus: int | None = None,
    *,
    bandwidths: Sequence[float] = BANDWIDTHS,
    prompt_tokens: Sequence[int] | None = None,
    latencies_ns: Sequence[int] = (),
    nics_lost: Sequence[int] = (0,),
    variant: str | None = None,
    modes: Sequence[TransferMode] = MODES,
    requests: int | None = None,
    jobs: int | None = None,
    tell: Callable[[int, int, str], None] | None = None,
) -> NetworkPlan:
    """The break-even map of a scenario on ``gpus`` GPUs (default: as many as it has).

    ``bandwidths`` are of one NIC each way in bytes per second, ``prompt_tokens`` mean lengths (default: from a quarter
    to twice the scenario's), ``latencies_ns`` of one NIC (default: the scenario's), ``nics_lost`` how many NICs of
    every worker are missing. ``requests`` is the length of a run (default: as the rate at each prompt length asks for).
    Raises PlanError, ScenarioError and TraceError.
    """
    ground = ground_of(scenario, variant)
    check_nics(ground, nics_lost)
    load = load_of(ground.variant.workload, scenario.seed, requests or SAMPLE_REQUESTS)
    budget = gpus or ground.gpus
    lengths = sorted(prompt_tokens or _lengths(ground, load))
    points = [
        Condition(rate, latency, lost, tokens)
        for latency, lost, tokens, rate in product(latencies_ns or (None,), nics_lost, lengths, sorted(bandwidths))
        if fits(ground, load, tokens)
    ]
    tasks = _tasks(_Map(ground, load, budget, tuple(modes), requests), points)
    if not tasks:
        raise PlanError(f"{ground.path}: no point of the map fits {budget} GPUs and the context of {ground.model.name}")
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if tell is not None:
            tell(done, len(tasks), "searching")

    with Workers(jobs, step) as workers:
        found = workers.search([task for _, _, task in tasks])
    return NetworkPlan(scenario.name, budget, ground, load, tuple(_entries(points, tasks, found)), tuple(lengths))


@dataclass(frozen=True, slots=True)
class _Map:
    """What all points share."""

    ground: Ground
    load: Load
    gpus: int
    modes: tuple[TransferMode, ...]
    requests: int | None


Planned = tuple[Condition, Layout, SearchTask]


def _tasks(chart: _Map, points: Sequence[Condition]) -> list[Planned]:
    """For every point the best layout of each mode by rate matching; colocated once for each prompt length, as its
    network does not matter. A point where nothing fits has none.

    All points of a prompt length get the same requests: as many as its fastest network asks for, which comes first.
    """
    tasks: list[Planned] = []
    requests: dict[int, int] = {}
    for point in reversed(points):
        ground = ground_of(scenario_under(chart.ground, chart.load, point))
        draft = load_of(ground.variant.workload, chart.load.seed, chart.load.requests)
        try:
            degrees, _ = possible_degrees(ground, chart.gpus, draft.longest_tokens, _degrees(chart.ground))
        except PlanError:
            continue
        layouts = [layout for mode in chart.modes for layout in disaggregated_layouts(chart.gpus, degrees, mode)]
        if point.prompt_tokens not in requests:
            layouts += colocated_layouts(chart.gpus, degrees)
        best = _best_of_each_mode(ground, draft, layouts)
        needed = requests.setdefault(point.prompt_tokens, chart.requests or max(each.requests for each in best))
        load = load_of(ground.variant.workload, chart.load.seed, needed)
        for each in best:
            variant, target = ground.scenario_of(each.layout).variants[0], ground.variant.slo.attainment
            tasks.append((point, each.layout, SearchTask(variant, load, each.start_at, target, tolerance=TOLERANCE)))
    return tasks


@dataclass(frozen=True, slots=True)
class _Expected:
    """A layout, the rate at which its search starts, and the requests that a run at it needs."""

    layout: Layout
    start_at: float
    requests: int


def _best_of_each_mode(ground: Ground, draft: Load, layouts: Sequence[Layout]) -> list[_Expected]:
    """Of each mode the layout that rate matching expects most of."""
    model, slo = AnalyticModel(ground, draft), ground.variant.slo
    ranked = rank(layouts, lambda layout: model.goodput_per_s(layout, slo.attainment))
    best: dict[str, _Expected] = {}
    for layout, expected in (*ranked.disaggregated, *ranked.colocated):
        if layout.mode not in best:
            life_s = model.latency_s(layout)
            requests = NETWORK.requests(expected, (slo.ttft_ns or 0) / 1e9, life_s, slo.attainment)
            best[layout.mode] = _Expected(layout, expected or layout.gpus / (4 * life_s), requests)
    return list(best.values())


def _entries(points: Sequence[Condition], tasks: Sequence[Planned], found: Sequence[Found]) -> list[Entry]:
    """What was found at each point; a colocated layout counts for every network with its prompt length."""
    entries: list[Entry] = []
    for (point, layout, task), each in zip(tasks, found, strict=True):
        alike = [one for one in points if one.prompt_tokens == point.prompt_tokens] if layout.colocated else [point]
        entries += [Entry(one, layout, task.load, each) for one in alike]
    order = {point: place for place, point in enumerate(points)}
    return sorted(entries, key=lambda entry: (order[entry.condition], entry.layout.mode))


def _degrees(ground: Ground) -> list[int]:
    return [ground.checked.workers[name].tensor_parallel for name in (ground.prefill, ground.decode)]


def _lengths(ground: Ground, load: Load) -> list[int]:
    mean = float(load.natural.prompt_tokens.mean())
    wanted = dict.fromkeys(int(float(f"{mean * factor:.2g}")) for factor in PROMPT_FACTORS)
    return [tokens for tokens in wanted if tokens >= 1 and fits(ground, load, tokens)]
