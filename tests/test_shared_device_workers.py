"""Workers on a shared device, and workers that are some time away: by hand, and against those with own GPUs."""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from test_simulation_laws import Example, examples
from worlds import DISAGGREGATED, GPU, MODEL, NIC, cluster, hardware, run, slower, workload

from kvsim.core.cluster import ClusterSpec, PolicySpec, TransferMode
from kvsim.core.messages import (
    FEMTOSECONDS_PER_NS,
    Chunk,
    DecodeAdvanced,
    Event,
    LayersReady,
    PrefillDone,
    Record,
    RequestId,
    RunDecode,
    RunId,
    RunPrefill,
    TransferDone,
    TransferReleased,
    WorkerId,
)
from kvsim.metrics import RunColumns
from kvsim.replay import replay
from kvsim.sim.clock import Clock
from kvsim.sim.compute import StepModel
from kvsim.sim.device import SharedDevice
from kvsim.sim.device_worker import SharingWorker
from kvsim.sim.gpu import SimulatedWorker
from kvsim.sim.hardware import DeviceSpec, Hardware
from kvsim.sim.truth import Truth
from kvsim.sim.workers import DistantWorker, Worker
from kvsim.workload import Workload

STEPS = StepModel(MODEL, GPU, 1)
PREFILL_NS = STEPS.prefill_ns([(0, 100)], 0, 0)
US = 1000


def on_one_device(world: Hardware, slowdown: Sequence[float], *, copies: bool = False) -> Hardware:
    """The same hardware, with all workers on one device."""
    workers = tuple(replace(worker, device="one") for worker in world.workers)
    return replace(world, workers=workers, devices=(DeviceSpec("one", tuple(slowdown), copies),))


# --- one worker ----------------------------------------------------------------------------------------------------


