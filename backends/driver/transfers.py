"""Transfers in flight as the driver sees them: what each side has said, and what that means for the scheduler.

A transfer has *movers* (``backends.driver.orders.movers``), who start it and touch both sides' blocks; for one-sided
kinds the other side is merely told by its peer. A mover always speaks in the end: through, or failed. The side that is
told may never hear of it, if the connection breaks at the wrong moment; but the word of the mover says it all. So every
transfer ends once for the scheduler: in TransferDone and TransferReleased, or as failed, when nobody touches its blocks
any more.

This module must not know how bytes move, nor what becomes of a request whose transfer failed.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from backends.control.errors import Refusal
from backends.driver.orders import movers
from kvsim.core.messages import StartTransfer, TransferDone, TransferId, TransferReleased, WorkerId

Ending: TypeAlias = TransferDone | TransferReleased
Word: TypeAlias = Literal["none", "through", "failed"]


@dataclass(frozen=True, slots=True)
class Settled:
    """What a word came to: ``endings`` for the scheduler, a transfer that failed for good (with the reason of whoever
    gave up first), and transfers that movers are still at work on in vain and must be asked to stop."""

    endings: tuple[Ending, ...] = ()
    failed: tuple[TransferId, str] | None = None
    cancel: tuple[tuple[WorkerId, TransferId], ...] = ()


@dataclass(slots=True)
class _Transfer:
    command: StartTransfer
    words: dict[WorkerId, Word]  # by mover
    severed: bool = False  # nobody will be told by a peer any more
    void: bool = False  # one side is lost: that it failed goes without saying
    unsure: WorkerId | None = None  # its peer is lost, and may reach its memory until it has disconnected
    done: bool = False
    released: bool = False
    generation: int = 0  # found at the source, as the target says
    reason: str = ""


class TransferLedger:
    """Transfers from their order until their end has been told."""

    def __init__(self) -> None:
        self._transfers: dict[TransferId, _Transfer] = {}

    def start(self, command: StartTransfer) -> None:
        """A transfer was ordered."""
        self._transfers[command.transfer] = _Transfer(command, dict.fromkeys(movers(command), "none"))

    def ended(self, worker: WorkerId, event: Ending) -> Settled:
        """The target says that the bytes are there, or the source that it is free. Late words come to nothing; raises
        Refusal if it is not this worker's to say."""
        known = self._transfers.get(event.transfer)
        if known is None:
            return Settled()
        arrived = isinstance(event, TransferDone)
        if worker != (known.command.target if arrived else known.command.source):
            said = f"{type(event).__name__} of transfer {event.transfer}"
            raise Refusal("range", f"worker {worker} says {said}, which is not its own")
        if known.words.get(worker) == "failed" or (known.done if arrived else known.released):
            return Settled()
        if worker in known.words:
            known.words[worker] = "through"
        if isinstance(event, TransferDone):
            known.generation = event.generation
        elif known.command.kind == "push":  # a source that says so has looked at its blocks
            known.generation = known.command.generation
        return self._settle(known, (self._tell(known, arrived=arrived),))

    def gave_up(self, worker: WorkerId, transfer: TransferId, reason: str) -> Settled:
        """A mover says that it no longer touches the blocks. Raises Refusal if it never did."""
        known = self._transfers.get(transfer)
        if known is None:
            return Settled()
        if worker not in known.words:
            raise Refusal("range", f"worker {worker} gives up transfer {transfer}, in which it moves nothing")
        if known.words[worker] != "none":
            return Settled()
        known.words[worker] = "failed"
        known.reason = known.reason or reason
        return self._settle(known, ())

    def stop(self, transfer: TransferId) -> Settled:
        """The scheduler does not want it any more: whoever has not spoken is to stop."""
        known = self._transfers.get(transfer)
        words = {} if known is None else known.words
        return Settled(cancel=tuple([(mover, transfer) for mover, word in words.items() if word == "none"]))

    def severed(self, one: WorkerId, other: WorkerId) -> list[Settled]:
        """Two workers that live on do not reach each other any more."""
        return [self._sever(known) for known in self._between(one, other)]

    def lost(self, worker: WorkerId) -> list[Settled]:
        """A worker is gone for good. Transfers with others end when those have let go of them: a mover has spoken, and
        what the lost worker moved cannot reach the survivor's memory any more (``disconnected``)."""
        settled = []
        for known in self._of(worker):
            known.void = True
            other = known.command.source if worker == known.command.target else known.command.target
            for mover, word in known.words.items():
                if mover == worker and word == "none":
                    known.words[mover] = "failed"
            known.unsure = None if known.unsure == worker else other
            settled.append(self._sever(known))
        return settled

    def disconnected(self, survivor: WorkerId, lost: WorkerId) -> list[Settled]:
        """Nothing that the lost worker began can reach the survivor's memory any more."""
        settled = []
        for known in self._between(survivor, lost):
            known.unsure = None
            settled.append(self._settle(known, ()))
        return settled

    def involves(self, worker: WorkerId) -> bool:
        """Whether a transfer with this worker has not ended."""
        return bool(self._of(worker))

    def __len__(self) -> int:
        return len(self._transfers)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _of(self, worker: WorkerId) -> list[_Transfer]:
        return [known for known in self._transfers.values() if worker in (known.command.source, known.command.target)]

    def _between(self, one: WorkerId, other: WorkerId) -> list[_Transfer]:
        return [known for known in self._of(one) if other in (known.command.source, known.command.target)]

    def _sever(self, known: _Transfer) -> Settled:
        known.severed = True
        return self._settle(known, ())

    def _tell(self, known: _Transfer, *, arrived: bool) -> Ending:
        transfer = known.command.transfer
        if arrived:
            known.done = True
            return TransferDone(transfer, known.generation)
        known.released = True
        return TransferReleased(transfer)

    def _settle(self, known: _Transfer, endings: tuple[Ending, ...]) -> Settled:
        """The end of the transfer, if the words so far amount to one."""
        transfer, words = known.command.transfer, known.words
        waiting = tuple([(mover, transfer) for mover, word in words.items() if word == "none"])
        failed = "failed" in words.values()
        if known.done and known.released:
            del self._transfers[transfer]
            return Settled(endings)
        if waiting:
            return Settled(endings, cancel=waiting if failed else ())
        if known.unsure is not None:
            return Settled(endings)
        arrived = known.done or not failed
        if failed and not arrived:
            del self._transfers[transfer]
            return Settled(endings, None if known.void else (transfer, known.reason))
        if failed or known.severed:  # the bytes are there, and no mover is left that could read the source
            del self._transfers[transfer]
            missing = [] if known.done else [self._tell(known, arrived=True)]
            missing += [] if known.released else [self._tell(known, arrived=False)]
            return Settled((*endings, *missing))
        return Settled(endings)
