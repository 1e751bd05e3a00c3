"""A worker without its sockets: takes what the driver says, computes, moves bytes, and says what came of it.

Two threads meet here. The *communication* thread calls ``take`` and ``poll``; transfers start and end there, also while
a step is being computed. The *compute* thread calls ``compute``; everything that touches block tables or the model
happens there, in the order in which it was ordered. ``say`` is called by both. In tests one thread may call them all.

This module must not know processes, sockets or the clock of anybody else.
"""

import queue
from collections.abc import Callable, Sequence

from backends.control.messages import (
    CancelTransfer,
    ConnectPeer,
    DisconnectPeer,
    DriverMessage,
    Heartbeat,
    Order,
    Stop,
    WorkerMessage,
)
from backends.worker.engine import Engine
from backends.worker.transfers import Transfers
from kvsim.core.messages import CutDecode, StartTransfer


class Worker:
    """``ready`` makes the message that this worker is there, with fresh descriptions of its transport."""

    def __init__(
        self,
        engine: Engine,
        transfers: Transfers,
        ready: Callable[[], WorkerMessage],
        say: Callable[[WorkerMessage], None],
    ) -> None:
        self._engine = engine
        self._transfers = transfers
        self._ready = ready
        self._say = say
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._stopped = False

    # --- communication thread -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Say that orders may come."""
        self._say(self._ready())

    def take(self, message: DriverMessage) -> None:
        """Carry out, or hand to the compute thread, one message of the driver."""
        match message:
            case Order(StartTransfer() as command):
                self._transfers.start(command)
            case Order(CutDecode(_, run)):
                self._engine.cut(run)
            case Order():
                self._orders.put(message)
            case ConnectPeer(worker, description):
                self._transfers.connect(worker, description)
            case DisconnectPeer(worker):
                self._transfers.disconnect(worker)
                self._transfers.poll()  # says what became of its transfers before the driver learns that it is gone
                self._say(self._ready())
            case CancelTransfer(transfer):
                self._transfers.cancel(transfer)
            case Stop():
                self.stop()

    def poll(self) -> None:
        """Take in what happened on the transport."""
        self._transfers.poll()

    def stop(self) -> None:
        """Let the compute thread end at its next boundary."""
        self._stopped = True
        self._orders.put(None)

    # --- compute thread -----------------------------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether there is nothing left to compute, ever."""
        return self._stopped

    def compute(self, timeout_s: float) -> bool:
        """One step of the decode run in progress, or else the next order, waiting for it at most this long. Returns
        whether there was something. Raises OrderError if the driver and this worker do not agree any more."""
        if self._engine.decoding:
            self._engine.step()
            return True
        try:
            order = self._orders.get(timeout=timeout_s) if timeout_s > 0 else self._orders.get_nowait()
        except queue.Empty:
            return False
        if order is not None:
            self._engine.carry_out(order)
        return order is not None

    def beat(self) -> None:
        """Say that the compute thread is alive."""
        self._say(Heartbeat(self._transfers.in_flight()))


def peer_names(names: Sequence[str], own: str) -> tuple[str, ...]:
    """Those for which a worker describes itself: all others."""
    return tuple([name for name in names if name != own])
