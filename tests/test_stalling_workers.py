"""A simulated worker that pauses, slows down or is lost within a run: what it reports, and when."""

from collections.abc import Callable

import pytest
from test_driver import STEPS, decode
from worlds import MODEL, workload

from kvsim.core.messages import Chunk, DecodeAdvanced, Event, PrefillDone, RequestId, RunId, RunPrefill, WorkerId
from kvsim.sim.clock import Clock
from kvsim.sim.device import SharedDevice
from kvsim.sim.device_worker import SharingWorker
from kvsim.sim.faults.workers import PacedSteps
from kvsim.sim.gpu import SimulatedWorker
from kvsim.sim.truth import Truth

MS = 1_000_000


def boundaries_ns(steps: int, factor_from: int | None = None, factor: float = 1.0) -> list[int]:
    """When each step of the request below ends; from one step on, steps take ``factor`` times as long."""
    base_fs, token_fs = STEPS.decode_fs(1)
    total_fs, ends = 0, [0]
    for step in range(steps):
        slow = factor_from is not None and step >= factor_from
        now = [round(value * factor) if slow else value for value in (base_fs, token_fs)]
        total_fs += now[0] + now[1] * (101 + step)
        ends.append(total_fs // 10**6)
    return ends


class Bench:
    """One request of 100 prompt tokens that decodes; its first token is there."""

    def __init__(self, *, shared: bool = False) -> None:
        self.clock = Clock()
        load = workload([(0, 100, 50)])
        truth = Truth(load.prompt_tokens, load.output_tokens)
        truth.add_tokens(RequestId(0), 1)
        self.steps = PacedSteps(STEPS)
        self.reports: list[tuple[int, Event]] = []
        arguments = (self.clock, WorkerId(0), self.steps, MODEL.layers, truth, self._note)
        self.worker: SimulatedWorker | SharingWorker
        if shared:
            self.worker = SharingWorker(*arguments, SharedDevice(self.clock, (1.0,)))
        else:
            self.worker = SimulatedWorker(*arguments)

    def at(self, at_ns: int, *actions: Callable[[], None]) -> None:
        for action in actions:
            self.clock.call_after(at_ns, action)

    def told(self) -> list[tuple[int, int, bool]]:
        """When it reported how many steps in all, and whether the run was over."""
        self.clock.run()
        told, steps = [], 0
        for at_ns, event in self.reports:
            assert isinstance(event, DecodeAdvanced)
            steps += event.steps
            told.append((at_ns, steps, event.ended))
        return told

    def _note(self, event: Event) -> None:
        self.reports.append((self.clock.now_ns, event))


def test_steps_behind_the_next_boundary_take_the_new_pace() -> None:
    bench = Bench()
    ends = boundaries_ns(10, factor_from=4, factor=3.0)
    bench.worker.run_decode(decode(0, [0], steps_max=10))
    bench.at(ends[3] + 1, lambda: bench.steps.slow_down(3.0), bench.worker.change_pace)
    assert bench.told() == [(ends[4], 4, False), (ends[10], 10, True)]


def test_a_step_that_begins_when_the_pace_changes_has_the_new_one() -> None:
    bench = Bench()
    ends = boundaries_ns(10, factor_from=3, factor=2.0)
    bench.at(ends[3], lambda: bench.steps.slow_down(2.0), bench.worker.change_pace)
    bench.worker.run_decode(decode(0, [0], steps_max=10))
    assert bench.told() == [(ends[3], 3, False), (ends[10], 10, True)]


def test_a_pace_that_recovers_is_the_old_one() -> None:
    bench = Bench()
    bench.steps.slow_down(2.0)
    bench.steps.slow_down(3.0)
    slow = bench.steps.decode_fs(1)
    bench.steps.recover(2.0)
    bench.steps.recover(3.0)
    assert bench.steps.decode_fs(1) == STEPS.decode_fs(1)
    assert slow == tuple(6 * value for value in STEPS.decode_fs(1))
    assert bench.steps.prefill_ns([(0, 100)], 0, 0) == STEPS.prefill_ns([(0, 100)], 0, 0)


@pytest.mark.parametrize("shared", [False, True])
def test_a_pause_holds_the_report_of_the_step_in_progress_and_what_follows_comes_later(shared: bool) -> None:
    bench = Bench(shared=shared)
    ends = boundaries_ns(5)
    pause_ns, resume_ns = ends[2] + 1, ends[3] + 10 * MS
    bench.worker.expect_stop(pause_ns)
    bench.worker.run_decode(decode(0, [0], steps_max=5))
    bench.at(pause_ns, bench.worker.pause)
    bench.at(resume_ns, bench.worker.resume)
    told = bench.told()
    assert (ends[2], 2, False) in told
    later_ns = resume_ns - ends[3]
    assert [entry for entry in told if entry[0] >= pause_ns and entry[1] in (3, 5)] == [
        (resume_ns, 3, False),
        (ends[5] + later_ns, 5, True),
    ]


def test_a_pause_that_ends_before_the_step_does_changes_no_instant() -> None:
    bench = Bench()
    ends = boundaries_ns(5)
    bench.worker.run_decode(decode(0, [0], steps_max=5))
    bench.at(ends[2] + 1, bench.worker.pause)
    bench.at(ends[2] + 2, bench.worker.resume)
    assert bench.told() == [(ends[3], 3, False), (ends[5], 5, True)]


@pytest.mark.parametrize("cut_after_ns", [0, 5 * MS])
def test_a_run_that_is_cut_during_a_pause_ends_with_the_step_in_progress(cut_after_ns: int) -> None:
    bench = Bench()
    ends = boundaries_ns(5)
    bench.worker.run_decode(decode(0, [0], steps_max=5))
    bench.at(ends[2] + 1, bench.worker.pause)
    bench.at(ends[2] + 1 + cut_after_ns, lambda: bench.worker.cut_decode(0))
    bench.at(ends[2] + 10 * MS, bench.worker.resume)
    assert bench.told() == [(ends[2] + 10 * MS, 3, True)]


@pytest.mark.parametrize("shared", [False, True])
def test_orders_that_come_during_a_pause_are_carried_out_after_it(shared: bool) -> None:
    bench = Bench(shared=shared)
    bench.worker.pause()
    chunk = Chunk(RequestId(0), 0, 100)
    bench.worker.run_prefill(RunPrefill(WorkerId(0), RunId(7), (chunk,), ()))
    bench.at(3 * MS, bench.worker.resume)
    bench.clock.run()
    assert bench.reports == [(3 * MS + STEPS.prefill_ns([(0, 100)], 0, 0), PrefillDone(WorkerId(0), RunId(7)))]


def test_a_worker_that_expects_its_end_has_reported_every_step_when_it_was_over() -> None:
    bench = Bench()
    ends = boundaries_ns(10)
    bench.worker.expect_stop(ends[7] - 1)
    bench.worker.run_decode(decode(0, [0], steps_max=10))
    bench.at(ends[7] - 1, bench.worker.lose)
    assert bench.told() == [(ends[6], 6, False)]


def test_a_worker_that_is_lost_while_it_pauses_says_nothing_more() -> None:
    bench = Bench()
    ends = boundaries_ns(10)
    bench.worker.expect_stop(ends[4] + 1)
    bench.worker.run_decode(decode(0, [0], steps_max=10))
    bench.at(ends[4] + 1, bench.worker.pause)
    bench.at(ends[9], bench.worker.lose)
    assert bench.told() == [(ends[4], 4, False)]
