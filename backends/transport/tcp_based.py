"""What transports have in common whose control connections use TCP: where they listen and what they dial with.

It must not know how the bytes of a transfer move.
"""

import socket

import msgspec

from backends.transport.memory import allocate_private
from backends.transport.port import Capabilities
from backends.transport.socket_transport import SocketTransport
from backends.transport.tcp_address import TcpEndpoint, advertised, checked_address, listen_on, tune


class TcpBasedTransport(SocketTransport):
    """``host`` is the address to listen on, ``advertised_host`` the one that peers dial (the same if it is empty). A
    connection on which nothing is acknowledged for ``stall_timeout_s`` is given up. Subclasses must call ``_start``
    when they are made."""

    def __init__(
        self, name: str, capabilities: Capabilities, host: str, advertised_host: str, stall_timeout_s: float
    ) -> None:
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._timeout_ms = round(stall_timeout_s * 1000)
        dialled_host = advertised(host, advertised_host)
        listening = listen_on(host, self._timeout_ms)
        self._where = TcpEndpoint(dialled_host, listening.getsockname()[1])
        super().__init__(name, capabilities, listening, socket.gethostname())

    def allocate(self, size_bytes: int) -> memoryview:
        """See ``Transport.allocate``."""
        return allocate_private(size_bytes)

    def _endpoint(self) -> bytes:
        return msgspec.msgpack.encode(self._where)

    def _address(self, endpoint: bytes) -> tuple[str, int]:
        return checked_address(endpoint)

    def _new_socket(self) -> socket.socket:
        return tune(socket.socket(self._family, socket.SOCK_STREAM), self._timeout_ms)
