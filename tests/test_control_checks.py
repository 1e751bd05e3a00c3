"""Range checks: nothing that an honest peer sends is refused; ids, lengths and blocks that cannot be are."""

import pytest
from msgspec.structs import replace

from backends.control.errors import Refusal
from backends.control.messages import (
    ID_END,
    ConnectPeer,
    DecodeStart,
    DisconnectPeer,
    DriverMessage,
    Order,
    Ready,
    Report,
    RequestTerms,
    Stop,
)
from backends.control.order_checks import check_driver_message
from backends.control.ranges import PeerLimits
from backends.control.report_checks import OrderedWork, check_ready
from kvsim.core.messages import (
    AssignBlocks,
    Chunk,
    Command,
    CutDecode,
    DeadlineReached,
    DecodeAdvanced,
    Event,
    FinishRequest,
    LayersReady,
    PrefillDone,
    ReleaseBlocks,
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

LIMITS = PeerLimits(layers=4, vocabulary=100, kv_blocks=8)
W, OTHER = WorkerId(1), WorkerId(2)
A, B = RequestId(10), RequestId(11)
RUN, T = RunId(5), TransferId(6)
PREFILL = RunPrefill(W, RUN, (Chunk(A, 0, 2),), (A,), (B,), ((7, 1),), 1)
DECODE = RunDecode(W, RUN, (A, B), 2, ((6, 2),))
PUSH = StartTransfer(T, A, "push", W, OTHER, ((0, 2),), ((90, 1), (95, 1)), 1, 3, 4096, 8, True)
PULL = replace(PUSH, kind="pull", source=OTHER, target=W, source_blocks=((90, 2),), target_blocks=((4, 2),))


# --- orders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        Order(AssignBlocks(W, A, ((0, 3), (7, 1)))),
        Order(ReleaseBlocks(W, A)),
        Order(PREFILL, (RequestTerms(A, 2),), {A: (99, 0)}, (DecodeStart(B, 1, 99),)),
        Order(DECODE),
        Order(CutDecode(W, RUN)),
        Order(PUSH),
        Order(PULL),
        ConnectPeer(OTHER, b""),
        DisconnectPeer(OTHER),
        Stop(),
    ],
)
def test_orders_that_can_be_carried_out_pass(message: DriverMessage) -> None:
    check_driver_message(message, W, LIMITS)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (AssignBlocks(OTHER, A, ((0, 1),)), "an order for worker 2 at worker 1"),
        (AssignBlocks(W, RequestId(-1), ((0, 1),)), "no request -1"),
        (AssignBlocks(W, RequestId(ID_END), ((0, 1),)), f"no request {ID_END}"),
        (AssignBlocks(W, A, ((7, 2),)), "not in a pool of 8"),
        (AssignBlocks(W, A, ((-1, 2),)), "no blocks or named twice"),
        (AssignBlocks(W, A, ((0, 0),)), "no blocks or named twice"),
        (AssignBlocks(W, A, ((2, 2), (0, 3))), "no blocks or named twice"),
        (AssignBlocks(W, A, ((0, 1 << 62),)), "not in a pool of 8"),
        (replace(DECODE, batch=(A, A)), "batch"),
        (replace(DECODE, batch=()), "batch"),
        (replace(DECODE, steps_max=0), "0 steps"),
        (replace(DECODE, run=RunId(-2)), "no run -2"),
        (replace(DECODE, spare_blocks=((8, 1),)), "not in a pool"),
        (CutDecode(W, RunId(-1)), "no run -1"),
        (replace(PUSH, source=WorkerId(3)), "3 to 2 at worker 1"),
        (replace(PUSH, target=W), "to itself"),
        (replace(PUSH, first_layer=2), "layers 2 \\+ 3 of 4"),
        (replace(PUSH, first_layer=-1), "layers -1"),
        (replace(PUSH, layers=0), "layers 1 \\+ 0"),
        (replace(PUSH, source_blocks=((7, 2),)), "not in a pool of 8"),
        (replace(PUSH, target_blocks=((0, 1),)), "2 blocks here pair up with 1 there"),
        (replace(PULL, target_blocks=((7, 2),)), "not in a pool of 8"),
        (replace(PUSH, transfer=TransferId(-1)), "no transfer -1"),
        (FinishRequest(A, "stop"), "not for workers"),
    ],
)
def test_commands_out_of_range_are_refused(command: Command, text: str) -> None:
    with pytest.raises(Refusal, match=text) as refused:
        check_driver_message(Order(command), W, LIMITS)
    assert refused.value.kind == "range"


