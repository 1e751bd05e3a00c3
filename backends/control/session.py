"""The authenticated messages of one connection, once the handshake has given both sides the same keys.

Each frame is ``BLAKE2b(key, sequence number || payload) || payload``, with BLAKE2's keyed mode as MAC (RFC 7693): it
takes a tenth of the time of an HMAC on messages of this size. Each direction has a key of its own and both sides count
the messages, so a frame that was forged, replayed, reordered or sent back to its sender does not open.

Why this inside CURVE, which encrypts and authenticates each connection already: CURVE knows connections, not workers. A
ROUTER socket names a connection by an identity that its peer may choose, so a stranger could take up the identity of a
worker that has just gone and go on in its name. The keys here come from the proof of the secret, not from a socket.

This module must not know sockets or what messages mean.
"""

import hashlib
import hmac

from backends.control.errors import Refusal

MAC_BYTES = 32


class Session:
    """One side of a connection: seals what it sends and opens what it receives."""

    def __init__(self, send_key: bytes, receive_key: bytes) -> None:
        self._send_key = send_key
        self._receive_key = receive_key
        self._sent = 0
        self._received = 0

    def seal(self, payload: bytes) -> bytes:
        """The frame of the next message to the peer."""
        frame = _mac(self._send_key, self._sent, payload) + payload
        self._sent += 1
        return frame

    def open(self, frame: bytes) -> bytes:
        """The payload of the peer's next message.

        Raises Refusal (``unauthenticated``) for anything else; the session goes on as if it had not come.
        """
        mac, payload = frame[:MAC_BYTES], frame[MAC_BYTES:]
        if not hmac.compare_digest(mac, _mac(self._receive_key, self._received, payload)):
            raise Refusal("unauthenticated", f"a frame of {len(frame)} bytes is not message {self._received}")
        self._received += 1
        return payload


def _mac(key: bytes, sequence: int, payload: bytes) -> bytes:
    return hashlib.blake2b(sequence.to_bytes(8, "big") + payload, digest_size=MAC_BYTES, key=key).digest()