class Bench:
    """One worker whose requests have 100 prompt tokens, and one output token already; and what it reports when."""

    def __init__(self, outputs: Sequence[int], slowdown: Sequence[float] | None = None) -> None:
        self.clock = Clock()
        load = workload([(0, 100, output) for output in outputs])
        self.truth = Truth(load.prompt_tokens, load.output_tokens)
        for request in range(len(outputs)):
            self.truth.add_tokens(RequestId(request), 1)
        self.reports: list[tuple[int, Event]] = []
        self.worker: Worker
        base = (self.clock, WorkerId(0), STEPS, MODEL.layers, self.truth, self._report)
        if slowdown is None:
            self.worker = SimulatedWorker(*base)
        else:
            self.device = SharedDevice(self.clock, slowdown)
            self.worker = SharingWorker(*base, self.device)

    def _report(self, event: Event) -> None:
        self.reports.append((self.clock.now_ns, event))

    def at(self, now_ns: int, action: Callable[[], None]) -> None:
        self.clock.call_after(now_ns, action)

    def boundaries_ns(self) -> list[int]:
        """When each decode step ended."""
        ends = []
        started_ns = 0
        for now_ns, event in self.reports:
            assert isinstance(event, DecodeAdvanced)
            for step in range(1, event.steps + 1):
                total_fs = event.carry_fs + step * event.first_step_fs + event.step_growth_fs * step * (step - 1) // 2
                ends.append(started_ns + total_fs // FEMTOSECONDS_PER_NS)
            assert ends[-1] == now_ns
            started_ns = now_ns
        return ends


def decode(run_id: int, batch: Sequence[int], steps_max: int = 1000) -> RunDecode:
    return RunDecode(WorkerId(0), RunId(run_id), tuple(RequestId(request) for request in batch), steps_max)


def prefill(run_id: int, announce_layers: int = 0) -> RunPrefill:
    request = RequestId(0)
    return RunPrefill(
        WorkerId(0), RunId(run_id), (Chunk(request, 0, 100),), (request,), announce_layers=announce_layers
    )


@pytest.mark.parametrize("cut_ns", [None, 0, 150 * US, 333_333])
def test_alone_on_a_device_a_decode_run_has_the_boundaries_of_one_on_its_own_gpu(cut_ns: int | None) -> None:
    own, sharing = Bench([12, 20]), Bench([12, 20], [1.0, 2.0])
    for bench in (own, sharing):
        bench.worker.run_decode(decode(0, [0, 1]))
        if cut_ns is not None:
            bench.at(cut_ns, partial(bench.worker.cut_decode, 0))
        bench.clock.run()
    assert len(own.reports) == 1
    assert len(sharing.reports) == len(sharing.boundaries_ns()) > 0
    assert sharing.boundaries_ns() == own.boundaries_ns()
    last = sharing.reports[-1][1]
    assert isinstance(last, DecodeAdvanced)
    assert last.ended
    assert last.finished == own.reports[0][1].finished  # type: ignore[union-attr]


def test_each_step_is_reported_as_long_as_it_took() -> None:
    """Another is busy from the start on and for good, so every step takes twice as long."""
    alone, sharing = Bench([5], [1.0, 2.0]), Bench([5], [1.0, 2.0])
    sharing.device.occupy()
    for bench in (alone, sharing):
        bench.worker.run_decode(decode(0, [0]))
        bench.clock.run()
    assert len(sharing.boundaries_ns()) == 4
    for (alone_ns, _), (sharing_ns, event) in zip(alone.reports, sharing.reports, strict=True):
        assert sharing_ns == pytest.approx(2 * alone_ns, abs=4)
        assert isinstance(event, DecodeAdvanced)
        assert (event.steps, event.step_growth_fs, event.carry_fs) == (1, 0, 0)
        assert event.first_step_fs % FEMTOSECONDS_PER_NS == 0


def test_a_run_ends_after_as_many_steps_as_were_asked_for_and_the_next_goes_on() -> None:
    own, sharing = Bench([9]), Bench([9], [1.0])
    for bench in (own, sharing):
        bench.worker.run_decode(decode(0, [0], steps_max=3))
        bench.clock.run()
        bench.worker.run_decode(decode(1, [0], steps_max=3))
        bench.clock.run()
    assert [report[0] for report in sharing.reports if report[1].ended] == [report[0] for report in own.reports]  # type: ignore[union-attr]


def test_layers_are_announced_when_their_share_of_the_step_is_done() -> None:
    own, sharing = Bench([5]), Bench([5], [1.0, 2.0])
    sharing.at(PREFILL_NS // 2, sharing.device.occupy)
    for bench in (own, sharing):
        bench.worker.run_prefill(prefill(0, announce_layers=1))
        bench.clock.run()
    kinds = [LayersReady] * (MODEL.layers - 1) + [PrefillDone]
    assert [type(event) for _, event in own.reports] == kinds
    assert [type(event) for _, event in sharing.reports] == kinds
    own_ns, sharing_ns = ([at_ns for at_ns, _ in bench.reports] for bench in (own, sharing))
    assert sharing_ns[:2] == own_ns[:2]
    assert sharing_ns[2:] == [pytest.approx(2 * at_ns - PREFILL_NS // 2, abs=2) for at_ns in own_ns[2:]]


@pytest.mark.parametrize("slowdown", [None, [1.0]])
def test_a_lost_worker_has_reported_its_steps_so_far_and_reports_nothing_more(slowdown: list[float] | None) -> None:
    bench, whole = Bench([9, 30], slowdown), Bench([9, 30])
    whole.worker.run_decode(decode(0, [0, 1]))
    whole.clock.run()
    third_ns = whole.boundaries_ns()[2]
    bench.worker.run_decode(decode(0, [0, 1]))
    bench.at(third_ns + 1, bench.worker.lose)
    bench.clock.run()
    steps = [event.steps for _, event in bench.reports if isinstance(event, DecodeAdvanced) and not event.ended]
    assert (sum(steps), len(bench.reports)) == (3, len(steps))
    assert [bench.truth.tokens_left(RequestId(request)) for request in (0, 1)] == [9 - 4, 30 - 4]
    bench.reports.clear()
    bench.worker.run_decode(decode(1, [1], steps_max=2))  # as a new worker would, that joined in its place
    bench.clock.run()
    assert sum(event.steps for _, event in bench.reports if isinstance(event, DecodeAdvanced)) == 2


@pytest.mark.parametrize("slowdown", [None, [1.0]])
def test_a_prefill_is_lost_with_its_worker(slowdown: list[float] | None) -> None:
    bench = Bench([5], slowdown)
    bench.worker.run_prefill(prefill(0, announce_layers=1))
    bench.at(PREFILL_NS // 2 + 1, bench.worker.lose)
    bench.clock.run()
    assert [type(event) for _, event in bench.reports] == [LayersReady, LayersReady]


def test_a_worker_that_is_lost_as_its_run_ends_has_finished_it() -> None:
    bench, whole = Bench([9]), Bench([9])
    whole.worker.run_decode(decode(0, [0]))
    whole.clock.run()
    bench.at(whole.reports[-1][0], bench.worker.lose)  # before the end of the run, at its instant
    bench.worker.run_decode(decode(0, [0]))
    bench.clock.run()
    assert bench.reports == whole.reports


def test_orders_arrive_late_and_in_order_and_not_at_a_worker_that_was_lost() -> None:
    bench = Bench([30])
    distant = DistantWorker(bench.clock, bench.worker, 50 * US)
    distant.run_decode(decode(0, [0]))
    distant.cut_decode(0)
    bench.clock.run()
    (ended_ns, event), step_ns = bench.reports[0], sum(STEPS.decode_fs(1)) // FEMTOSECONDS_PER_NS
    assert isinstance(event, DecodeAdvanced)
    assert (event.steps, event.ended) == (1, True)
    assert ended_ns == 50 * US + event.first_step_fs // FEMTOSECONDS_PER_NS > 50 * US + step_ns
    distant.run_decode(decode(1, [0]))
    distant.lose()
    bench.clock.run()
    assert len(bench.reports) == 1


# --- whole simulations ---------------------------------------------------------------------------------------------


def requests_of(columns: RunColumns) -> dict[str, list[int]]:
    return {name: getattr(columns.requests, name).tolist() for name in columns.requests.__struct_fields__}


def on_own_gpus(example: Example) -> Hardware:
    return hardware(example.cluster, slower(NIC, example.link_bytes_per_s))


@settings(max_examples=60)
@given(examples())
def test_a_device_on_which_nobody_is_slowed_down_gives_the_results_of_own_gpus(example: Example) -> None:
    own, _ = run(example.cluster, example.load, on_own_gpus(example))
    shared, _ = run(example.cluster, example.load, on_one_device(on_own_gpus(example), [1.0] * 8))
    assert requests_of(shared) == requests_of(own)


@settings(max_examples=40)
@given(examples(), st.sampled_from([[1.0], [1.0, 1.2], [1.0, 1.0, 1.7]]))
def test_a_shared_device_is_deterministic_replays_and_loses_nothing(example: Example, slowdown: list[float]) -> None:
    world = on_one_device(on_own_gpus(example), slowdown)
    columns, records = run(example.cluster, example.load, world)
    _, again = run(example.cluster, example.load, world)
    assert again == records
    assert replay(example.cluster, records).identical
    assert bool((columns.requests.finished | columns.requests.rejected).all())


def test_two_prompts_at_once_on_one_device_take_twice_as_long() -> None:
    """Two colocated workers, a prompt and one output token each."""
    spec, load = cluster("colocated"), workload([(0, 100, 1), (0, 100, 1)])
    own, _ = run(spec, load)
    shared, _ = run(spec, load, on_one_device(hardware(spec), [1.0, 2.0]))
    assert own.requests.finished_ns.tolist() == [PREFILL_NS] * 2
    assert shared.requests.finished_ns.tolist() == [2 * PREFILL_NS] * 2


def test_a_decode_worker_is_slow_only_while_a_prompt_is_computed_beside_it() -> None:
    spec = cluster("pull")
    load = workload([(0, 100, 200), (5_000 * US, 400, 1)])
    own, _ = run(spec, load)
    shared, _ = run(spec, load, on_one_device(hardware(spec), [1.0, 2.0]))
    second_ns = STEPS.prefill_ns([(0, 400)], 0, 0)
    assert own.requests.finished_ns[0] > 5_000 * US + 2 * second_ns
    assert shared.requests.finished_ns[0] - own.requests.finished_ns[0] == pytest.approx(second_ns, abs=2)
    assert shared.requests.finished_ns[1] == pytest.approx(5_000 * US + 2 * second_ns, abs=2)


@pytest.mark.parametrize(("mode", "busy"), [("pull", True), ("push", False)])
def test_a_transfer_keeps_its_initiator_busy_where_the_device_copies(mode: TransferMode, busy: bool) -> None:
    """The second request decodes while the KV of the first moves; only the decode worker is on the device."""
    spec = cluster(mode)
    load = workload([(0, 100, 300), (3_000 * US, 400, 50)])
    ends = []
    for copies in (False, True):
        world = on_one_device(hardware(spec, slower(NIC, 1e8)), [1.0, 2.0], copies=copies)
        prefill_worker = replace(world.workers[0], device=None)
        columns, _ = run(spec, load, replace(world, workers=(prefill_worker, world.workers[1])))
        ends.append(int(columns.requests.finished_ns[0]))
        transfer_ns = int(columns.requests.transfer_end_ns[1] - columns.requests.transfer_start_ns[1])
    assert ends[1] - ends[0] == pytest.approx(transfer_ns / 2 if busy else 0, abs=10 * US)


def latencies(world: Hardware, order_ns: int, report_ns: int) -> Hardware:
    workers = tuple(replace(worker, order_ns=order_ns, report_ns=report_ns) for worker in world.workers)
    return replace(world, workers=workers)


def instants(records: list[Record], kind: type[Event]) -> list[int]:
    return [record.now_ns for record in records for event in record.events if isinstance(event, kind)]


def served(spec: ClusterSpec, load: Workload, order_ns: int, report_ns: int) -> tuple[RunColumns, list[Record]]:
    return run(spec, load, latencies(hardware(spec), order_ns, report_ns))


@pytest.mark.parametrize("mode", DISAGGREGATED)
def test_every_order_and_every_report_of_a_request_takes_its_time(mode: TransferMode) -> None:
    """Prefill, one transfer after it and one decode run: three orders and three reports, one after the other. What is
    released at the source is reported beside that."""
    spec = cluster(mode, policy=in_one_go(mode))
    load = workload([(0, 100, 5)])
    near, near_records = served(spec, load, 0, 0)
    far, far_records = served(spec, load, 30 * US, 20 * US)
    assert far.requests.prefill_end_ns[0] == near.requests.prefill_end_ns[0] + 50 * US
    assert instants(far_records, TransferDone)[0] == instants(near_records, TransferDone)[0] + 100 * US
    assert instants(far_records, TransferReleased)[0] == instants(near_records, TransferReleased)[0] + 100 * US
    assert far.requests.finished_ns[0] == near.requests.finished_ns[0] + 150 * US


def in_one_go(mode: TransferMode) -> PolicySpec:
    """All layers in one transfer."""
    return PolicySpec(mode, layers_per_group=MODEL.layers)


@settings(max_examples=30)
@given(examples(), st.integers(1, 300 * US), st.integers(1, 300 * US))
def test_nothing_is_lost_on_the_way(example: Example, order_ns: int, report_ns: int) -> None:
    for world in (on_own_gpus(example), on_one_device(on_own_gpus(example), [1.0, 1.5])):
        columns, records = run(example.cluster, example.load, latencies(world, order_ns, report_ns))
        assert bool((columns.requests.finished | columns.requests.rejected).all())
        assert replay(example.cluster, records).identical
