"""From what workers report to a profile, by numbers made by hand: steps, transfers, latencies, slowdown."""

import pytest

from backends.calibrate.plan import CalibrationError, CalibrationPlan
from backends.calibrate.watch import StepSample, Watch, while_busy
from backends.control.messages import Report
from kvsim.core.messages import (
    Chunk,
    DecodeAdvanced,
    Event,
    PrefillDone,
    Request,
    RequestArrived,
    RequestId,
    RunDecode,
    RunId,
    RunPrefill,
    StartTransfer,
    TransferDone,
    TransferId,
    TransferReleased,
    WorkerId,
)
from kvsim.presets.fields import ModelFields
from kvsim.profile import StepPoint
from kvsim.profile.machine import MachineFacts, averaged, line, machine_profile, slowdown
from kvsim.profile.measurement import Measurement, TransferSample
from kvsim.profile.write import profile_text

A, B, W = RequestId(0), RequestId(1), WorkerId(0)
MODEL = ModelFields(
    name="m",
    layers=2,
    hidden=8,
    heads=2,
    kv_heads=1,
    head_dim=4,
    intermediate=16,
    vocabulary=32,
    context_tokens_max=512,
)
FACTS = MachineFacts("m", "a test", "a machine", "an engine", "2026-01-01", {"torch": "2"}, MODEL)


class Driver:
    """Tells a watch what a driver would: reports first, then the call of the scheduler that hears of them."""

    def __init__(self) -> None:
        self.watch = Watch()

    def report(self, event: Event, duration_ns: int) -> Event:
        self.watch.report(W, Report(event, duration_ns=duration_ns))
        return event


def test_a_watch_makes_steps_of_commands_and_reports() -> None:
    driver = Driver()
    arrivals = [RequestArrived(Request(A, 10, 5)), RequestArrived(Request(B, 20, 5))]
    prefill = RunPrefill(W, RunId(0), (Chunk(A, 0, 10), Chunk(B, 0, 20)), completes=(A, B))
    driver.watch.observe(100, arrivals, [prefill])
    done = driver.report(PrefillDone(W, RunId(0)), 700)
    driver.watch.observe(1000, [done], [RunDecode(W, RunId(1), (A, B), 2)])
    first = driver.report(DecodeAdvanced(W, RunId(1), 1, 0, 0, ended=False), 400)
    driver.watch.observe(1500, [first], [])
    last = driver.report(DecodeAdvanced(W, RunId(1), 1, 0, 0, ended=True), 410)
    driver.watch.observe(1950, [last], [])
    assert [sample.point for sample in driver.watch.steps] == [
        StepPoint(((0, 10), (0, 20)), 0, 0, 700.0),
        StepPoint((), 2, 11 + 21, 400.0),  # a step attends to the prompts and to the token that goes in
        StepPoint((), 2, 12 + 22, 410.0),
    ]
    assert [sample.beyond_ns for sample in driver.watch.steps] == [900 - 700, 500 - 400, 450 - 410]
    assert [sample.first for sample in driver.watch.steps] == [True, True, False]


def test_a_run_that_was_cut_before_its_first_step_is_no_step() -> None:
    driver = Driver()
    driver.watch.observe(0, [RequestArrived(Request(A, 10, 5))], [RunDecode(W, RunId(1), (A,), 9)])
    driver.watch.observe(5, [driver.report(DecodeAdvanced(W, RunId(1), 0, 0, 0, ended=True), 0)], [])
    assert driver.watch.steps == []


@pytest.mark.parametrize("released_first", [False, True])
def test_a_transfer_lasts_from_its_order_until_the_target_has_it(released_first: bool) -> None:
    driver = Driver()
    start = StartTransfer(TransferId(7), A, "pull", W, WorkerId(1), ((0, 1),), ((4, 1),), 0, 2, 4096, 4, last=True)
    driver.watch.observe(100, [], [start])
    ends: list[tuple[Event, int]] = [(TransferDone(TransferId(7)), 50), (TransferReleased(TransferId(7)), 0)]
    for at_ns, (event, duration_ns) in zip((180, 200), reversed(ends) if released_first else ends, strict=True):
        driver.watch.observe(at_ns, [driver.report(event, duration_ns)], [])
    total_ns = 100 if released_first else 80
    assert driver.watch.transfers == [TransferSample(4096, 4, moving_ns=50, total_ns=total_ns)]


def sample(worker: int, since_ns: int, until_ns: int) -> StepSample:
    return StepSample(WorkerId(worker), StepPoint((), 1, 1, float(until_ns - since_ns)), since_ns, until_ns, first=True)


def test_only_steps_during_which_all_workers_were_busy_count() -> None:
    samples = [sample(0, 0, 100), sample(0, 100, 200), sample(1, 5, 110), sample(1, 300, 400)]
    kept = while_busy(samples, workers=2)
    assert [point.ns for point in kept] == [100.0, 105.0]  # 95 % of the first overlap, and all of the third
    assert while_busy(samples, workers=3) == []


def test_a_plan_serves_every_length_in_every_round() -> None:
    plan = CalibrationPlan(prompt_tokens=(4, 8), batch_tokens_max=8, batches=(1, 2), contexts=(3,), rounds=2)
    loads = list(plan.alone())
    assert loads.count(((4, 1),)) == loads.count(((8, 1),)) == 2
    assert loads.count(((4, 1), (4, 1))) == 2  # several prompts in a step
    assert ((3, 12), (3, 12)) in loads
    assert plan.request_tokens_max == 16 + 12
    assert all(len(load) % 3 == 0 for load in plan.together(3))


