"""ZeroMQ sockets as both ends of the control plane need them: encrypted, bounded, and never reconnecting by themselves.

CURVE (RFC 26/CURVEZMQ: Curve25519 and XSalsa20-Poly1305 as in NaCl) was chosen over messages that are only signed,
because region keys travel here: who reads one can read a KV cache. The driver makes a new key pair for each run and
its launcher tells workers the public half; workers use a key pair of their own for each connection, so a recorded
conversation stays unreadable when the secret leaks later. That a *worker* was invited is not CURVE's business but the
handshake's (``backends.control.handshake``), which can say in words what is wrong where CURVE falls silent.

Only TCP: ZeroMQ takes over the path of an ``ipc`` socket that is in use without a word, and saves 10 us at most.
This module must not know messages.
"""

import errno
import re
from types import TracebackType
from typing import Final, Self

import zmq
import zmq.utils.monitor

from backends.control.errors import ControlError
from backends.control.frames import MESSAGE_BYTES_MAX

QUEUED_MESSAGES_MAX = 10_000
"""In each direction of each connection; a peer that lets so many pile up has stopped reading."""
HANDSHAKE_MS = 10_000
PROBE_INTERVAL_MS: Final = 2_000
PROBE_TIMEOUT_MS: Final = 60_000
"""ZeroMQ itself asks whether the other machine is still there, so that a connection cut without a word ends."""
LINGER_MS: Final = 1_000
"""How long closing waits for messages that are still on their way out."""

NEVER_MS: Final = 24 * 3_600_000
"""Not -1, which libzmq 4.3.5 offers for this: now and then its context never ends once such a connection failed."""
_NO_KEY: Final = "whoever listens there does not hold the driver's key"
_END_REASONS: Final = {
    int(zmq.EVENT_DISCONNECTED): "the connection was closed",
    int(zmq.EVENT_CLOSED): "nothing listens there",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): _NO_KEY,
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): _NO_KEY,
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): _NO_KEY,
}
_ADDRESS = re.compile(r"tcp://(?P<host>[^*\s/]+):(?P<port>\d{1,5})")


class ControlSocket:
    """A socket and its context, closed together. Owned by one thread."""

    def __init__(self, kind: int) -> None:
        if not zmq.has("curve"):
            raise ControlError("this ZeroMQ cannot encrypt (no CURVE); install the wheel of pyzmq: pip install pyzmq")
        self._context = zmq.Context(io_threads=1)
        self.socket: zmq.Socket[bytes] = self._context.socket(kind)
        for option, value in (
            (zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX),
            (zmq.SNDHWM, QUEUED_MESSAGES_MAX),
            (zmq.RCVHWM, QUEUED_MESSAGES_MAX),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
            (zmq.HEARTBEAT_IVL, PROBE_INTERVAL_MS),
            (zmq.HEARTBEAT_TIMEOUT, PROBE_TIMEOUT_MS),
        ):
            self.socket.setsockopt(option, value)
        self.ended: str | None = None
        """Why the connection made by ``call`` ended, once ``wait`` has seen it. Messages may still be unread."""
        self._monitor: zmq.Socket[bytes] | None = None
        self._poller = zmq.Poller()
        self._poller.register(self.socket, zmq.POLLIN)

    def serve(self, address: str) -> tuple[str, str]:
        """Bind to ``tcp://HOST:PORT`` (port 0: any free one); gives the endpoint and the public key.

        Raises ControlError if that is no such address, not this machine's, or in use.
        """
        _check_address(address)
        public, private = zmq.curve_keypair()
        self.socket.curve_server = True
        self.socket.curve_secretkey = private
        try:
            self.socket.bind(re.sub(r":0$", ":*", address))
        except zmq.ZMQError as error:
            raise ControlError(f"{address}: {_bind_advice(error)}") from error
        return self.socket.getsockopt_string(zmq.LAST_ENDPOINT), public.decode()

    def call(self, endpoint: str, driver_key: str) -> None:
        """Connect once to an endpoint whose owner has this public key. Raises ControlError if either is malformed."""
        _check_address(endpoint)
        public, private = zmq.curve_keypair()
        self.socket.curve_publickey = public
        self.socket.curve_secretkey = private
        try:
            self.socket.curve_serverkey = driver_key.encode()
        except (zmq.ZMQError, UnicodeEncodeError) as error:
            raise ControlError("the driver's key in the ticket is no CURVE key") from error
        # a new connection would be a stranger to the driver: end instead, and let the launcher start a new worker
        self.socket.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)
        self._monitor = self.socket.get_monitor_socket(sum(_END_REASONS))
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise ControlError(f"{endpoint}: cannot connect: {error.strerror}") from error

    def wake_on(self, file: int) -> None:
        """From now on ``wait`` also ends when this file descriptor is readable."""
        self._poller.register(file, zmq.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something can be read anywhere, at most ``timeout_s``; whether a message can."""
        readable = dict(self._poller.poll(max(0, round(timeout_s * 1000))))
        if self._monitor is not None and self._monitor in readable:
            event = zmq.utils.monitor.recv_monitor_message(self._monitor)["event"]
            self.ended = self.ended or _END_REASONS[event]
        return self.socket in readable

    def has_message(self) -> bool:
        """Whether a message can be read now. Cheaper than to try: an exception costs more than a look."""
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close both, once what is queued is sent or ``linger_ms`` are over. Harmless when closed already."""
        self._context.destroy(linger=linger_ms)


class Channel:
    """What both ends of the control plane are: the owner of one socket, closed with it."""

    _wire: ControlSocket

    def wake_on(self, file: int) -> None:
        """From now on ``receive`` also returns when this file descriptor is readable (an inbox, a transport's)."""
        self._wire.wake_on(file)

    def close(self) -> None:
        """Send what is queued, within a second, and close. Harmless when closed already."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_address(address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ControlError(f"{address}: no address; give tcp://HOST:PORT with a host of this machine")


def _bind_advice(error: zmq.ZMQError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another program listens there already; choose another port, or 0 for any free one"
        case errno.EADDRNOTAVAIL | errno.ENODEV:
            return "no address of this machine; choose one of its own, such as 127.0.0.1"
        case errno.EACCES:
            return "not allowed; choose a port from 1024 on"
        case _:
            return f"cannot listen there: {error.strerror}"
