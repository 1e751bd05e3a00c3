"""The driver by itself: what workers are told and when, what the scheduler hears and when."""

from collections.abc import Sequence

import pytest
from hash_model import VOCABULARY
from real_worlds import Outputs, real_cluster

from backends.control.errors import Refusal
from backends.control.messages import CancelTransfer, DecodeStart, DriverMessage, Order, Report, RequestTerms, Stop
from backends.driver.driver import Driver
from backends.driver.requests import Submission
from kvsim.core.cluster import ClusterSpec, PolicySpec
from kvsim.core.messages import (
    Command,
    DeadlineReached,
    DecodeAdvanced,
    Event,
    LeasesRenewed,
    PrefillDone,
    RequestArrived,
    RequestCancelled,
    RequestId,
    RunDecode,
    RunPrefill,
    StartTransfer,
    TransferDone,
    TransferReleased,
    WorkerId,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)

P0, D1, D2 = WorkerId(0), WorkerId(1), WorkerId(2)
R = RequestId(0)
PROMPT = (5, 6, 7, 8, 9)


class Bench:
    """A driver whose workers are the test: everything that it told them, and everything that its scheduler heard."""

    def __init__(self, cluster: ClusterSpec | None = None) -> None:
        self.told: list[tuple[WorkerId, DriverMessage]] = []
        self.heard: list[Event] = []
        self.outputs = Outputs()
        spec = real_cluster("pull", decode=2) if cluster is None else cluster
        self.driver = Driver(spec, VOCABULARY, lambda *what: self.told.append(what), self.outputs, (self._observe,))
        self.now_ns = 0

    def turn(self) -> list[Event]:
        """What the scheduler hears in one turn."""
        self.heard.clear()
        self.now_ns += 10
        self.driver.turn(self.now_ns)
        return list(self.heard)

    def submit(self, request: RequestId = R, tokens: int = 4) -> None:
        self.driver.submit(request, Submission(PROMPT, tokens))

    def order(self, kind: type[Command]) -> tuple[WorkerId, Order]:
        """The last order of this kind, and who got it."""
        return next(
            (worker, message)
            for worker, message in reversed(self.told)
            if isinstance(message, Order) and isinstance(message.command, kind)
        )

    def transferring(self) -> StartTransfer:
        """The first request is submitted and prefilled, and its transfer to ``D1`` is under way."""
        self.submit()
        self.turn()
        _, order = self.order(RunPrefill)
        assert isinstance(order.command, RunPrefill)
        self.driver.report(P0, Report(PrefillDone(P0, order.command.run), {R: (42,)}))
        self.turn()
        worker, order = self.order(StartTransfer)
        assert isinstance(order.command, StartTransfer)
        assert worker == order.command.target == D1
        return order.command

    def _observe(self, _now_ns: int, events: Sequence[Event], _commands: Sequence[Command]) -> None:
        self.heard.extend(events)


def test_a_prefill_is_told_its_tokens_and_terms_and_a_decode_worker_where_to_go_on() -> None:
    bench = Bench()
    transfer = bench.transferring()
    worker, order = bench.order(RunPrefill)
    assert (worker, order.tokens, order.terms, order.starts) == (P0, {R: PROMPT}, (RequestTerms(R, 5),), ())
    assert bench.outputs.tokens == {R: [42]}, "clients hear of tokens before the scheduler has decided anything"
    bench.driver.report(D1, Report(TransferDone(transfer.transfer, transfer.generation)))
    bench.turn()
    worker, order = bench.order(RunDecode)
    assert (worker, order.terms, order.starts) == (D1, (RequestTerms(R, 5),), (DecodeStart(R, 5, 42),))


def test_a_worker_is_told_once_what_it_then_knows() -> None:
    cluster = real_cluster("pull", policy=PolicySpec("pull", steps_max=1))
    bench = Bench(cluster)
    transfer = bench.transferring()
    bench.driver.report(D1, Report(TransferDone(transfer.transfer, transfer.generation)))
    bench.turn()
    _, order = bench.order(RunDecode)
    assert isinstance(order.command, RunDecode)
    event = DecodeAdvanced(D1, order.command.run, 1, 10**6, 0, True)
    bench.driver.report(D1, Report(event, {R: (43,)}))
    bench.turn()
    _, order = bench.order(RunDecode)
    assert (order.terms, order.starts) == ((), ())
    assert bench.outputs.tokens == {R: [42, 43]}


def test_what_is_not_proven_to_be_the_requests_is_moved_again() -> None:
    bench = Bench()
    transfer = bench.transferring()
    bench.driver.report(D1, Report(TransferDone(transfer.transfer, transfer.generation + 1)))
    bench.turn()
    worker, order = bench.order(StartTransfer)
    assert worker == D1
    assert isinstance(order.command, StartTransfer)
    assert order.command.transfer != transfer.transfer
    with pytest.raises(StopIteration):
        bench.order(RunDecode)


def test_heartbeats_renew_leases_as_often_as_that_is_asked_for() -> None:
    """A lease of 60 ns: every 20 ns. Turns are 10 ns apart."""
    bench = Bench(real_cluster("pull", decode=2, policy=PolicySpec("pull", kv_lease_ns=60)))
    transfer = bench.transferring().transfer
    heard = []
    for _ in range(4):
        bench.driver.alive(D1, (transfer,))
        heard.append(bench.turn())
    assert heard == [[LeasesRenewed(D1, (transfer,))], [], [LeasesRenewed(D1, (transfer,))], []]
    without = Bench()
    without.driver.alive(D1, ())
    assert without.turn() == []