def test_steps_of_the_same_contents_are_averaged() -> None:
    prefills = [StepPoint(((0, 8),), 0, 0, ns) for ns in (30.0, 10.0, 20.0)]
    decodes = [StepPoint((), 2, context, ns) for context, ns in ((10, 4.0), (12, 6.0))]
    far = StepPoint((), 2, 1000, 9.0)
    assert averaged([*prefills, *decodes, far]) == [
        StepPoint(((0, 8),), 0, 0, 20.0),
        StepPoint((), 2, 11, 5.0),
        far,
    ]


def test_what_was_only_passed_through_is_left_out() -> None:
    often = [StepPoint((), 4, 100, 8.0)] * 5
    assert averaged([*often, StepPoint((), 3, 80, 7.0)]) == [StepPoint((), 4, 100, 8.0)]


def test_a_line_through_transfers_finds_base_and_cost_of_a_byte_despite_an_outlier() -> None:
    samples = [TransferSample(size, 16, 0, 1000 + 2 * size) for size in (100, 200, 300, 400, 500)]
    base_ns, byte_ns = line([*samples, TransferSample(300, 16, 0, 100_000)])
    assert byte_ns == 2.0
    assert base_ns == pytest.approx(1000 + (100_000 - 1600) / 6)  # a mean: the disturbance is part of it
    assert line(samples[:1]) == (1200.0, 0.0)  # one size tells no rate


def measurement(**changes: object) -> Measurement:
    """Prefill: 1000 ns + 100 a token. Decode: 500 ns + 50 a request. Two workers at once: 1.5 times as slow."""
    alone = [StepPoint(((0, n),), 0, 0, 1000.0 + 100 * n) for n in (8, 16, 32)]
    alone += [StepPoint((), b, 20 * b, 500.0 + 50 * b) for b in (1, 2, 4)]
    parts: dict[str, object] = {
        "alone": tuple(alone),
        "together": {2: (StepPoint((), 2, 40, 900.0), StepPoint(((0, 16),), 0, 0, 3900.0))},
        "round_trips_ns": (2500, 3500),
        "gaps_ns": (300, 500),
        "decisions_ns": (600,),
        "transfers": {
            "shm": tuple(TransferSample(size, 16, 0, 10_000 + size) for size in (1000, 2000, 3000)),
            "message": tuple(TransferSample(size, 1, 0, 50_000 + 3 * size) for size in (1000, 2000, 3000)),
        },
        "pack_bytes_per_s": 2e9,
        "other_cores": 0.0,
    }
    return Measurement(**(parts | changes))  # type: ignore[arg-type]


def test_a_profile_holds_what_was_measured() -> None:
    profile = machine_profile(measurement(), FACTS)
    host = profile.host
    assert (host.decision, host.between_steps) == (600, 400)
    assert host.order == host.report == (3000 - 600 - 400) // 2
    shm, message = profile.transports["shm"], profile.transports["message"]
    assert shm.rate == pytest.approx(1e9)
    assert shm.latency == (10_000 - 600 - 2000) // 2  # twice on the way: the request and the last byte
    # gather and scatter at 2 GB/s take 1 of the 3 ns of a byte
    assert message.rate == pytest.approx(0.5e9)
    assert (message.latency, profile.message.handshake) == (0, 50_000 - 600 - 2000)
    assert profile.message.pack_rate == 2e9
    assert profile.steps is not None
    assert [row.ns for row in profile.steps.decode] == pytest.approx([550.0, 600.0, 700.0])
    assert profile_text(profile) == profile_text(machine_profile(measurement(), FACTS))


def test_slowdown_is_all_time_together_over_all_time_alone() -> None:
    profile = machine_profile(measurement(), FACTS)
    assert profile.slowdown == pytest.approx([1.0, (900 + 3900) / (600 + 2600)])


def test_more_workers_are_never_less_slow() -> None:
    from kvsim.profile.fit import fit_steps

    measured = measurement(together={2: (StepPoint((), 2, 40, 1200.0),), 3: (StepPoint((), 2, 40, 900.0),)})
    assert slowdown(measured, fit_steps(averaged(measured.alone))) == [1.0, 2.0, 2.0]


def test_a_busy_machine_is_told() -> None:
    assert not any("other processes" in note for note in machine_profile(measurement(), FACTS).notes)
    notes = machine_profile(measurement(other_cores=1.3), FACTS).notes
    assert "other processes kept 1.3 cores busy meanwhile: measure again on a quiet machine" in notes


@pytest.mark.parametrize("context_tokens_max", [32, 33, 100, 511, 512, 535, 536, 537, 32_768])
def test_no_request_of_a_calibration_is_longer_than_the_model_has_positions_for(context_tokens_max: int) -> None:
    plan = CalibrationPlan().within(context_tokens_max)
    loads = [*plan.alone(), *plan.together(3), *plan.moved()]
    lengths = {prompt + output for load in loads for prompt, output in load}
    assert 0 < min(lengths) <= max(lengths) <= context_tokens_max
    assert all(prompt > 0 and output > 0 for load in loads for prompt, output in load)
    assert (plan == CalibrationPlan()) == (context_tokens_max >= 512 + 2 * 12)


def test_a_model_with_too_few_positions_to_calibrate_with_is_refused() -> None:
    with pytest.raises(CalibrationError, match="the model has 31 positions, at least 32 are needed to calibrate"):
        CalibrationPlan().within(31)