@pytest.mark.parametrize(
    "order",
    [
        Order(PREFILL),
        Order(PREFILL, tokens={A: (1,)}),
        Order(PREFILL, tokens={A: (1, 100)}),
        Order(PREFILL, tokens={A: (1, 2), B: (3,)}),
        Order(DECODE, tokens={A: (1,)}),
        Order(DECODE, starts=(DecodeStart(A, 1, 100),)),
        Order(DECODE, terms=(RequestTerms(RequestId(-1), 1),)),
        Order(replace(PREFILL, chunks=(Chunk(A, 0, 1), Chunk(A, 1, 1))), tokens={A: (1,)}),
        Order(replace(PREFILL, chunks=(Chunk(A, -1, 2),)), tokens={A: (1, 2)}),
        Order(replace(PREFILL, completes=(B,)), tokens={A: (1, 2)}),
        Order(replace(PREFILL, decoding=(A,)), tokens={A: (1, 2)}),
        Order(replace(PREFILL, announce_layers=-1), tokens={A: (1, 2)}),
    ],
)
def test_orders_whose_parts_do_not_fit_are_refused(order: Order) -> None:
    with pytest.raises(Refusal) as refused:
        check_driver_message(order, W, LIMITS)
    assert refused.value.kind == "range"


def test_a_worker_is_not_its_own_peer() -> None:
    with pytest.raises(Refusal, match="its own peer"):
        check_driver_message(ConnectPeer(W, b""), W, LIMITS)


# --- reports -----------------------------------------------------------------------------------------------------


def work(*commands: Command) -> OrderedWork:
    """A worker that was given these orders."""
    ordered = OrderedWork(W, LIMITS)
    for command in commands:
        ordered.ordered(command)
    return ordered


def step(ended: bool = False, finished: tuple[RequestId, ...] = ()) -> Report:
    return Report(DecodeAdvanced(W, RUN, 1, 5_000_000, 0, ended, finished), {A: (1,), B: (2,)}, 5)


def test_an_honest_worker_is_never_refused() -> None:
    ordered = work(AssignBlocks(W, A, ((0, 1),)), PREFILL, PUSH)
    for layers in (1, 2, 3):
        ordered.check(Report(LayersReady(W, RUN, layers)))
    ordered.check(Report(PrefillDone(W, RUN, (B, A)), {A: (1,), B: (2,)}))
    ordered.check(Report(TransferReleased(T)))
    ordered.ordered(DECODE)
    ordered.check(step())
    ordered.check(step(ended=True, finished=(B,)))
    ordered.ordered(DECODE)
    ordered.check(Report(DecodeAdvanced(W, RUN, 0, 0, 0, True)))  # cut before its first step
    ordered.ordered(PULL)
    ordered.check(Report(TransferDone(T)))


