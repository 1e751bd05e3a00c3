"""The events of one transport on their way from its threads to the caller of ``poll``.

It must not know transfers or peers: it hands out handle numbers and keeps a list.
"""

import itertools
import threading

from backends.transport.port import TransferHandle, TransportEvent
from backends.transport.wake import Waker


class Ledger:
    """Handles counted up from 1, and events in the order in which they were posted. For all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._events: list[TransportEvent] = []
        self._waker = Waker()

    def new_handle(self) -> TransferHandle:
        """The next handle."""
        with self._lock:
            return TransferHandle(next(self._numbers))

    def post(self, event: TransportEvent) -> None:
        """Append an event and wake whoever waits."""
        with self._lock:
            self._events.append(event)
            if len(self._events) == 1:
                self._waker.set()

    def take(self) -> list[TransportEvent]:
        """All events so far, which are forgotten here."""
        with self._lock:
            if self._events:
                self._waker.clear()
            events, self._events = self._events, []
        return events

    def wait(self, timeout_s: float) -> bool:
        """Sleep until there is an event, at most this long; whether there is."""
        return self._waker.wait(timeout_s)

    def fileno(self) -> int:
        """Readable while there is an event."""
        return self._waker.fileno()
