"""Where transports that use TCP listen and dial, and the options of their sockets. It must not know what they carry."""

import socket

import msgspec

from backends.transport.port import TransportError

_WILDCARDS = ("", "0.0.0.0", "::")
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_PROBES = 10, 5, 3


class TcpEndpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a transport listens."""

    host: str
    port: int


def listen_on(host: str, timeout_ms: int) -> socket.socket:
    """A socket bound to a free port of this address; connections that it accepts inherit its options."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        tune(listening, timeout_ms).bind((host, 0))
    except OSError as error:
        listening.close()
        raise TransportError(f"cannot listen on {host!r}: {error}") from None
    return listening


def advertised(host: str, advertised_host: str) -> str:
    """The address that peers dial."""
    if not advertised_host and host in _WILDCARDS:
        raise TransportError(f"listening on {host!r} needs an advertised host, the address that peers dial")
    return advertised_host or host


def checked_address(endpoint: bytes) -> tuple[str, int]:
    """Host and port of an encoded ``TcpEndpoint``. Raises ValueError."""
    try:
        where = msgspec.msgpack.decode(endpoint, type=TcpEndpoint)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    if not 0 < where.port < 2**16 or not 0 < len(where.host) < 256:
        raise ValueError(f"host {where.host[:40]!r} and port {where.port}")
    return where.host, where.port


def tune(connection: socket.socket, timeout_ms: int) -> socket.socket:
    """Send small messages at once, and notice a host that has gone without a word."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    return connection
