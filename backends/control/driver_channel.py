"""The driver's end of the control plane: one ROUTER socket, every worker a session behind its own handshake.

Owned by the driver's thread; nothing here is locked. No bytes that a peer can send raise an exception: they are counted
in ``ChannelCounts`` and dropped, or the peer is refused with a reason that both it and the driver are told.

This module must not know what orders and reports mean, nor clocks.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import zmq

from backends.control.compatibility import Compatibility
from backends.control.errors import Refusal, RefusalKind
from backends.control.frames import (
    NONCE_BYTES,
    PROTOCOL_VERSION,
    Refused,
    decode_worker_message,
    encode_handshake,
    encode_message,
)
from backends.control.handshake import DriverHandshake
from backends.control.heartbeat import HEARTBEAT_INTERVAL_NS
from backends.control.messages import TEXT_LENGTH_MAX, DriverMessage, WorkerMessage
from backends.control.session import Session
from backends.control.sockets import Channel, ControlSocket
from kvsim.core.messages import WorkerId

HALF_OPEN_MAX = 256
"""Handshakes under way at once; with one more, the oldest is forgotten."""
ENDED_MAX = 256
"""Connections of ended sessions that are remembered, so that what they still send is no news."""
RECEIVED_AT_ONCE_MAX = 1_000
"""Messages handed over by one call, so that a flood cannot keep the driver from its other work."""


@dataclass(frozen=True, slots=True)
class Received:
    """An authenticated message of a worker."""

    worker: WorkerId
    message: WorkerMessage


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """A peer was turned away, or (``was_member``) a worker's session was ended because it sent what cannot be.

    ``worker`` is who it said it was, None if it did not get that far; only of a member is that proven.
    """

    worker: WorkerId | None
    kind: RefusalKind
    text: str
    was_member: bool


Incoming: TypeAlias = Received | PeerRefused


@dataclass(slots=True)
class _Member:
    address: bytes
    session: Session


class DriverChannel(Channel):
    """Listens from its making on. ``endpoint`` and ``public_key`` go into the workers' tickets.

    ``bind`` is ``tcp://HOST:PORT`` (port 0: any free one). Raises ControlError if it cannot be bound.
    """

    def __init__(
        self,
        bind: str,
        secret: bytes,
        compatibility: Compatibility,
        heartbeat_interval_ns: int = HEARTBEAT_INTERVAL_NS,
        version: int = PROTOCOL_VERSION,
    ) -> None:
        self._secret = secret
        self._compatibility = compatibility
        self._heartbeat_interval_ns = heartbeat_interval_ns
        self._version = version
        self._expected: set[WorkerId] = set()
        self._half_open: dict[bytes, DriverHandshake] = {}
        self._members: dict[WorkerId, _Member] = {}
        self._worker_at: dict[bytes, WorkerId] = {}
        self._ended: dict[bytes, WorkerId] = {}
        self.dropped: Counter[str] = Counter()
        """Frames that were dropped and peers that were refused, by ``RefusalKind``."""
        self._wire = ControlSocket(zmq.ROUTER)
        try:
            # sending to a connection that is gone must fail, not vanish
            self._wire.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self.endpoint, self.public_key = self._wire.serve(bind)
        except BaseException:
            self._wire.close()
            raise

    def expect(self, worker: WorkerId) -> None:
        """From now on this worker may join."""
        self._expected.add(worker)

    def drop(self, worker: WorkerId) -> None:
        """End this worker's session, and expect it no longer. What it still sends is refused. Harmless if unknown."""
        self._expected.discard(worker)
        self._end_session(worker)

    @property
    def members(self) -> tuple[WorkerId, ...]:
        """The workers with a session, by id."""
        return tuple(sorted(self._members))

    def send(self, worker: WorkerId, message: DriverMessage) -> bool:
        """Send without waiting. False if the worker has no session, its connection is gone or it has stopped reading:
        its session is over then."""
        member = self._members.get(worker)
        if member is None:
            return False
        if self._put(member.address, member.session.seal(encode_message(message))):
            return True
        self._end_session(worker)
        return False

    def receive(self, timeout_s: float) -> list[Incoming]:
        """What has come, after at most ``timeout_s`` of sleep; empty if nothing has or a ``wake_on`` file woke it."""
        incoming: list[Incoming] = []
        if self._wire.wait(timeout_s):
            for address, frame in self._frames():
                try:
                    message = self._take(address, frame)
                except Refusal as refusal:
                    incoming.extend(self._refuse(address, refusal))
                else:
                    incoming.extend(message)
        return incoming

    # --- frames in ---------------------------------------------------------------------------------------------

    def _frames(self) -> Iterator[tuple[bytes, bytes]]:
        more = True  # the caller has seen one
        for _ in range(RECEIVED_AT_ONCE_MAX):
            if not more and not self._wire.has_message():
                return
            more = False
            parts = self._wire.socket.recv_multipart(zmq.NOBLOCK)
            if len(parts) == 2:
                yield parts[0], parts[1]
            else:
                self.dropped["garbage"] += 1

    def _take(self, address: bytes, frame: bytes) -> list[Incoming]:
        worker = self._worker_at.get(address)
        if worker is not None:
            payload = self._members[worker].session.open(frame)
            return [Received(worker, decode_worker_message(payload))]
        if address in self._ended:
            raise Refusal("identity", f"the session of worker {self._ended[address]} is over")
        handshake = self._half_open.get(address)
        if handshake is None:
            self._open(address, frame)
        else:
            self._admit(address, handshake, frame)
        return []

    def _open(self, address: bytes, frame: bytes) -> None:
        handshake = DriverHandshake(
            self._secret,
            self._compatibility,
            self.public_key.encode(),
            os.urandom(NONCE_BYTES),
            self._heartbeat_interval_ns,
            self._version,
        )
        self._half_open[address] = handshake
        answer = handshake.challenge(frame)
        if len(self._half_open) > HALF_OPEN_MAX:
            del self._half_open[next(iter(self._half_open))]
        self._put(address, answer)

    def _admit(self, address: bytes, handshake: DriverHandshake, frame: bytes) -> None:
        welcome, session = handshake.welcome(frame)
        worker = handshake.worker
        assert worker is not None, "a proven peer without a name"
        if worker not in self._expected:
            raise Refusal("identity", f"worker {worker} is not expected in this run")
        if worker in self._members:
            raise Refusal("identity", f"worker {worker} is connected already")
        del self._half_open[address]
        if self._put(address, welcome):
            self._members[worker] = _Member(address, session)
            self._worker_at[address] = worker

    def _refuse(self, address: bytes, refusal: Refusal) -> list[Incoming]:
        self.dropped[refusal.kind] += 1
        text = refusal.text[:TEXT_LENGTH_MAX]
        if address in self._ended:
            self._put(address, encode_handshake(Refused(refusal.kind, text), self._version))
            return []  # the driver knows, for it has ended the session or was told of its end
        worker = self._worker_at.get(address)
        if worker is not None and refusal.kind == "unauthenticated":
            return []  # not the worker's words: they must not end its session
        was_member = worker is not None
        if worker is not None:
            self._end_session(worker)
        elif address in self._half_open:
            worker = self._half_open.pop(address).worker
        self._put(address, encode_handshake(Refused(refusal.kind, text), self._version))
        return [PeerRefused(worker, refusal.kind, text, was_member)]

    # --- frames out --------------------------------------------------------------------------------------------

    def _put(self, address: bytes, frame: bytes) -> bool:
        try:
            self._wire.socket.send_multipart([address, frame], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def _end_session(self, worker: WorkerId) -> None:
        member = self._members.pop(worker, None)
        if member is not None:
            del self._worker_at[member.address]
            self._ended[member.address] = worker
            if len(self._ended) > ENDED_MAX:
                del self._ended[next(iter(self._ended))]
