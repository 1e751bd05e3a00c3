"""The proof, on a fresh connection between two transports, that both ends hold the token of a description.

Each end shows an HMAC-SHA256 over both ends' nonces, keyed with the token; the token itself is never sent, and what is
overheard cannot be used again. What follows on the connection is neither encrypted nor signed: use a network on which
others cannot change packets, as for any transport of KV caches.

    owner  -> dialler  MAGIC, owner's nonce
    dialler -> owner   MAGIC, purpose (1 byte), length of name (2 bytes), name, dialler's nonce, proof
    owner  -> dialler  proof

This module must not know what the connection is for.
"""

import hashlib
import hmac
import secrets
import socket
import struct
import threading
import time

from backends.transport.description import TOKEN_BYTES

HANDSHAKE_TIMEOUT_S = 5.0

_MAGIC = b"kvsimtr1"
_NONCE_BYTES = 32
_PROOF_BYTES = 32
_NAME_BYTES_MAX = 512
_HEAD = struct.Struct("!8sBH")


class HandshakeError(OSError):
    """The other end could not prove that it holds the token, or speaks another protocol."""


class Tickets:
    """The token that each peer was last given. For all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[str, bytes] = {}

    def issue(self, audience: str) -> bytes:
        """A new token for this peer, in place of a former one."""
        token = secrets.token_bytes(TOKEN_BYTES)
        with self._lock:
            self._tokens[audience] = token
        return token

    def withdraw(self, audience: str) -> None:
        """No connection with this peer's token succeeds any more."""
        with self._lock:
            self._tokens.pop(audience, None)

    def token(self, audience: str) -> bytes | None:
        """The token of this peer, or None."""
        with self._lock:
            return self._tokens.get(audience)


def prove_to_owner(connection: socket.socket, token: bytes, own_name: str, purpose: int) -> None:
    """The dialler's half. Raises OSError (HandshakeError, TimeoutError, ..) after HANDSHAKE_TIMEOUT_S at the latest.

    Leaves the connection blocking, without a timeout.
    """
    deadline_s = time.monotonic() + HANDSHAKE_TIMEOUT_S
    greeting = _receive(connection, len(_MAGIC) + _NONCE_BYTES, deadline_s)
    if greeting[: len(_MAGIC)] != _MAGIC:
        raise HandshakeError("the other end does not speak this protocol")
    name = own_name.encode()
    nonces = greeting[len(_MAGIC) :] + secrets.token_bytes(_NONCE_BYTES)
    head = _HEAD.pack(_MAGIC, purpose, len(name)) + name
    connection.sendall(head + nonces[_NONCE_BYTES:] + _proof(token, b"dialler", nonces, head))
    answer = _receive(connection, _PROOF_BYTES, deadline_s)
    if not hmac.compare_digest(answer, _proof(token, b"owner", nonces, head)):
        raise HandshakeError("the other end does not hold the token of the description")
    connection.settimeout(None)


def prove_to_dialler(connection: socket.socket, tickets: Tickets) -> tuple[str, int]:
    """The owner's half: the name of the peer that has dialled, and its purpose. Errors as in ``prove_to_owner``."""
    deadline_s = time.monotonic() + HANDSHAKE_TIMEOUT_S
    own_nonce = secrets.token_bytes(_NONCE_BYTES)
    connection.settimeout(HANDSHAKE_TIMEOUT_S)
    connection.sendall(_MAGIC + own_nonce)
    head = _receive(connection, _HEAD.size, deadline_s)
    magic, purpose, name_bytes = _HEAD.unpack(head)
    if magic != _MAGIC or name_bytes > _NAME_BYTES_MAX:
        raise HandshakeError("the other end does not speak this protocol")
    name = _receive(connection, name_bytes, deadline_s)
    nonces = own_nonce + _receive(connection, _NONCE_BYTES, deadline_s)
    proof = _receive(connection, _PROOF_BYTES, deadline_s)
    try:
        peer_name = name.decode()
    except UnicodeDecodeError as error:
        raise HandshakeError("the other end's name is no text") from error
    # an unknown name is checked against a random token, so that names cannot be told from tokens by the answer's time
    token = tickets.token(peer_name) or secrets.token_bytes(TOKEN_BYTES)
    if not hmac.compare_digest(proof, _proof(token, b"dialler", nonces, head + name)):
        raise HandshakeError("the other end does not hold the token that it was given")
    connection.sendall(_proof(token, b"owner", nonces, head + name))
    connection.settimeout(None)
    return peer_name, purpose


def _proof(token: bytes, role: bytes, nonces: bytes, head: bytes) -> bytes:
    return hmac.digest(token, role + nonces + head, hashlib.sha256)


def _receive(connection: socket.socket, size_bytes: int, deadline_s: float) -> bytes:
    """Exactly this many bytes, before the deadline however slowly they trickle in."""
    received = bytearray()
    while len(received) < size_bytes:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"no handshake within {HANDSHAKE_TIMEOUT_S:g} s")
        connection.settimeout(left_s)
        try:
            piece = connection.recv(size_bytes - len(received))
        except ConnectionResetError:
            piece = b""
        if not piece:
            raise HandshakeError("the other end has closed during the handshake: wrong or withdrawn token")
        received += piece
    return bytes(received)
