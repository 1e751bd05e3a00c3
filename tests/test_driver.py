"""The driver between SimPy and the scheduler: what it reports and when, and what it keeps to itself."""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from worlds import DISAGGREGATED, GPU, MODEL, MODES, NIC, Recorder, cluster, hardware, run, workload

from kvsim.core.cluster import ClusterSpec, PolicySpec, TransferMode
from kvsim.core.messages import (
    Command,
    CutDecode,
    DeadlineReached,
    DecodeAdvanced,
    Event,
    FinishRequest,
    PrefillDone,
    Record,
    Request,
    RequestArrived,
    RequestId,
    RunDecode,
    RunId,
    RunPrefill,
    StartTransfer,
    TransferDone,
    TransferReleased,
    WorkerId,
)
from kvsim.sim.clock import Clock
from kvsim.sim.compute import StepModel
from kvsim.sim.driver import OUTPUT_TOKENS_UNLIMITED, Simulation
from kvsim.sim.gpu import SimulatedWorker
from kvsim.sim.truth import Truth
from kvsim.workload import Workload

STEPS = StepModel(MODEL, GPU, 1)
PREFILL_NS = STEPS.prefill_ns([(0, 100)], 0, 0)
MS = 1_000_000


def events_at(records: Sequence[Record], now_ns: int) -> list[list[str]]:
    """The names of the events of every call at this instant."""
    return [sorted(type(event).__name__ for event in record.events) for record in records if record.now_ns == now_ns]


def first_call(records: Sequence[Record], wanted: type[Event] | type[Command]) -> int:
    """When the scheduler was first told, or first said, this."""
    return next(r.now_ns for r in records if any(isinstance(m, wanted) for m in (*r.events, *r.commands)))


# --- one instant, one call ---------------------------------------------------------------------------------------


def test_requests_that_arrive_at_one_instant_come_in_one_call() -> None:
    _, records = run(cluster(), workload([(5, 10, 2), (5, 20, 2), (5, 30, 2), (6, 40, 2)]))
    assert [(r.now_ns, len(r.events)) for r in records[:2]] == [(5, 3), (6, 1)]
    arrived = [event.request for event in records[0].events if isinstance(event, RequestArrived)]
    assert [(request.id, request.prompt_tokens) for request in arrived] == [(0, 10), (1, 20), (2, 30)]


def test_an_arrival_and_the_end_of_a_prefill_at_one_instant_come_in_one_call() -> None:
    _, records = run(cluster(), workload([(0, 100, 5), (PREFILL_NS, 100, 5), (PREFILL_NS, 100, 5)]))
    assert events_at(records, PREFILL_NS) == [["PrefillDone", "RequestArrived", "RequestArrived"]]


def test_reports_of_several_workers_at_one_instant_come_in_one_call() -> None:
    _, records = run(cluster(prefill=3), workload([(0, 100, 5)] * 3))
    assert events_at(records, PREFILL_NS) == [["PrefillDone"] * 3]


