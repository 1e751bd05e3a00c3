"""Takes in connections of peers, lets them prove their token, and gives each a thread that serves it.

It must not know what is served. Threads sleep in the kernel while their peers are silent.
"""

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from backends.transport.handshake import Tickets, prove_to_dialler
from backends.transport.wake import Waker

_UNPROVEN_MAX = 64
"""Connections that have not proven a token yet; more are closed at once."""

_PER_PEER_MAX = 64


class Acceptor:
    """Listens on ``listening`` from ``start`` to ``close``; ``serve(peer_name, purpose, connection)`` runs in a thread
    of its own and should return when the connection is shut down. The acceptor closes it then."""

    def __init__(
        self, listening: socket.socket, tickets: Tickets, serve: Callable[[str, int, socket.socket], None]
    ) -> None:
        self._listening = listening
        self._tickets = tickets
        self._serve = serve
        self._stop = Waker()
        self._lock = threading.Lock()
        self._unproven: dict[socket.socket, threading.Thread] = {}
        self._proven: dict[socket.socket, tuple[str, threading.Thread]] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="transport-accept", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._listening.listen(128)
        self._listening.setblocking(False)
        self._thread.start()

    def drop(self, peer_name: str) -> None:
        """End the connections of this peer; none is served any more when this returns."""
        with self._lock:
            ours = [(connection, thread) for connection, (name, thread) in self._proven.items() if name == peer_name]
            for connection, _ in ours:
                shut_down(connection)
        for _, thread in ours:
            thread.join()

    def close(self) -> None:
        """End all connections and threads."""
        with self._lock:
            self._closed = True
            threads = [*self._unproven.values(), *(thread for _, thread in self._proven.values())]
            for connection in [*self._unproven, *self._proven]:
                shut_down(connection)
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        for thread in threads:
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while True:
            poll.poll()
            if self._closed:
                return
            with suppress(OSError):  # a dialler that has gone again
                connection, _ = self._listening.accept()
                self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        thread = threading.Thread(target=self._run, args=(connection,), name="transport-serve", daemon=True)
        with self._lock:
            if self._closed or len(self._unproven) >= _UNPROVEN_MAX:
                connection.close()
                return
            self._unproven[connection] = thread
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        try:
            peer_name, purpose = prove_to_dialler(connection, self._tickets)
            if self._admit(connection, peer_name):
                self._serve(peer_name, purpose, connection)
        except OSError:
            pass  # the peer sees its connection end; there is nobody else to tell
        finally:
            with self._lock:
                self._unproven.pop(connection, None)
                self._proven.pop(connection, None)
                connection.close()

    def _admit(self, connection: socket.socket, peer_name: str) -> bool:
        with self._lock:
            thread = self._unproven.pop(connection)
            held = sum(name == peer_name for name, _ in self._proven.values())
            # the token may have been withdrawn between the proof and now
            if self._closed or held >= _PER_PEER_MAX or self._tickets.token(peer_name) is None:
                return False
            self._proven[connection] = (peer_name, thread)
            return True


def shut_down(connection: socket.socket) -> None:
    """Wake every thread that sleeps on a connection; each finds it ended. Any thread may call this."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
