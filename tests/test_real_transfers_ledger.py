"""What the words of both sides of a transfer come to, also when a connection or a worker is lost in between."""

import pytest

from backends.control.errors import Refusal
from backends.driver.transfers import Settled, TransferLedger
from kvsim.core.messages import (
    RequestId,
    StartTransfer,
    TransferDone,
    TransferId,
    TransferKind,
    TransferReleased,
    WorkerId,
)

SOURCE, TARGET, OTHER = WorkerId(0), WorkerId(1), WorkerId(2)
T = TransferId(7)
DONE, RELEASED = TransferDone(T), TransferReleased(T)
NOTHING = Settled()


def ledger(kind: TransferKind) -> TransferLedger:
    transfers = TransferLedger()
    blocks = ((0, 1),)
    transfers.start(StartTransfer(T, RequestId(3), kind, SOURCE, TARGET, blocks, blocks, 0, 4, 64, 4, True))
    return transfers


@pytest.mark.parametrize("kind", ["pull", "push", "message"])
@pytest.mark.parametrize("target_first", [True, False])
def test_a_transfer_ends_when_both_sides_have_said_their_part(kind: TransferKind, target_first: bool) -> None:
    transfers = ledger(kind)
    words: list[tuple[WorkerId, TransferDone | TransferReleased]] = [(TARGET, DONE), (SOURCE, RELEASED)]
    for worker, event in words if target_first else reversed(words):
        assert transfers.ended(worker, event) == Settled((event,))
        assert transfers.ended(worker, event) == NOTHING, "said twice"
    assert len(transfers) == 0


@pytest.mark.parametrize(("kind", "mover"), [("pull", TARGET), ("push", SOURCE)])
def test_a_mover_that_gives_up_ends_the_transfer(kind: TransferKind, mover: WorkerId) -> None:
    transfers = ledger(kind)
    assert transfers.gave_up(mover, T, "cable cut") == Settled(failed=(T, "cable cut"))
    assert transfers.gave_up(mover, T, "cable cut") == NOTHING
    assert len(transfers) == 0


def test_when_one_side_of_a_message_gives_up_the_other_is_asked_to_stop_and_waited_for() -> None:
    transfers = ledger("message")
    assert transfers.gave_up(TARGET, T, "no memory") == Settled(cancel=((SOURCE, T),))
    assert transfers.gave_up(SOURCE, T, "cancelled") == Settled(failed=(T, "no memory"))


def test_a_message_that_was_sent_and_not_received_fails_although_its_source_is_free() -> None:
    transfers = ledger("message")
    assert transfers.ended(SOURCE, RELEASED) == Settled((RELEASED,))
    assert transfers.gave_up(TARGET, T, "no memory") == Settled(failed=(T, "no memory"))


def test_a_message_that_was_received_has_arrived_whatever_becomes_of_its_sender() -> None:
    transfers = ledger("message")
    assert transfers.ended(TARGET, DONE) == Settled((DONE,))
    assert transfers.gave_up(SOURCE, T, "reset") == Settled((RELEASED,))
    assert len(transfers) == 0


def test_when_the_connection_breaks_behind_the_bytes_the_mover_speaks_for_both() -> None:
    pull, push = ledger("pull"), ledger("push")
    assert pull.ended(TARGET, DONE) == Settled((DONE,))
    assert pull.severed(SOURCE, TARGET) == [Settled((RELEASED,))], "COMPLETE never came"
    assert push.ended(SOURCE, RELEASED) == Settled((RELEASED,))
    assert push.severed(TARGET, SOURCE) == [Settled((DONE,))]
    assert len(pull) == len(push) == 0


def test_when_the_connection_breaks_before_the_mover_has_spoken_its_word_decides() -> None:
    for_good, in_time = ledger("pull"), ledger("pull")
    assert for_good.severed(SOURCE, TARGET) == [NOTHING]
    assert for_good.gave_up(TARGET, T, "reset") == Settled(failed=(T, "reset"))
    assert in_time.severed(SOURCE, TARGET) == [NOTHING]
    assert in_time.ended(TARGET, DONE) == Settled((DONE, RELEASED))


def test_a_transfer_into_a_survivor_fails_only_once_the_lost_source_cannot_reach_it() -> None:
    transfers = ledger("push")
    assert transfers.lost(SOURCE) == [NOTHING]
    assert transfers.disconnected(OTHER, SOURCE) == []
    assert transfers.involves(SOURCE)
    assert transfers.disconnected(TARGET, SOURCE) == [NOTHING], "the loss of the worker says it all"
    assert not transfers.involves(SOURCE)


def test_a_pull_from_a_lost_source_ends_with_the_word_of_the_target() -> None:
    failed, arrived = ledger("pull"), ledger("pull")
    assert failed.lost(SOURCE) == arrived.lost(SOURCE) == [NOTHING]
    assert failed.disconnected(TARGET, SOURCE) == [NOTHING], "it has not spoken yet"
    assert failed.involves(SOURCE)
    assert failed.gave_up(TARGET, T, "gone") == NOTHING
    assert not failed.involves(SOURCE)
    assert arrived.ended(TARGET, DONE) == Settled((DONE,))
    assert arrived.disconnected(TARGET, SOURCE) == [Settled((RELEASED,))]


def test_when_both_sides_are_lost_the_transfer_is_over() -> None:
    transfers = ledger("push")
    assert transfers.lost(SOURCE) == [NOTHING]
    assert transfers.lost(TARGET) == [NOTHING]
    assert len(transfers) == 0


def test_words_that_are_not_a_workers_to_say_are_its_fault() -> None:
    transfers = ledger("pull")
    with pytest.raises(Refusal, match="worker 0 says TransferDone of transfer 7, which is not its own"):
        transfers.ended(SOURCE, DONE)
    with pytest.raises(Refusal, match="worker 0 gives up transfer 7"):
        transfers.gave_up(SOURCE, T, "")
    assert transfers.ended(OTHER, TransferDone(TransferId(99))) == NOTHING, "long over"
