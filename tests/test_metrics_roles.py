"""What metrics make of changes of role, from records whose numbers can be checked by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from msgspec.structs import replace
from worlds import cluster, hardware, run, workload

from kvsim.core.cluster import ClusterSpec, PolicySpec, RoleSpec, ThresholdRoles
from kvsim.core.messages import (
    AssignBlocks,
    Chunk,
    Command,
    DecodeAdvanced,
    DismissWorker,
    DrainWorker,
    Event,
    FinishRequest,
    KeepRole,
    PrefillDone,
    ReleaseBlocks,
    Request,
    RequestArrived,
    RequestId,
    RoleSwitched,
    RunDecode,
    RunId,
    RunPrefill,
    StartTransfer,
    SwitchId,
    SwitchRole,
    TransferDone,
    TransferId,
    TransferReleased,
    WorkerId,
    WorkerLeaving,
    WorkerLost,
)
from kvsim.metrics import Collector, RunColumns, summarise
from kvsim.metrics.tables import workers_table

S = 1_000_000_000
MS = 1_000_000
A, B, C = WorkerId(0), WorkerId(1), WorkerId(2)
FIRST = SwitchId(0)
Call = tuple[int, list[Event], list[Command]]


def collected(spec: ClusterSpec, calls: Sequence[Call]) -> RunColumns:
    collector = Collector(spec)
    for now_ns, events, commands in calls:
        collector.observe(now_ns, events, commands)
    return collector.finish()


def role_calls(*happenings: tuple[int, Event | Command]) -> list[Call]:
    """A run from 0 to 10 s in which only roles change."""
    calls: list[Call] = [(0, [RequestArrived(Request(RequestId(0), 10, 1))], [])]
    for now_ns, message in happenings:
        event = isinstance(message, RoleSwitched | WorkerLost | WorkerLeaving)
        calls.append((now_ns, [message], []) if event else (now_ns, [], [message]))  # type: ignore[list-item]
    calls.append((10 * S, [RequestArrived(Request(RequestId(1), 10, 1))], []))
    return calls


def switches_of(*happenings: tuple[int, Event | Command]) -> tuple[int, float, float]:
    spec = cluster("pull", prefill=1, decode=2)
    columns = collected(spec, role_calls(*happenings))
    summary = summarise(columns, spec, [1.0] * 3, slo_ttft_ns=None, slo_tpot_ns=None, first_token="prefill")[
        "role_switches"
    ]
    return summary["count"], summary["draining_worker_s"], summary["switching_worker_s"]


DRAIN = DrainWorker(B, "prefill", "why")
SWITCH = SwitchRole(B, FIRST, "prefill")


@pytest.mark.parametrize(
    ("happenings", "expected"),
    [
        ((), (0, 0.0, 0.0)),
        (((S, DRAIN), (3 * S, SWITCH), (7 * S, RoleSwitched(B, FIRST))), (1, 2.0, 4.0)),
        (((S, DRAIN), (4 * S, KeepRole(B, "why"))), (0, 3.0, 0.0)),
        (((S, DRAIN), (4 * S, WorkerLost(B))), (0, 3.0, 0.0)),
        (((S, DRAIN), (3 * S, WorkerLeaving(B)), (9 * S, DismissWorker(B))), (0, 2.0, 0.0)),
        (((S, DRAIN), (3 * S, SWITCH), (4 * S, WorkerLost(B)), (6 * S, RoleSwitched(B, FIRST))), (1, 2.0, 1.0)),
        (((S, DRAIN), (3 * S, SWITCH)), (1, 2.0, 7.0)),  # to the end of the run
        (((6 * S, DRAIN),), (0, 4.0, 0.0)),
        (((3 * S, DRAIN), (3 * S, SWITCH), (3 * S, RoleSwitched(B, FIRST))), (1, 0.0, 0.0)),
        (((S, DRAIN), (3 * S, SWITCH), (4 * S, RoleSwitched(B, SwitchId(9)))), (1, 2.0, 7.0)),  # of another life
    ],
)
def test_time_spent_draining_and_switching(
    happenings: tuple[tuple[int, Event | Command], ...], expected: tuple[int, float, float]
) -> None:
    assert switches_of(*happenings) == expected


def test_a_worker_counts_for_each_role_for_as_long_as_it_had_it() -> None:
    spec = cluster("pull", prefill=1, decode=2)
    columns = collected(spec, role_calls((S, DRAIN), (4 * S, SWITCH), (5 * S, RoleSwitched(B, FIRST))))
    assert columns.roles.time_ns("prefill", 0, 10 * S).tolist() == [10 * S, 6 * S, 0]
    assert columns.roles.time_ns("decode", 0, 10 * S).tolist() == [0, 4 * S, 10 * S]
    at_ns = np.array([0, 4 * S - 1, 4 * S, 9 * S])
    assert columns.roles.has("decode", np.full(4, B), at_ns).tolist() == [True, True, False, False]
    assert columns.roles.has("decode", np.full(4, C), at_ns).tolist() == [True] * 4


def served(request: int, start_ns: int, source: WorkerId, target: WorkerId, run: int) -> list[Call]:
    """A request of 16 tokens, one block: prefilled for 100 ms, moved in 50 ms, decoded for 200 ms in one step."""
    r, block = RequestId(request), ((0, 1),)
    move = TransferId(request)
    order = StartTransfer(move, r, "pull", source, target, block, block, 0, 4, 100, 1, True)
    return [
        (
            start_ns,
            [RequestArrived(Request(r, 16, 100))],
            [AssignBlocks(source, r, block), RunPrefill(source, RunId(run), (Chunk(r, 0, 16),), (r,))],
        ),
        (start_ns + 100 * MS, [PrefillDone(source, RunId(run))], [AssignBlocks(target, r, block), order]),
        (
            start_ns + 150 * MS,
            [TransferDone(move), TransferReleased(move)],
            [ReleaseBlocks(source, r), RunDecode(target, RunId(run + 1), (r,), 9)],
        ),
        (
            start_ns + 350 * MS,
            [DecodeAdvanced(target, RunId(run + 1), 1, 200 * MS * 10**6, 0, True, (r,))],
            [ReleaseBlocks(target, r), FinishRequest(r, "stop")],
        ),
    ]


def test_what_a_worker_did_counts_for_the_role_that_it_did_it_in() -> None:
    """B decodes, switches in no time at the very instant of its last release, and prefills at once: nothing of either
    is charged to the other role."""
    spec = cluster("pull", prefill=1, decode=2)
    first = served(0, 0, A, B, 0)
    second = served(1, 350 * MS, B, C, 2)
    change: Call = (350 * MS, [], [DrainWorker(B, "prefill", "why"), SWITCH])
    columns = collected(spec, [*first, change, (350 * MS, [RoleSwitched(B, FIRST)], []), *second])
    summary = summarise(columns, spec, [1000.0] * 3, slo_ttft_ns=None, slo_tpot_ns=None, first_token="prefill")
    assert summary["requests"]["finished"] == 2
    # A prefills for 700 ms and B for the last 350 ms of the run; 100 ms of each are busy
    assert summary["gpu_busy"]["prefill"] == pytest.approx(200 / 1050)
    assert summary["gpu_busy"]["decode"] == pytest.approx(400 / 1050)
    assert summary["kv_held_block_s"] == {"prefill": pytest.approx(0.1), "decode": 0.0}  # each for 50 ms
    assert summary["kv_reserved_unfilled_block_s"]["prefill"] == pytest.approx(0.2)  # while they are computed
    assert summary["kv_reserved_unfilled_block_s"]["decode"] == pytest.approx(0.1)  # while they are moved
    assert summary["link_utilisation"]["prefill"] == {"sent": pytest.approx(200 / 1050), "received": 0.0}
    assert summary["link_utilisation"]["decode"] == {"sent": 0.0, "received": pytest.approx(200 / 1050)}
    assert summary["preemptions"] == 0
    assert columns.requests.decode_worker.tolist() == [B, C]
    assert columns.requests.prefill_worker.tolist() == [A, B]


def test_the_table_of_workers_shows_roles_and_time_lost() -> None:
    spec = cluster("pull", prefill=1, decode=2)
    columns = collected(spec, role_calls((S, DRAIN), (4 * S, SWITCH), (5 * S, RoleSwitched(B, FIRST))))
    table = workers_table({"base": columns})
    mine = table[table.worker == "decode1"]
    assert mine[mine.time_ns < 4 * S].role.unique().tolist() == ["decode"]
    assert mine[mine.time_ns >= 4 * S].role.unique().tolist() == ["prefill"]
    assert (mine.draining * mine.interval_ns).sum() == 3 * S
    assert (mine.switching * mine.interval_ns).sum() == S
    others = table[table.worker != "decode1"]
    assert others.draining.max() == others.switching.max() == 0


def test_a_simulated_run_measures_what_its_switches_take() -> None:
    roles = RoleSpec(ThresholdRoles(100, 100, 300, 250), interval_ns=MS, dwell_ns=20 * MS)
    spec = cluster("pull", prefill=1, decode=3, policy=PolicySpec("pull", roles=roles))
    world = hardware(spec)
    world = replace(world, workers=tuple(replace(worker, role_switch_ns=3 * MS) for worker in world.workers))
    columns, _ = run(spec, workload([(index * MS, 200, 3) for index in range(60)]), world)
    summary = summarise(columns, spec, [1.0] * 4, slo_ttft_ns=None, slo_tpot_ns=None, first_token="prefill")
    changed = summary["role_switches"]
    assert changed["count"] >= 1
    assert changed["switching_worker_s"] == pytest.approx(0.003 * changed["count"])
    assert set(summary["gpu_busy"]) == {"prefill", "decode"}
