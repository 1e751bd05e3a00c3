"""Short messages on the control connection between two transports: kind, length, payload.

Sending never blocks: what the socket does not take at once waits here. The thread that runs the channel sleeps until
there is something to read, to write, or the channel is ended. It must not know what the messages mean.
"""

import select
import socket
import struct
import threading
from collections.abc import Callable

from backends.transport.port import NOTIFICATION_BYTES_MAX
from backends.transport.wake import Waker

_UNSENT_BYTES_MAX = 16 * 2**20
_HEAD = struct.Struct("!BI")
_READ_BYTES = 128 * 1024


def encoded(kind: int, payload: bytes) -> bytes:
    """One message as it goes over the connection."""
    assert len(payload) <= NOTIFICATION_BYTES_MAX, f"a message of {len(payload)} bytes"
    return _HEAD.pack(kind, len(payload)) + payload


class FrameChannel:
    """One connection. ``run`` belongs to one thread; ``send`` and ``end`` may come from any."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._waker = Waker()
        self._lock = threading.Lock()
        self._unsent = bytearray()
        self._ended = ""

    def send(self, kind: int, payload: bytes) -> None:
        """Send a message, in order. Dropped if the channel has ended."""
        frame = encoded(kind, payload)
        with self._lock:
            if self._ended:
                return
            sent = 0 if self._unsent else self._try_send(frame)
            if sent < len(frame):
                self._unsent += frame[sent:]
                self._waker.set()

    def end(self, reason: str) -> None:
        """Make ``run`` return soon, with this reason if there is none yet."""
        with self._lock:
            self._ended = self._ended or reason
        self._waker.set()

    def run(self, on_frame: Callable[[int, bytes], str]) -> str:
        """Take in messages until the connection ends or ``end`` is called; why it did. Leaves the socket open.

        ``on_frame(kind, payload)`` says what is wrong with a message, which ends the channel; nothing: an empty text.
        """
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        received = bytearray()
        while True:
            with self._lock:
                if self._ended:
                    return self._ended
                if len(self._unsent) > _UNSENT_BYTES_MAX:
                    self._ended = f"it has left more than {_UNSENT_BYTES_MAX} bytes of notifications unread"
                    return self._ended
                wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
            poll.register(self._connection, wanted)
            ready = dict(poll.poll())
            if self._waker.fileno() in ready:
                self._waker.clear()
            events = ready.get(self._connection.fileno(), 0)
            if events & select.POLLOUT:
                self._flush()
            if events & ~select.POLLOUT:
                problem = self._take_in(received, on_frame)
                if problem:
                    self.end(problem)

    def _try_send(self, data: bytes | bytearray) -> int:
        """Bytes that the socket took; the lock is held. An error is left for the reader to find."""
        try:
            return self._connection.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._ended = self._ended or f"its connection is broken: {error}"
            return 0

    def _flush(self) -> None:
        with self._lock:
            del self._unsent[: self._try_send(self._unsent)]

    def _take_in(self, received: bytearray, on_frame: Callable[[int, bytes], str]) -> str:
        try:
            piece = self._connection.recv(_READ_BYTES)
        except BlockingIOError:
            return ""
        except OSError as error:
            return f"its connection is broken: {error}"
        if not piece:
            return "it has gone: its connection is closed"
        received += piece
        while len(received) >= _HEAD.size:
            kind, payload_bytes = _HEAD.unpack_from(received)
            if payload_bytes > NOTIFICATION_BYTES_MAX:
                return f"it sent a message of {payload_bytes} bytes"
            end = _HEAD.size + payload_bytes
            if len(received) < end:
                break
            problem = on_frame(kind, bytes(received[_HEAD.size : end]))
            if problem:
                return problem
            del received[:end]
        return ""
