"""A worker's end of the control plane: one DEALER socket to one driver, for the life of the process.

Owned by the worker's engine thread; nothing here is locked. If the driver goes, or no longer knows this worker, reading
and writing raise ``DriverGoneError``: the worker ends then, and does not try to come back as someone the driver has
given up already.

This module must not know what orders and reports mean.
"""

import os
import time

import zmq

from backends.control.compatibility import Compatibility
from backends.control.errors import ControlError, DriverGoneError, Refusal
from backends.control.frames import (
    NONCE_BYTES,
    PROTOCOL_VERSION,
    Challenge,
    Welcome,
    decode_driver_message,
    encode_message,
    refusal_in,
)
from backends.control.handshake import WorkerHandshake
from backends.control.messages import DriverMessage, WorkerMessage
from backends.control.session import Session
from backends.control.sockets import Channel, ControlSocket
from backends.control.ticket import LaunchTicket

HANDSHAKE_TIMEOUT_S = 30.0
RECEIVED_AT_ONCE_MAX = 1_000


class WorkerChannel(Channel):
    """A session with the driver of the ticket. Made only once both sides have proved that they know the secret.

    Raises Refusal if one side does not accept the other, ControlError if no driver answers within ``timeout_s``.
    """

    def __init__(
        self,
        ticket: LaunchTicket,
        compatibility: Compatibility,
        timeout_s: float = HANDSHAKE_TIMEOUT_S,
        version: int = PROTOCOL_VERSION,
    ) -> None:
        self._endpoint = ticket.endpoint
        self._version = version
        self.dropped = 0
        """Frames that were not the driver's next message."""
        self._wire = ControlSocket(zmq.DEALER)
        try:
            self._wire.call(ticket.endpoint, ticket.driver_key)
            self._welcome, self._session = self._greet(ticket, compatibility, timeout_s)
        except BaseException:
            self._wire.close(linger_ms=0)
            raise

    @property
    def heartbeat_interval_ns(self) -> int:
        """How long this worker may be silent."""
        return self._welcome.heartbeat_interval_ns

    def send(self, message: WorkerMessage) -> None:
        """Send without waiting. Raises DriverGoneError if the driver does not take messages any more."""
        try:
            self._wire.socket.send(self._session.seal(encode_message(message)), zmq.NOBLOCK)
        except zmq.Again as error:
            raise DriverGoneError(f"the driver at {self._endpoint} does not take messages any more") from error

    def receive(self, timeout_s: float) -> list[DriverMessage]:
        """What has come, after at most ``timeout_s`` of sleep; empty if nothing has, or a file of ``wake_on`` woke it.

        Raises DriverGoneError once the connection is gone and everything that came before is read; Refusal if the
        driver says what cannot be understood.
        """
        # an end that was seen beside the last messages wakes nobody a second time
        more = self._wire.wait(0 if self._wire.ended else timeout_s)
        # asked before reading: what came before the end can still be read
        ended = self._wire.ended
        messages: list[DriverMessage] = []
        while len(messages) < RECEIVED_AT_ONCE_MAX and (more or self._wire.has_message()):
            more = False
            payload = self._open(self._wire.socket.recv_multipart(zmq.NOBLOCK))
            if payload is not None:
                messages.append(decode_driver_message(payload))
        if ended and not messages:
            raise DriverGoneError(f"the driver at {self._endpoint} is gone: {ended}")
        return messages

    def _greet(self, ticket: LaunchTicket, compatibility: Compatibility, timeout_s: float) -> tuple[Welcome, Session]:
        deadline_s = time.monotonic() + timeout_s
        nonce = os.urandom(NONCE_BYTES)
        handshake = WorkerHandshake(
            ticket.worker, ticket.secret, compatibility, ticket.driver_key.encode(), nonce, self._version
        )
        self._wire.socket.send(handshake.hello(), zmq.NOBLOCK)
        proof = handshake.prove(self._answer(deadline_s, Challenge.__name__))
        self._wire.socket.send(proof, zmq.NOBLOCK)
        return handshake.confirm(self._answer(deadline_s, Welcome.__name__))

    def _answer(self, deadline_s: float, awaited: str) -> bytes:
        while True:
            remaining_s = deadline_s - time.monotonic()
            self._wire.wait(0 if self._wire.ended else remaining_s)
            ended = self._wire.ended
            if self._wire.has_message():
                return b"".join(self._wire.socket.recv_multipart(zmq.NOBLOCK))
            if ended or remaining_s <= 0:
                why = ended or f"no {awaited} came in time"
                raise ControlError(f"{self._endpoint}: {why}; is the driver of this run listening there?")

    def _open(self, parts: list[bytes]) -> bytes | None:
        frame = b"".join(parts)
        try:
            return self._session.open(frame)
        except Refusal:
            # a driver that has ended this session can say so only outside of it
            refusal = refusal_in(frame, self._version)
            if refusal is not None:
                raise DriverGoneError(f"the driver gave this worker up: {refusal.text}") from refusal
            self.dropped += 1
            return None
