"""From a scenario's faults and a seed to a list with instants: pure, reproducible, entry by entry."""

from collections.abc import Sequence

import numpy as np
import pytest
from worlds import workload

from kvsim.core.messages import TransferId, WorkerId
from kvsim.sim.faults.chances import Chances
from kvsim.sim.faults.plan import Chance, Fault, FaultPlan, fault_plan
from kvsim.sim.faults.spec import NO_FAULTS, CancelSpec, ChanceSpec, Detection, FaultSpec, FaultSpecs, TimedSpec

MS, S = 10**6, 10**9
LOAD = workload([(index * S // 10, 10, 10) for index in range(1001)])  # the last request arrives at 100 s
WORKERS = (WorkerId(4), WorkerId(5), WorkerId(6))


def plan_of(*entries: FaultSpec, seed: int = 1) -> FaultPlan:
    return fault_plan(FaultSpecs(entries, Detection(1, 2, 3)), LOAD, seed)


def times_ns(faults: Sequence[Fault], entry: int = 0) -> list[int]:
    return [fault.at_ns for fault in faults if fault.entry == entry]


def test_a_fault_at_an_instant_strikes_then() -> None:
    spec = TimedSpec("worker_hang", at_ns=7 * S, workers=(WorkerId(5),), lasts_ns=2 * S, restart_ns=3)
    assert plan_of(spec).timed == (Fault(7 * S, "worker_hang", 0, WorkerId(5), until_ns=9 * S, restart_ns=3),)


def test_a_rate_has_exponential_gaps_of_its_mean_and_ends_with_the_load() -> None:
    """2,000 expected; three standard deviations of the count, and of mean and share of short gaps."""
    spec = TimedSpec("worker_crash", every_ns=50 * MS, workers=WORKERS)
    at_ns = np.array(times_ns(plan_of(spec).timed))
    assert abs(len(at_ns) - 2000) < 3 * 2000**0.5
    gaps = np.diff(at_ns, prepend=0) / (50 * MS)
    assert abs(gaps.mean() - 1) < 3 / len(gaps) ** 0.5
    assert abs((gaps < 0.5).mean() - (1 - np.exp(-0.5))) < 3 * 0.49 / len(gaps) ** 0.5
    assert at_ns.max() < 100 * S


def test_a_pool_is_struck_evenly_and_a_pool_that_joins_as_a_whole() -> None:
    struck = [fault.worker for fault in plan_of(TimedSpec("worker_crash", every_ns=50 * MS, workers=WORKERS)).timed]
    for worker in WORKERS:
        assert abs(struck.count(worker) - len(struck) / 3) < 3 * (len(struck) * 2 / 9) ** 0.5
    joined = plan_of(TimedSpec("worker_joins", at_ns=S, workers=WORKERS)).timed
    assert [fault.worker for fault in joined] == list(WORKERS)


def test_a_link_that_flaps_is_down_again_and_again_until_it_is_over() -> None:
    spec = TimedSpec("link_flapping", at_ns=S, lasts_ns=S, down_ns=100 * MS, up_ns=300 * MS, uplink="wan")
    spans = [(fault.at_ns // MS, (fault.until_ns or 0) // MS) for fault in plan_of(spec).timed]
    assert spans == [(1000, 1100), (1400, 1500), (1800, 1900)]
    shorter = TimedSpec("link_flapping", at_ns=S, lasts_ns=450 * MS, down_ns=100 * MS, up_ns=300 * MS, uplink="wan")
    assert [fault.until_ns for fault in plan_of(shorter).timed] == [1100 * MS, 1450 * MS]


def test_clients_cancel_with_their_probability_after_their_patience() -> None:
    fixed = plan_of(CancelSpec(1.0, 2 * S, "fixed")).timed
    assert times_ns(fixed) == [int(at_ns) + 2 * S for at_ns in LOAD.arrival_ns]
    some = plan_of(CancelSpec(0.3, 2 * S, "exponential")).timed
    assert abs(len(some) - 300) < 3 * (1001 * 0.21) ** 0.5
    patience = [fault.at_ns - int(LOAD.arrival_ns[fault.request]) for fault in some if fault.request is not None]
    assert min(patience) > 0
    assert abs(np.mean(patience) / (2 * S) - 1) < 3 / len(patience) ** 0.5


def test_who_cancels_at_a_small_probability_cancels_at_a_larger_one() -> None:
    few, many = (
        {fault.request for fault in plan_of(CancelSpec(probability, S, "fixed")).timed} for probability in (0.1, 0.4)
    )
    assert few < many


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    entries = (TimedSpec("worker_crash", every_ns=S, workers=WORKERS), CancelSpec(0.5, S, "exponential"))
    assert plan_of(*entries) == plan_of(*entries)
    assert times_ns(plan_of(*entries).timed) != times_ns(plan_of(*entries, seed=2).timed)


def test_an_entry_at_the_end_moves_no_other() -> None:
    crash = TimedSpec("worker_crash", every_ns=S, workers=WORKERS)
    alone, both = plan_of(crash), plan_of(crash, crash)
    assert times_ns(both.timed, 0) == times_ns(alone.timed, 0)
    assert times_ns(both.timed, 1) != times_ns(alone.timed, 0)
    assert [fault.at_ns for fault in both.timed] == sorted(fault.at_ns for fault in both.timed)


def test_without_entries_a_plan_is_empty() -> None:
    assert not fault_plan(NO_FAULTS, LOAD, 1)
    assert plan_of(ChanceSpec("completion_lost", 0.5))


def test_chance_decides_by_transfer_whatever_the_order_of_asking() -> None:
    spec = ChanceSpec("completion_lost", 0.25, "source")
    ascending, descending = (Chances((Chance(spec, 3, 9),)) for _ in range(2))
    transfers = [TransferId(transfer) for transfer in range(4000)]
    one = [ascending.strikes(transfer, "completion_lost", "source") for transfer in transfers]
    other = [descending.strikes(transfer, "completion_lost", "source") for transfer in reversed(transfers)]
    assert one == other[::-1]
    hits = [hit for hit in one if hit is not None]
    assert abs(len(hits) - 1000) < 3 * 750**0.5
    assert all(hit[:2] == (spec, 3) and 0 <= hit[2] < 1 for hit in hits)
    assert ascending.strikes(TransferId(0), "completion_lost", "target") is None


@pytest.mark.parametrize("kind", ["transfer_failed", "completion_reordered"])
def test_a_chance_of_one_kind_is_none_of_another(kind: str) -> None:
    chances = Chances((Chance(ChanceSpec("completion_lost", 1.0), 0, 1),))
    assert chances.strikes(TransferId(0), kind, "target") is None  # type: ignore[arg-type]
