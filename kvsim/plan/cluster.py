"""``plan_cluster``: the split, degrees and transfer mode that serve a scenario's load best on so many GPUs.

Rate matching ranks every layout, simulation finds the goodput of the best few, and what is reported comes from runs
alone. It must not print or write anything.
"""

from collections.abc import Callable, Mapping, Sequence

from kvsim.core.cluster import TransferMode
from kvsim.plan.analytic import AnalyticModel
from kvsim.plan.candidates import Ranked, best_of, explore, rank
from kvsim.plan.errors import PlanError
from kvsim.plan.ground import Ground, ground_of, possible_degrees
from kvsim.plan.layouts import Layout, colocated_layouts, disaggregated_layouts
from kvsim.plan.load import Load, load_of
from kvsim.plan.probe import Probe
from kvsim.plan.result import Plan
from kvsim.plan.run_length import cluster_run_length
from kvsim.plan.search import STEP, TOLERANCE, Found
from kvsim.plan.workers import ProbeTask, SearchTask, SharpenTask, Workers
from kvsim.scenario import Scenario, Variant
from kvsim.units import format_duration_ns

MODES: tuple[TransferMode, ...] = ("pull", "push", "streamed")
SAMPLE_REQUESTS = 2000
FURTHER_SEEDS = 2

Tell = Callable[[int, int, str], None]
"""Is told how far a plan is: steps done, steps known of, what is being done."""


def plan_cluster(
    scenario: Scenario,
    gpus: int | None = None,
    *,
    variant: str | None = None,
    modes: Sequence[TransferMode] = MODES,
    tensor_parallel: Sequence[int] | None = None,
    requests: int | None = None,
    jobs: int | None = None,
    tell: Tell | None = None,
) -> Plan:
    """Plan ``gpus`` GPUs (default: as many as the scenario has) for the load and limits of a scenario.

    How the scenario itself splits its GPUs does not count.

    ``variant`` names the variant that everything else is taken from, else the first. ``modes`` are compared with each
    other and with colocated workers. ``tensor_parallel`` are the degrees to try (default: 1, 2, 4, 8 and those of the
    scenario), ``requests`` the length of a run (default: what the limits ask for), ``jobs`` the processes to use.

    The same arguments give the same plan, whatever ``jobs``. Raises PlanError if the model needs more GPUs or if no
    layout meets the limits, ScenarioError and TraceError as a run would.
    """
    ground = ground_of(scenario, variant)
    gpus = gpus or ground.gpus
    draft = load_of(ground.variant.workload, scenario.seed, requests or SAMPLE_REQUESTS)
    degrees, notes = possible_degrees(ground, gpus, draft.longest_tokens, tensor_parallel)
    layouts = [*disaggregated_layouts(gpus, degrees, modes[0]), *colocated_layouts(gpus, degrees)]
    if not any(not layout.colocated for layout in layouts):
        notes += (f"only colocated layouts fit (GPUs: {gpus}); disaggregation needs a prefill and a decode worker",)
    model, target = AnalyticModel(ground, draft), ground.variant.slo.attainment
    ranked = rank(layouts, lambda layout: model.goodput_per_s(layout, target))
    load = load_of(ground.variant.workload, scenario.seed, requests or _requests(ground, gpus, model, ranked, target))
    progress = _Progress(tell)
    with Workers(jobs, progress.step) as workers:
        bench = _Bench(ground, load, model, target, workers, progress)
        found = explore(ranked, gpus, modes, bench.measure, bench.corrected)
        if not any(each.goodput_per_s for each in found.values()):
            raise PlanError(_unattainable(ground, gpus, found))
        finalists = _finalists(found)
        found.update(bench.sharpen({layout: found[layout] for layout in finalists}))
        further = bench.confirm({layout: found[layout] for layout in finalists})
    expected = {layout: bench.expected(layout) for layout in found}
    return Plan(scenario.name, gpus, ground, load, target, found, expected, further, (*notes, *load.natural.notes))


class _Progress:
    """Counts steps for whoever watches."""

    def __init__(self, tell: Tell | None) -> None:
        self._tell, self._done, self._known, self._what = tell, 0, 0, ""

    def expect(self, steps: int, what: str) -> None:
        self._known, self._what = self._known + steps, what
        self._show()

    def step(self) -> None:
        self._done += 1
        self._show()

    def _show(self) -> None:
        if self._tell is not None:
            self._tell(self._done, self._known, self._what)


