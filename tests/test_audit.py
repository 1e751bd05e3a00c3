"""The audit log: every movement of KV once, from simulated and real runs alike, with its outcome and its reason."""

from collections import Counter
from pathlib import Path

import msgspec
import pytest
from real_worlds import InProcess, real_cluster
from test_real_in_process import prompt, serve
from test_validate_conduct import exact, scenario
from worlds import ALL_MODES, DISAGGREGATED, cluster, run, workload

import kvsim.cli
from backends.driver.requests import Submission
from kvsim.audit import AuditWriter, Movement, movements, read_audit
from kvsim.core.cluster import ClusterSpec, TransferMode
from kvsim.core.messages import (
    EndLease,
    Record,
    RequestId,
    StartTransfer,
    StopTransfer,
    TransferDone,
    TransferFailed,
    TransferId,
    WorkerId,
    WorkerLost,
)
from kvsim.errors import RunFolderError
from kvsim.fuzz.choices import Choices
from kvsim.fuzz.worlds import random_world
from kvsim.scenario import load_scenario
from kvsim.study import run_scenario
from kvsim.validation import validate_scenario

SPEC = cluster("pull", prefill=1, decode=2)


def order(transfer: int, target: int = 1, generation: int = 7) -> StartTransfer:
    blocks = ((0, 1),)
    ends = WorkerId(0), WorkerId(target)
    return StartTransfer(
        TransferId(transfer), RequestId(3), "pull", *ends, blocks, blocks, 0, 4, 4096, 2, True, generation
    )


def told(*calls: tuple[int, object]) -> list[tuple[str, str]]:
    """Outcome and reason of each movement of a record of one event or command a call."""
    commands = (StartTransfer, StopTransfer, EndLease)
    records = [
        Record(now_ns, (), (what,)) if isinstance(what, commands) else Record(now_ns, (what,), ())  # type: ignore[arg-type]
        for now_ns, what in calls
    ]
    return [(movement.outcome, movement.reason) for movement in movements(SPEC, records)]


def test_a_movement_says_who_when_where_and_how_much() -> None:
    spec = ClusterSpec(
        SPEC.kv,
        tuple(msgspec.structs.replace(worker, labels=(("site", "ab"[worker.id % 2]),)) for worker in SPEC.workers),
        SPEC.policy,
    )
    records = [Record(5, (), (order(0),)), Record(9, (TransferDone(TransferId(0), 7),), ())]
    assert list(movements(spec, records)) == [
        Movement(
            started_ns=5,
            ended_ns=9,
            request=RequestId(3),
            transfer=TransferId(0),
            kind="pull",
            source="prefill0",
            target="decode1",
            source_labels={"site": "a"},
            target_labels={"site": "b"},
            first_layer=0,
            layers=4,
            size_bytes=4096,
            outcome="arrived",
            reason="policy",
        )
    ]


def test_every_end_has_its_word_and_what_did_not_arrive_is_moved_again_for_that_reason() -> None:
    done, failed = TransferDone(TransferId(0), 7), TransferFailed(TransferId(0))
    assert told((0, order(0)), (1, failed), (2, order(1))) == [("failed", "policy"), ("unfinished", "retry")]
    assert told((0, order(0)), (1, StopTransfer(TransferId(0))), (2, failed)) == [("stopped", "policy")]
    given_up = EndLease(WorkerId(0), RequestId(3))
    stopped = StopTransfer(TransferId(0))
    assert told((0, order(0)), (1, given_up), (1, stopped), (2, failed)) == [("expired", "policy")]
    assert told((0, order(0)), (1, StopTransfer(TransferId(0))), (2, done)) == [("arrived", "policy")]
    assert told((0, order(0)), (1, WorkerLost(WorkerId(2)))) == [("unfinished", "policy")]
    assert told((0, order(0)), (1, WorkerLost(WorkerId(1))), (2, done)) == [("lost", "policy")]
    assert told((0, order(0)), (1, TransferDone(TransferId(0), 8))) == [("stale", "policy")]
    assert told((0, order(0)), (1, done), (2, done)) == [("arrived", "policy")]


