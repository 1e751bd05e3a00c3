"""The initiator's side of one data connection of transport tcp: a thread that asks and takes in answers.

While one answer comes in, the next request is already on its way, so the owner never waits for it. With nothing to ask
the thread sleeps in the kernel. It must not know regions, nor which peer this is.
"""

import select
import socket
import threading
from collections import deque
from collections.abc import Callable

from backends.transport.copying import receive, send
from backends.transport.tcp_requests import Request, RequestQueue
from backends.transport.tcp_wire import GRANTED, READ, REFUSED, WRITE, HeadReader, encoded_request
from backends.transport.wake import Waker

_IN_FLIGHT_MAX = 2


class Stream:
    """Ends when the connection does, with ``ended(reason)``; whoever wants it to end shuts the connection down."""

    def __init__(
        self, connection: socket.socket, queue: RequestQueue, timeout_ms: int, ended: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._timeout_ms = timeout_ms
        self._ended = ended
        self._waker = Waker()
        self._in_flight: deque[Request] = deque()
        self._heads = HeadReader(connection)
        self._unsent = memoryview(b"")
        self.idle = False
        self._thread = threading.Thread(target=self._run, name="transport-stream", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._connection.settimeout(self._timeout_ms / 1000)
        self._thread.start()

    def wake(self) -> None:
        """Look into the queue. Any thread."""
        self._waker.set()

    def join(self) -> None:
        """Wait for the end; no memory is touched after it."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self._ask()
                if self._in_flight:
                    self._take_answer(self._in_flight.popleft())
                    self._send_rest()
                else:
                    self._sleep()
        except TimeoutError:
            self._ended(f"it hangs: no progress for {self._timeout_ms / 1000:g} s")
        except OSError as error:
            self._ended(f"a data connection is broken: {error}")

    def _ask(self) -> None:
        """Send requests as far as wanted. No WRITE goes out while an answer with bytes is due: both ends could then
        wait for the other one to read."""
        while len(self._in_flight) < _IN_FLIGHT_MAX and not self._unsent:
            reads_due = any(not request.is_write for request in self._in_flight)
            request = self._queue.take(writes=not reads_due)
            if request is None:
                return
            operation = WRITE if request.is_write else READ
            table = encoded_request(operation, request.remote, request.sizes, request.size_bytes)
            self._in_flight.append(request)
            if reads_due:
                self._send_what_fits(memoryview(table))
            elif request.is_write:
                self._connection.sendall(table, socket.MSG_MORE)
                send(self._connection, request.local, request.sizes, self._timeout_ms)
            else:
                self._connection.sendall(table)

    def _send_what_fits(self, table: memoryview) -> None:
        """Send a READ request while the owner is still sending an answer, without waiting for it to read: it waits for
        us. The rest goes when that answer has been taken in."""
        try:
            sent = self._connection.send(table, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        self._unsent = table[sent:]

    def _send_rest(self) -> None:
        if self._unsent:
            self._connection.sendall(self._unsent)
            self._unsent = memoryview(b"")

    def _take_answer(self, request: Request) -> None:
        outcome, size_bytes, _ = self._heads.read(self._timeout_ms)
        expected_bytes = 0 if outcome == REFUSED or request.is_write else request.size_bytes
        if outcome not in (GRANTED, REFUSED) or size_bytes != expected_bytes:
            raise ConnectionAbortedError(f"an answer of {size_bytes} bytes with outcome {outcome}")
        if expected_bytes:
            receive(self._connection, request.local, request.sizes, self._timeout_ms)
        self._queue.answer(request, "the peer refused: outside its registered regions" if outcome == REFUSED else "")

    def _sleep(self) -> None:
        """Until there may be a request. Nothing may come from the owner meanwhile but the end."""
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        poll.register(self._connection, select.POLLIN)
        self.idle = True
        try:
            ready = [fd for fd, _ in poll.poll()]
        finally:
            self.idle = False
        self._waker.clear()
        if self._connection.fileno() in ready:
            raise ConnectionResetError("the other end has closed it, or spoke unasked")
