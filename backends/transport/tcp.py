"""Transfers over stream sockets, across hosts: one-sided in its interface, a thread of the owner answers.

Bytes go straight from the pool to the socket and from the socket to the pool, without a buffer in between. Each peer
has one control connection and several data connections, all dialled by the initiator, each with a thread on both sides.
"""

import socket

from backends.transport.jobs import Job
from backends.transport.link import Link
from backends.transport.port import Capabilities
from backends.transport.tcp_based import TcpBasedTransport
from backends.transport.tcp_requests import RequestQueue
from backends.transport.tcp_server import serve_data
from backends.transport.tcp_stream import Stream
from backends.transport.tcp_wire import DATA

CAPABILITIES = Capabilities(
    name="tcp",
    read=True,
    write=True,
    two_sided=False,
    owner_runs_code=True,
    same_host=False,
    any_memory=True,
    device_memory=False,
    revocable=True,
    access_enforced=True,
)


class TcpTransport(TcpBasedTransport):
    """The ``Transport`` named ``tcp``.

    ``host`` is the address to listen on, ``advertised_host`` the one that peers dial (the same unless given).
    ``streams`` is the number of data connections to each peer. A peer that makes no progress for ``stall_timeout_s`` in
    the middle of a transfer is given up.
    """

    def __init__(
        self,
        name: str,
        host: str = "127.0.0.1",
        *,
        advertised_host: str = "",
        streams: int = 2,
        stall_timeout_s: float = 10.0,
    ) -> None:
        self._streams = streams
        super().__init__(name, CAPABILITIES, host, advertised_host, stall_timeout_s)
        self._start()

    def _new_carrier(self, link: Link) -> "_TcpCarrier":
        return _TcpCarrier(link, self._streams, self._timeout_ms)

    def _serve_further(self, peer_name: str, purpose: int, connection: socket.socket) -> None:
        if purpose != DATA:
            super()._serve_further(peer_name, purpose, connection)
        serve_data(connection, self._registry, self._timeout_ms)


class _TcpCarrier:
    """The data connections to one peer."""

    def __init__(self, link: Link, streams: int, timeout_ms: int) -> None:
        self._link = link
        self._wanted = streams
        self._timeout_ms = timeout_ms
        self._queue = RequestQueue(streams, link.finish)
        self._streams: list[Stream] = []

    def open(self, control: socket.socket) -> None:
        """Dial the data connections."""
        del control
        for _ in range(self._wanted):
            connection = self._link.connect(DATA)
            self._streams.append(Stream(connection, self._queue, self._timeout_ms, self._lose))
        for stream in self._streams:
            stream.start()

    def start(self, job: Job) -> None:
        """Queue its requests and wake as many streams as can share them."""
        requests = self._queue.add(job)
        for stream in sorted(self._streams, key=lambda stream: not stream.idle)[:requests]:
            stream.wake()

    def cancel(self, job: Job) -> None:
        """Requests that are on their way are awaited; the others are not made."""
        del job
        for stream in self._streams:
            stream.wake()

    def abort(self) -> None:
        """The link has shut the connections down, which wakes the streams."""

    def on_frame(self, kind: int, payload: bytes) -> str:
        """Owners of tcp send nothing more."""
        del payload
        return f"it sent a message of kind {kind}"

    def close(self) -> None:
        """Wait for the streams."""
        self._queue.close()
        for stream in self._streams:
            stream.join()

    def _lose(self, reason: str) -> None:
        self._link.end("failed", reason)