@pytest.mark.parametrize("mode", DISAGGREGATED)
def test_the_log_accounts_for_every_byte_that_arrived(mode: TransferMode, tmp_path: Path) -> None:
    spec = cluster(mode, prefill=2, decode=2)
    columns, records = run(spec, workload([(index * 50_000, 50 + index, 5) for index in range(9)]))
    moved = list(movements(spec, records))
    assert {movement.outcome for movement in moved} == {"arrived"}
    by_request: Counter[int] = Counter()
    for movement in moved:
        by_request[movement.request] += movement.size_bytes
    assert [by_request[request] for request in range(9)] == columns.requests.transfer_bytes.tolist()
    with AuditWriter(tmp_path / "log", spec) as writer:
        for record in records:
            writer.observe(record.now_ns, record.events, record.commands)
    assert list(read_audit(tmp_path / "log")) == moved


@pytest.mark.parametrize("mode", ALL_MODES)
def test_whatever_goes_wrong_every_transfer_is_in_the_log_once(mode: TransferMode) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(12):
        played = random_world(mode, Choices(seed), rules=seed % 2 == 0)
        played.play()
        moved = list(movements(played.spec, played.records))
        ordered = [c.transfer for record in played.records for c in record.commands if isinstance(c, StartTransfer)]
        assert sorted(movement.transfer for movement in moved) == ordered
        outcomes.update(movement.outcome for movement in moved)
        if seed % 2 == 0 and ("kv", "site") in [(r.kind, r.label) for r in played.spec.policy.placement_rules]:
            assert all(movement.source_labels["site"] == movement.target_labels["site"] for movement in moved)
    assert mode == "colocated" or {"arrived", "failed", "lost"} <= set(outcomes)
    assert not outcomes["unfinished"]


def test_the_log_says_why_a_mode_was_chosen() -> None:
    spec = cluster("adaptive")
    _, records = run(spec, workload([(0, 100, 5)]))
    assert {(movement.kind, movement.reason) for movement in movements(spec, records)} == {("push", "memory_free")}


@pytest.mark.parametrize("mode", ["push", "pull", "adaptive"])
def test_real_workers_leave_the_same_log(mode: TransferMode) -> None:
    """Those of one process: the driver, the control messages and the transports are the real ones."""
    spec = real_cluster(mode, prefill=1, decode=1)
    world: InProcess = serve(spec, [Submission(prompt(5 + 3 * index, index), 6) for index in range(4)])
    moved = list(movements(spec, world.records))
    assert {movement.outcome for movement in moved} == {"arrived"}
    requests = world.collector.finish().requests
    by_request: Counter[int] = Counter()
    for movement in moved:
        by_request[movement.request] += movement.size_bytes
    assert [by_request[request] for request in range(4)] == requests.transfer_bytes.tolist()


def test_a_validation_logs_both_worlds(tmp_path: Path) -> None:
    result = validate_scenario(scenario(), tmp_path / "v", exact, audit=True, report=False)
    for name in ("pull", "push"):
        assert list(read_audit(result.real.audits[name])) == list(read_audit(result.simulated.audits[name])) != []


def test_the_command_prints_the_log_or_makes_it_from_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = load_scenario(
        Path(__file__).parent / "golden" / "small.yaml", ["workload.requests=6", "variants.message=null"]
    )
    lines = []
    for options in ({"audit": True}, {"record": True}):
        run_scenario(small, tmp_path / "run", report=False, **options)  # type: ignore[arg-type]
        kvsim.cli.app(["audit", str(tmp_path / "run"), "--variant", "push", "--request", "2"], standalone_mode=False)
        lines.append(capsys.readouterr().out.splitlines())
    assert lines[0] == lines[1]
    assert {line.split(",")[0] for line in lines[0]} == {'{"variant":"push"'}
    assert {msgspec.json.decode(line)["request"] for line in lines[0]} == {2}
    run_scenario(small, tmp_path / "run", report=False)
    with pytest.raises(RunFolderError, match="holds no audit log; run the scenario with --audit"):
        kvsim.cli.app(["audit", str(tmp_path / "run")], standalone_mode=False)


def test_a_damaged_log_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("{}\n")
    with pytest.raises(RunFolderError, match=r"log:1: this is no line of an audit log"):
        list(read_audit(tmp_path / "log"))