@pytest.mark.parametrize(
    "event",
    [
        PrefillDone(OTHER, RUN),
        PrefillDone(W, RunId(4)),
        PrefillDone(W, RUN, (A, B)),
        PrefillDone(W, RUN, (RequestId(99),)),
        PrefillDone(W, RUN, (A, A)),
        LayersReady(W, RUN, 2),
        LayersReady(W, RUN, 0),
        LayersReady(W, RUN, 4),
        DecodeAdvanced(W, RUN, 1, 0, 0, True),
        TransferDone(T),
        TransferReleased(T),
        DeadlineReached(),
    ],
)
def test_reports_that_do_not_fit_a_prefill_are_refused(event: Event) -> None:
    with pytest.raises(Refusal) as refused:
        work(PREFILL).check(
            Report(event, {A: (1,), B: (1,)} if isinstance(event, PrefillDone | DecodeAdvanced) else {})
        )
    assert refused.value.kind == "range"


def test_layers_for_which_nobody_asked_are_refused() -> None:
    with pytest.raises(Refusal, match="nobody asked"):
        work(replace(PREFILL, announce_layers=0)).check(Report(LayersReady(W, RUN, 1)))


@pytest.mark.parametrize(
    "event",
    [
        DecodeAdvanced(W, RUN, 2, 0, 0, True),
        DecodeAdvanced(W, RUN, -1, 0, 0, True),
        DecodeAdvanced(W, RUN, 1, -1, 0, False),
        DecodeAdvanced(W, RUN, 1, 1 << 80, 0, False),
        DecodeAdvanced(W, RUN, 1, 0, 1, False),
        DecodeAdvanced(W, RUN, 1, 0, 0, False, (A,)),
        DecodeAdvanced(W, RUN, 1, 0, 0, True, (B, A)),
        DecodeAdvanced(W, RUN, 1, 0, 0, False, (), 1),
        DecodeAdvanced(OTHER, RUN, 1, 0, 0, False),
        PrefillDone(W, RUN),
    ],
)
def test_reports_that_do_not_fit_a_decode_run_are_refused(event: Event) -> None:
    with pytest.raises(Refusal) as refused:
        work(DECODE).check(Report(event, {A: (1,), B: (1,)}))
    assert refused.value.kind == "range"


def test_a_decode_run_has_no_more_steps_than_ordered_and_ends_with_the_last() -> None:
    ordered = work(DECODE)
    ordered.check(step())
    with pytest.raises(Refusal, match="goes on after its last step"):
        ordered.check(step())
    ended = work(DECODE)
    ended.check(step(ended=True))
    with pytest.raises(Refusal, match="not open"):
        ended.check(step())


@pytest.mark.parametrize(
    "tokens", [{}, {A: (1,)}, {A: (1,), B: (1, 2)}, {A: (1,), B: (100,)}, {A: (1,), B: (1,), RequestId(3): (1,)}]
)
def test_tokens_are_those_of_the_batch(tokens: dict[RequestId, tuple[int, ...]]) -> None:
    with pytest.raises(Refusal):
        work(DECODE).check(Report(DecodeAdvanced(W, RUN, 1, 0, 0, False), tokens))


def test_each_end_of_a_transfer_is_told_once_and_by_its_side_only() -> None:
    source = work(PUSH)
    with pytest.raises(Refusal):
        source.check(Report(TransferDone(T)))
    source.check(Report(TransferReleased(T)))
    with pytest.raises(Refusal):
        source.check(Report(TransferReleased(T)))
    target = work(PULL)
    with pytest.raises(Refusal):
        target.check(Report(TransferReleased(T)))
    assert target.knows_transfer(T)
    target.forget_transfer(T)
    assert not target.knows_transfer(T)
    with pytest.raises(Refusal):
        target.check(Report(TransferDone(T)))


def test_a_worker_that_gets_ready_has_the_transport_and_the_pool_that_were_planned() -> None:
    ready = Ready("shm", b"", ("read",), 8, 1, "here")
    check_ready(ready, "shm", 8)
    with pytest.raises(Refusal, match="transport 'shm' instead of 'tcp'"):
        check_ready(ready, "tcp", 8)
    with pytest.raises(Refusal, match="a pool of 8 blocks instead of 9"):
        check_ready(ready, "shm", 9)