def test_no_instant_is_told_in_two_calls() -> None:
    load = workload([(index // 3 * 100_000, 20 + index, 3 + index % 7) for index in range(60)])
    for mode in MODES:
        _, records = run(cluster(mode, prefill=2, decode=2), load)
        calls = Counter(record.now_ns for record in records)
        assert max(calls.values()) == 1
        assert [record.now_ns for record in records] == sorted(calls)


def test_pushed_requests_of_one_instant_are_spread_over_prefill_workers() -> None:
    columns, _ = run(cluster("push", prefill=2), workload([(0, 100, 5)] * 8))
    assert Counter(columns.requests.prefill_worker.tolist()) == {0: 4, 1: 4}


# --- time between a report and its answer ------------------------------------------------------------------------


def test_every_answer_comes_later_by_the_time_of_a_decision() -> None:
    spec = cluster("pull")
    decision_ns = 70_000
    _, records = run(spec, workload([(0, 100, 5)]), hardware(spec, decision_ns=decision_ns))
    prefilled_ns = decision_ns + PREFILL_NS
    flow_ns = 7 * 4 * 8192  # 7 blocks, 4 layers; a byte a nanosecond
    arrived_ns = prefilled_ns + decision_ns + flow_ns + 2 * NIC.latency_ns
    step_fs, token_fs = STEPS.decode_fs(1)
    decode_ns = sum(step_fs + token_fs * context for context in (101, 102, 103, 104)) // 10**6
    assert first_call(records, PrefillDone) == prefilled_ns
    assert first_call(records, TransferDone) == arrived_ns
    assert first_call(records, FinishRequest) == arrived_ns + decision_ns + decode_ns


@pytest.mark.parametrize("mode", MODES)
def test_slow_decisions_lose_no_request(mode: TransferMode) -> None:
    load = workload([(index * 150_000, 30 + index, 3 + index % 11) for index in range(40)])
    spec = cluster(mode, kv_blocks=24)
    columns, _ = run(spec, load, hardware(spec, decision_ns=400_000))
    assert bool(columns.requests.finished.all())
    assert columns.requests.output_tokens.tolist() == load.output_tokens.tolist()


# --- deadlines ---------------------------------------------------------------------------------------------------


def patient(mode: TransferMode, prefill_wait_max_ns: int) -> ClusterSpec:
    policy = PolicySpec(mode, prefill_wait_max_ns=prefill_wait_max_ns)
    return cluster(mode, prefill=0 if mode == "colocated" else 1, policy=policy, batch_requests_max=1)


@pytest.mark.parametrize("mode", ["pull", "push", "colocated"])
def test_the_driver_wakes_the_scheduler_at_its_deadline(mode: TransferMode) -> None:
    """The second request gives up while the first is served; nothing else happens at that instant."""
    _, records = run(patient(mode, PREFILL_NS // 2), workload([(0, 100, 1), (10, 100, 1)]))
    (call,) = [r for r in records if r.now_ns == 10 + PREFILL_NS // 2]
    assert call.events == (DeadlineReached(),)
    assert FinishRequest(RequestId(1), "timeout") in call.commands


def test_a_deadline_that_was_met_disturbs_nothing() -> None:
    load = workload([(0, 100, 30), (PREFILL_NS + 1, 100, 30)])
    in_time, _ = run(patient("pull", 2 * PREFILL_NS), load)
    unlimited, _ = run(cluster("pull", batch_requests_max=1), load)
    assert bool(in_time.requests.finished.all())
    assert in_time.requests.finished_ns.tolist() == unlimited.requests.finished_ns.tolist()


# --- decode runs and their cuts ----------------------------------------------------------------------------------


def decoding_worker(outputs: Sequence[int]) -> tuple[Clock, SimulatedWorker, list[tuple[int, Event]]]:
    """A worker whose requests have 100 prompt tokens and one output token already, and what it reports, with times."""
    clock = Clock()
    load = workload([(0, 100, output) for output in outputs])
    truth = Truth(load.prompt_tokens, load.output_tokens)
    for request in range(len(outputs)):
        truth.add_tokens(RequestId(request), 1)
    reports: list[tuple[int, Event]] = []
    worker = SimulatedWorker(
        clock, WorkerId(0), STEPS, MODEL.layers, truth, lambda event: reports.append((clock.now_ns, event))
    )
    return clock, worker, reports


def decode(run_id: int, batch: Sequence[int], steps_max: int = 1000) -> RunDecode:
    return RunDecode(WorkerId(0), RunId(run_id), tuple(RequestId(request) for request in batch), steps_max)


def after(clock: Clock, delay_ns: int, action: Callable[[], None]) -> None:
    """Do something in ``delay_ns``."""
    timeout = clock.env.timeout(delay_ns)
    assert timeout.callbacks is not None
    timeout.callbacks.append(lambda _: action())


def test_a_cut_ends_the_run_at_the_next_step_boundary() -> None:
    step_fs, token_fs = STEPS.decode_fs(1)
    boundary_ns = [sum(step_fs + token_fs * (101 + step) for step in range(count)) // 10**6 for count in range(4)]
    clock, worker, reports = decoding_worker([50])
    worker.run_decode(decode(0, [0]))
    after(clock, boundary_ns[2] + 1, lambda: worker.cut_decode(0))
    clock.run()
    assert reports == [
        (boundary_ns[3], DecodeAdvanced(WorkerId(0), RunId(0), 3, step_fs + 101 * token_fs, token_fs, True))
    ]


def test_a_cut_of_a_run_that_is_over_is_ignored() -> None:
    clock, worker, reports = decoding_worker([50])
    worker.run_decode(decode(0, [0], steps_max=2))
    clock.run()
    worker.cut_decode(0)
    worker.run_decode(decode(1, [0], steps_max=5))
    worker.cut_decode(0)
    clock.run()
    assert [(event.run, event.steps) for _, event in reports if isinstance(event, DecodeAdvanced)] == [(0, 2), (1, 5)]


def test_a_cut_that_comes_after_the_run_has_ended_by_itself_is_ignored() -> None:
    """Decisions are slow, so that the order to cut is on its way when the run ends."""
    spec = cluster("pull")
    decision_ns = 3 * MS
    load = workload([(0, 100, 30), (10 * MS, 100, 30)])
    columns, records = run(spec, load, hardware(spec, decision_ns=decision_ns))
    ((said_ns, cut),) = [(r.now_ns, c.run) for r in records for c in r.commands if isinstance(c, CutDecode)]
    ends_ns = {e.run: r.now_ns for r in records for e in r.events if isinstance(e, DecodeAdvanced)}
    assert said_ns < ends_ns[cut] < said_ns + decision_ns
    assert columns.requests.output_tokens.tolist() == [30, 30]


def test_a_run_ends_with_the_first_request_that_finishes() -> None:
    clock, worker, reports = decoding_worker([9, 5, 5])
    worker.run_decode(decode(0, [0, 1, 2]))
    clock.run()
    (_, event), *rest = reports
    assert rest == []
    assert isinstance(event, DecodeAdvanced)
    assert (event.steps, event.ended, event.finished) == (4, True, (1, 2))  # each had one token of its five


# --- the cost of a simulation ------------------------------------------------------------------------------------


def count(spec: ClusterSpec, load: Workload) -> tuple[float, float]:
    """Events and calls per request."""
    recorder = Recorder()
    simulation = Simulation(spec, hardware(spec), load, (recorder.observe,))
    simulation.run()
    assert simulation.events_total == sum(len(record.events) for record in recorder.records)
    return simulation.events_total / len(load), len(recorder.records) / len(load)


@pytest.mark.parametrize("mode", MODES)
def test_events_per_request_are_few_and_do_not_grow_with_the_output(mode: TransferMode) -> None:
    """A guard of the fast-forward: a request costs a handful of events, however many tokens it produces."""
    spec = cluster(mode, prefill=2, decode=2, kv_blocks=2_000)
    short = workload([(index * 3 * MS, 100, 150 + index % 100) for index in range(150)])
    long = workload([(index * 3 * MS, 100, 2 * (150 + index % 100)) for index in range(150)])
    events, calls = count(spec, short)
    events_long, calls_long = count(spec, long)
    assert events_long < 1.1 * events
    assert calls_long < 1.1 * calls
    # arrival, prefill, two ends of a decode run (one joins, one finishes); for each of at most two transfers: layers
    # ready, done, released
    assert events_long < 4 + 6


# --- hidden truth ------------------------------------------------------------------------------------------------


def test_a_request_tells_the_scheduler_its_prompt_and_its_limit_only() -> None:
    assert Request.__struct_fields__ == ("id", "prompt_tokens", "output_tokens_max", "labels")
    for limit, told in ((None, OUTPUT_TOKENS_UNLIMITED), (17, 17)):
        _, records = run(cluster(), workload([(0, 100, 5)], limit))
        assert records[0].events == (RequestArrived(Request(RequestId(0), 100, told)),)


@pytest.mark.parametrize("mode", DISAGGREGATED)
def test_until_a_request_ends_the_scheduler_cannot_tell_how_long_it_will_go_on(mode: TransferMode) -> None:
    """The same prompts with other true lengths give the same calls, byte for byte, up to the first end."""
    histories = []
    for outputs in ((40, 60, 80), (200, 300, 41)):
        prompts = [(0, 100), (2 * MS, 50), (3 * MS, 200)]
        load = workload([(*prompt, output) for prompt, output in zip(prompts, outputs, strict=True)])
        _, records = run(cluster(mode), load)
        until = next(i for i, r in enumerate(records) if any(isinstance(c, FinishRequest) for c in r.commands))
        histories.append([msgspec.json.encode(record) for record in records[:until]])
    shorter, longer = sorted(histories, key=len)
    assert len(shorter) > 8
    assert longer[: len(shorter)] == shorter


def test_every_run_and_transfer_is_reported_exactly_once() -> None:
    load = workload([(index * 200_000, 40 + index, 3 + index % 9) for index in range(40)])
    for mode in DISAGGREGATED:
        _, records = run(cluster(mode, prefill=2, decode=2), load)
        commands = [command for record in records for command in record.commands]
        events = [event for record in records for event in record.events]
        for order, reports in ((RunPrefill, (PrefillDone,)), (RunDecode, (DecodeAdvanced,))):
            ordered = Counter(c.run for c in commands if isinstance(c, order))
            assert ordered == Counter(e.run for e in events if isinstance(e, reports))
        moved = Counter(c.transfer for c in commands if isinstance(c, StartTransfer))
        assert moved == Counter(e.transfer for e in events if isinstance(e, TransferDone))
        assert moved == Counter(e.transfer for e in events if isinstance(e, TransferReleased))


def test_an_empty_workload_is_over_at_once() -> None:
    spec = cluster()
    none = np.zeros(0, dtype=np.int64)
    simulation = Simulation(spec, hardware(spec), Workload(none, none, none, None, ()))
    simulation.run()
    assert (simulation.now_ns, simulation.events_total, simulation.finished) == (0, 0, 0)
