"""A worker loses one of its two NICs: what was striped over both breaks, what is tried by another way goes through."""

from typing import Any

import msgspec
from msgspec.structs import replace
from test_rules import scenario
from worlds import NIC, cluster, hardware, run, slower, workload

from kvsim.core.cluster import PolicySpec
from kvsim.core.messages import Record, StartTransfer, TransferDone, TransferFailed, WorkerId
from kvsim.metrics import summarise
from kvsim.scenario import scenario_from_mapping
from kvsim.sim.faults.plan import Fault, FaultPlan
from kvsim.sim.faults.spec import Detection

MS = 1_000_000
GIVE_UP_NS = 20 * MS
DETECTION = Detection(crash_ns=MS, hang_ns=MS, transfer_ns=GIVE_UP_NS)
RATE = 2e6
"""Bytes per second of one NIC: so slow that all else takes next to no time. 16 tokens of 2 KiB: 8.2 ms over two."""
SIZE_BYTES = 16 * 2 * 4 * 2 * 64 * 2
WHOLE_MS, HALF_MS = SIZE_BYTES / (2 * RATE) * 1e3, SIZE_BYTES / RATE * 1e3


class Course:
    """What became of each transfer: when it began, by which way, and when it was done or had failed, in ms."""

    def __init__(self, records: list[Record]) -> None:
        began: dict[int, tuple[int, int]] = {}
        self.done: list[tuple[int, float, float]] = []
        self.failed: list[tuple[int, float, float]] = []
        for record in records:
            for event in record.events:
                if isinstance(event, TransferDone | TransferFailed):
                    start_ns, path = began[event.transfer]
                    ends = self.done if isinstance(event, TransferDone) else self.failed
                    ends.append((path, start_ns / MS, (record.now_ns - start_ns) / MS))
            for command in record.commands:
                if isinstance(command, StartTransfer):
                    began[command.transfer] = record.now_ns, command.path


def course(arrivals_ms: list[int], fault: Fault, *, paths: int = 2, retries_max: int = 0) -> tuple[Course, Any]:
    policy = PolicySpec("pull", transfer_retries_max=retries_max)
    spec = cluster("pull", policy=policy)
    spec = msgspec.structs.replace(
        spec, workers=tuple(msgspec.structs.replace(worker, paths=paths) for worker in spec.workers)
    )
    facts = hardware(spec, slower(NIC, RATE))
    facts = replace(facts, workers=tuple(replace(worker, nics=2) for worker in facts.workers))
    load = workload([(at_ms * MS, 16, 2) for at_ms in arrivals_ms])
    columns, records = run(spec, load, facts, FaultPlan((fault,), (), DETECTION))
    links = [2 * RATE] * len(spec.workers)
    summary = summarise(columns, spec, links, slo_ttft_ns=None, slo_tpot_ns=None, first_token="prefill")
    return Course(records), summary.get("failures")


def lost(at_ms: float, until_ms: int | None = None) -> Fault:
    until_ns = None if until_ms is None else until_ms * MS
    return Fault(int(at_ms * MS), "nic_lost", 0, WorkerId(1), until_ns=until_ns)


def close(found_ms: float, expected_ms: float) -> bool:
    """Within what prefill, latency and operations take beside the bytes."""
    return abs(found_ms - expected_ms) < 0.5


def test_a_striped_transfer_breaks_and_the_other_way_carries_it_at_half_the_rate() -> None:
    found, failures = course([0], lost(4))
    ((path, start_ms, took_ms),) = found.failed
    assert path == 0
    assert close(start_ms + took_ms, 4 + GIVE_UP_NS / MS)
    ((path, _, took_ms),) = found.done
    assert path == 1
    assert close(took_ms, HALF_MS)
    assert (failures["transfers_failed"], failures["transfers_retried"], failures["transfers_rerouted"]) == (1, 1, 1)


def test_before_anybody_can_have_noticed_new_transfers_break_too_and_afterwards_use_what_is_left() -> None:
    """The NIC is lost at 1 ms with nothing on its way; requests arrive at 5 ms, within the 20 ms, and at 60 ms."""
    found, failures = course([5, 60], lost(1))
    assert [(path, close(start_ms, 5)) for path, start_ms, _ in found.failed] == [(0, True)]
    (again, later) = found.done
    assert (again[0], later[0]) == (1, 0)
    assert close(again[2], HALF_MS)
    assert close(later[2], HALF_MS)
    assert failures["transfers_failed"] == 1


def test_without_another_way_the_same_is_tried_again() -> None:
    found, failures = course([0], lost(4), paths=1, retries_max=1)
    assert [path for path, _, _ in (*found.failed, *found.done)] == [0, 0]
    assert failures["transfers_rerouted"] == 0


def test_a_nic_that_is_back_carries_its_share_again() -> None:
    """Lost from 1 to 3 ms: at 5 ms both work, although what they were would have been noticed at 21 ms."""
    found, failures = course([5], lost(1, until_ms=3))
    assert found.failed == []
    ((path, _, took_ms),) = found.done
    assert path == 0
    assert close(took_ms, WHOLE_MS)
    assert failures is None


def test_workers_with_several_nics_have_another_way() -> None:
    document: dict[str, Any] = scenario()
    document["workers"]["there"]["nics"] = 4
    variant = scenario_from_mapping(document).variants[0]
    assert [worker.paths for worker in variant.cluster.workers] == [1, 2]