class _Bench:
    """Runs layouts of one ground under one load."""

    def __init__(
        self,
        ground: Ground,
        load: Load,
        model: AnalyticModel,
        target: float,
        workers: Workers,
        progress: _Progress,
    ) -> None:
        self._ground, self._load, self._model, self._target = ground, load, model, target
        self._workers, self._progress = workers, progress
        self._bias = {False: 1.0, True: 1.0}

    def expected(self, layout: Layout) -> float:
        """The goodput that rate matching expects."""
        return self._model.goodput_per_s(layout, self._target)

    def corrected(self, layout: Layout) -> float:
        """What rate matching expects, corrected by how far it was off for the best layouts so far."""
        return self.expected(layout) * self._bias[layout.colocated]

    def measure(self, layouts: Sequence[Layout], floor_per_s: float, near: bool) -> Mapping[Layout, Found]:
        """The goodput of each, by simulation. ``near``: it is expected to be about ``floor_per_s``."""
        self._progress.expect(len(layouts), "searching")
        step = 1 + TOLERANCE if near else STEP
        tasks = [
            SearchTask(
                self._variant(layout),
                self._load,
                floor_per_s if near else self._start_at(layout),
                self._target,
                floor_per_s,
                step=step,
            )
            for layout in layouts
        ]
        found = dict(zip(layouts, self._workers.search(tasks), strict=True))
        self._learn(found)
        return found

    def sharpen(self, found: Mapping[Layout, Found]) -> Mapping[Layout, Found]:
        """The same searches with bounds that are beyond doubt."""
        self._progress.expect(len(found), "checking")
        tasks = [SharpenTask(self._variant(layout), self._load, each) for layout, each in found.items()]
        return dict(zip(found, self._workers.sharpen(tasks), strict=True))

    def confirm(self, found: Mapping[Layout, Found]) -> Mapping[Layout, tuple[Probe, ...]]:
        """Each at its goodput with other requests of the same kind; nothing for a trace, which has no others."""
        if not self._load.varies_with_seed:
            return {}
        loads = [self._load.with_seed(self._load.seed + further) for further in range(1, FURTHER_SEEDS + 1)]
        tasks = [
            ProbeTask(self._variant(layout), load, found[layout].goodput_per_s) for layout in found for load in loads
        ]
        self._progress.expect(len(tasks), "checking")
        probes = self._workers.probe(tasks)
        return {
            layout: tuple(probes[place * FURTHER_SEEDS : (place + 1) * FURTHER_SEEDS])
            for place, layout in enumerate(found)
        }

    def _variant(self, layout: Layout) -> Variant:
        return self._ground.scenario_of(layout).variants[0]

    def _start_at(self, layout: Layout) -> float:
        """Where the search begins. Where rate matching sees no way: one request at a time on every fourth GPU."""
        return self.corrected(layout) or layout.gpus / (4 * self._model.latency_s(layout))

    def _learn(self, found: Mapping[Layout, Found]) -> None:
        """By how much rate matching was off for the best layouts: it is off for the others alike."""
        for colocated in (False, True):
            side = {layout: each for layout, each in found.items() if layout.colocated is colocated}
            expected = self.expected(best_of(side)) if side else 0.0
            if expected and found[best_of(side)].goodput_per_s:
                self._bias[colocated] = found[best_of(side)].goodput_per_s / expected


def _requests(ground: Ground, gpus: int, model: AnalyticModel, ranked: Ranked, target: float) -> int:
    """How many requests a run needs to decide about the target, and to last long enough."""
    best = (*ranked.disaggregated[:1], *ranked.colocated[:1])
    life_s = max(model.latency_s(layout) for layout, _ in best)
    ttft_s = (ground.variant.slo.ttft_ns or 0) / 1e9
    return cluster_run_length(gpus).requests(ranked.best_per_s, ttft_s, life_s, target)


def _finalists(found: Mapping[Layout, Found]) -> list[Layout]:
    """The best disaggregated and the best colocated layout, as far as they meet the limits at all."""
    sides = [{layout: each for layout, each in found.items() if layout.colocated is side} for side in (False, True)]
    return [best_of(side) for side in sides if side and found[best_of(side)].goodput_per_s]


def _unattainable(ground: Ground, gpus: int, found: Mapping[Layout, Found]) -> str:
    """Nothing meets the limits: which layout comes nearest, and by what it fails."""
    tried = [(layout, each) for layout, one in found.items() for each in one.probes]
    layout, nearest = max(tried, key=lambda pair: (pair[1].attainment, -pair[1].rate_per_s, pair[0].name))
    slo = ground.variant.slo
    shown = [
        f"{name} p90 {format_duration_ns(seconds * 1e9)} (limit {format_duration_ns(limit)})"
        for name, seconds, limit in (
            ("TTFT", nearest.ttft_p90_s, slo.ttft_ns),
            ("TPOT", nearest.tpot_p90_s, slo.tpot_ns),
        )
        if limit is not None and seconds is not None
    ]
    return (
        f"{ground.path}: slo: no layout of up to {gpus} GPUs ({ground.gpu_name}) lets {slo.attainment:.0%} of the "
        f"requests meet the limits, however low the rate. The nearest, {layout}, lets {nearest.attainment:.1%} meet "
        f"them at {nearest.rate_per_s:g} req/s: {', '.join(shown)}"
    )