def test_heartbeats_before_the_first_request_are_no_news() -> None:
    """Workers beat while others are still being started: instant 0 of the scheduler is not yet."""
    bench = Bench(real_cluster("pull", decode=2, policy=PolicySpec("pull", kv_lease_ns=60)))
    bench.driver.alive(D1, ())
    assert bench.turn() == []
    bench.submit()
    assert not any(isinstance(event, LeasesRenewed) for event in bench.turn())


def test_a_transfer_whose_lease_is_over_is_stopped_where_it_is_moved() -> None:
    bench = Bench(real_cluster("pull", decode=2, policy=PolicySpec("pull", kv_lease_ns=60)))
    transfer = bench.transferring().transfer
    for _ in range(6):
        bench.turn()
    assert (D1, CancelTransfer(transfer)) in bench.told
    bench.driver.transfer_failed(D1, transfer, "cancelled")
    bench.turn()
    _, order = bench.order(RunPrefill)
    assert isinstance(order.command, RunPrefill)
    assert order.command.run != 0, "computed anew"


def test_everything_since_the_last_turn_goes_into_one_call_and_nothing_into_none() -> None:
    bench = Bench()
    bench.submit(RequestId(0))
    bench.submit(RequestId(1))
    assert [type(event) for event in bench.turn()] == [RequestArrived, RequestArrived]
    assert bench.turn() == []


def test_a_report_that_cannot_be_true_reaches_neither_scheduler_nor_client() -> None:
    bench = Bench()
    transfer = bench.transferring()
    with pytest.raises(Refusal, match="not to be told here"):
        bench.driver.report(D2, Report(TransferDone(transfer.transfer, transfer.generation)))
    _, order = bench.order(RunPrefill)
    assert isinstance(order.command, RunPrefill)
    with pytest.raises(Refusal, match="not open"):
        bench.driver.report(P0, Report(PrefillDone(P0, order.command.run), {R: (1,)}))
    assert bench.turn() == []
    assert bench.outputs.tokens == {R: [42]}


def test_a_lost_worker_is_lost_to_the_scheduler_when_its_peer_has_let_go_of_their_transfers() -> None:
    bench = Bench()
    transfer = bench.transferring()
    bench.driver.worker_lost(P0)
    assert bench.turn() == [], "the target may still be writing into blocks that the scheduler would give away"
    bench.driver.disconnected(D1, P0)
    assert bench.turn() == []
    bench.driver.transfer_failed(D1, transfer.transfer, "gone")
    assert bench.turn() == [WorkerLost(P0)]


def test_bytes_that_arrived_before_their_source_was_lost_have_arrived() -> None:
    bench = Bench()
    transfer = bench.transferring()
    bench.driver.worker_lost(P0)
    bench.driver.report(D1, Report(TransferDone(transfer.transfer, transfer.generation)))
    assert bench.turn() == [TransferDone(transfer.transfer, transfer.generation)]
    bench.driver.disconnected(D1, P0)
    assert bench.turn() == [TransferReleased(transfer.transfer), WorkerLost(P0)]


def test_nobody_is_told_of_a_transfer_with_a_worker_that_is_gone() -> None:
    bench = Bench()
    bench.submit()
    bench.turn()
    _, order = bench.order(RunPrefill)
    assert isinstance(order.command, RunPrefill)
    bench.driver.report(P0, Report(PrefillDone(P0, order.command.run), {R: (42,)}))
    bench.driver.worker_lost(D1)
    told = len(bench.told)
    assert [type(event) for event in bench.turn()] == [PrefillDone, WorkerLost]
    orders = [message.command for _, message in bench.told[told:] if isinstance(message, Order)]
    transfers = [command for command in orders if isinstance(command, StartTransfer)]
    assert [command.target for command in transfers] == [D2]
    assert all(worker != D1 for worker, _ in bench.told[told:])


def test_a_worker_that_comes_back_before_it_is_forgotten_waits() -> None:
    bench = Bench()
    transfer = bench.transferring()
    bench.driver.worker_lost(D1)
    bench.driver.worker_joined(D1)
    assert bench.turn() == []
    assert not bench.driver.idle
    bench.driver.disconnected(P0, D1)
    assert bench.turn() == [WorkerLost(D1), WorkerJoined(D1)]
    assert bench.order(StartTransfer)[1].command != transfer, "the KV is moved anew from the worker that has it"


def test_a_request_that_is_cancelled_at_once_arrives_first() -> None:
    bench = Bench()
    bench.submit()
    bench.driver.cancel(R)
    assert [type(event) for event in bench.turn()] == [RequestArrived, RequestCancelled]
    bench.driver.cancel(RequestId(77))
    assert bench.turn() == [], "nobody knows it"


def test_a_worker_that_is_to_leave_is_stopped_when_the_scheduler_lets_it_go() -> None:
    bench = Bench()
    bench.driver.worker_leaving(D2)
    assert bench.turn() == [WorkerLeaving(D2)]
    assert bench.told == [(D2, Stop())]


def test_the_schedulers_deadline_is_an_event() -> None:
    bench = Bench(real_cluster("push", kv_blocks=4, policy=PolicySpec("push", prefill_wait_max_ns=25)))
    for request in range(3):
        bench.submit(RequestId(request), tokens=1)
    bench.turn()
    assert bench.driver.deadline_ns == 35
    assert bench.turn() == []
    bench.turn()
    assert DeadlineReached() in bench.turn()
    assert list(bench.outputs.finished.values()) == ["timeout"]
