"""What went wrong in a run, as far as its record tells: workers that come and go, transfers that fail.

Rare events, noted beside the collector's logs. What struck a simulated worker or link is not in a record; only what was
reported of it is.
"""

from collections.abc import Callable, Iterable
from typing import Any

from kvsim.core.messages import DismissWorker, EndLease, RequestId, StartTransfer, WorkerJoined
from kvsim.metrics.columns import Integers
from kvsim.metrics.log import Log

LOST, JOINED, LEFT, TRANSFER_FAILED, TRANSFER_CUT, TRANSFER_RETRIED, SET_BACK = range(7)
TRANSFER_STALE, REROUTED, LEASE_OVER = range(7, 10)
"""What a row of the log says: of a worker, a transfer, or a request: ``SET_BACK`` of one that had blocks on a lost
worker, ``LEASE_OVER`` of one whose KV was given up on the prefill side. A transfer that is ``REROUTED`` has a row as
``TRANSFER_RETRIED`` as well."""


class Mishaps:
    """``log`` gets rows of what, when, and whose id. ``to_move_again`` are requests whose last transfer broke."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.to_move_again: dict[RequestId, None] = {}

    def take(self) -> Integers:
        """The log as an array, which is empty from then on."""
        return self._log.take()

    def lost(self, now_ns: int, worker: int, residents: Iterable[int]) -> None:
        """A worker is gone, and what these requests had there."""
        self._log.put((LOST, now_ns, worker))
        for request in residents:
            self._log.put((SET_BACK, now_ns, request))

    def handlers(self) -> dict[type, Callable[[int, Any], None]]:
        """What is noted as it is said."""
        return {WorkerJoined: self.joined, EndLease: self.lease_over}

    def broke(self, now_ns: int, how: int, order: StartTransfer) -> None:
        """A transfer ends without success: it failed, one of its workers is gone, or it brought somebody else's KV."""
        self._log.put((how, now_ns, order.transfer))
        self.to_move_again[order.request] = None

    def started(self, now_ns: int, order: StartTransfer) -> None:
        """A transfer begins; it may be instead of one that broke."""
        if order.request in self.to_move_again:
            del self.to_move_again[order.request]
            self._log.put((TRANSFER_RETRIED, now_ns, order.transfer))
            if order.path:
                self._log.put((REROUTED, now_ns, order.transfer))

    def joined(self, now_ns: int, event: WorkerJoined) -> None:
        """A worker is there."""
        self._log.put((JOINED, now_ns, event.worker))

    def lease_over(self, now_ns: int, command: EndLease) -> None:
        """KV is given up on the prefill side."""
        self._log.put((LEASE_OVER, now_ns, command.request))

    def left_after(self, note: Callable[[int, DismissWorker], None]) -> Callable[[int, DismissWorker], None]:
        """What notes that a worker is let go, after another one who wants to know."""

        def left(now_ns: int, command: DismissWorker) -> None:
            note(now_ns, command)
            self._log.put((LEFT, now_ns, command.worker))

        return left
