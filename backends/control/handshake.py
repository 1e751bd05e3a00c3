"""How a worker and a driver convince each other that they belong together, before either tells anything of worth.

    worker                                         driver
      Hello(worker, nonce, compatibility)   ->       same version? same compatibility?
      same version? same hash?              <-     Challenge(nonce, compatibility hash)
      Proof(HMAC)                           ->       knows the secret?
      knows the secret?                     <-     Welcome(HMAC, heartbeat interval)

A proof is ``HMAC-SHA256(secret, role || transcript)``, where the transcript is the SHA-256 of the version, the driver's
public CURVE key, the Hello, the Challenge and, for the driver's proof, the rest of the Welcome. Fresh nonces of both
sides are in it, so a recorded proof proves nothing again; the role is, so a proof cannot be sent back to its maker; and
the key is, so nobody can stand in between with a key of his own. The worker proves first: a stranger learns no HMAC of
the secret from the driver. The keys of the session are HMACs over the same transcript.

The pattern is the mutual authentication of ISO/IEC 9798-4 (three passes, keyed check function). It runs inside ZeroMQ's
CURVE (RFC 26/CURVEZMQ), which hides all of it from the network.

Pure: nonces are given, frames go in and come out. This module must not know sockets.
"""

import hashlib
import hmac
from typing import Final

from backends.control.compatibility import Compatibility, differences
from backends.control.errors import Refusal
from backends.control.frames import (
    PROTOCOL_VERSION,
    Challenge,
    Hello,
    Proof,
    Welcome,
    decode_handshake,
    encode_handshake,
)
from backends.control.session import Session
from backends.control.ticket import SECRET_BYTES_MIN
from kvsim.core.messages import WorkerId

_DRIVER_PROVES: Final = b"kvsim driver proves"
_WORKER_PROVES: Final = b"kvsim worker proves"
_DRIVER_SENDS: Final = b"kvsim driver sends"
_WORKER_SENDS: Final = b"kvsim worker sends"


class DriverHandshake:
    """The driver's side of one handshake. ``nonce``: 32 bytes from the operating system, used for this one only."""

    def __init__(
        self,
        secret: bytes,
        compatibility: Compatibility,
        driver_key: bytes,
        nonce: bytes,
        heartbeat_interval_ns: int,
        version: int = PROTOCOL_VERSION,
    ) -> None:
        self._transcript = _Transcript(secret, driver_key, version)
        self._compatibility = compatibility
        self._nonce = nonce
        self._heartbeat_interval_ns = heartbeat_interval_ns
        self._worker: WorkerId | None = None

    @property
    def worker(self) -> WorkerId | None:
        """Who the peer says it is; proven only once ``welcome`` has returned."""
        return self._worker

    def challenge(self, frame: bytes) -> bytes:
        """The answer to a Hello. Raises Refusal for another version, other facts, or anything that is no Hello."""
        hello = decode_handshake(frame, Hello, self._transcript.version)
        self._worker = hello.worker
        ours = self._compatibility.digest()
        if not hmac.compare_digest(hello.compatibility_hash, ours):
            found = differences(self._compatibility, hello.compatibility) or ("the hash of the same facts",)
            raise Refusal("compatibility", f"worker {hello.worker} holds another KV cache: {'; '.join(found)}")
        answer = encode_handshake(Challenge(self._nonce, ours), self._transcript.version)
        self._transcript.add(frame)
        self._transcript.add(answer)
        return answer

    def welcome(self, frame: bytes) -> tuple[bytes, Session]:
        """The answer to a Proof, and the session. Raises Refusal if the peer does not know the secret."""
        assert self._worker is not None, "a proof before the challenge"
        proof = decode_handshake(frame, Proof, self._transcript.version)
        if not hmac.compare_digest(proof.proof, self._transcript.hmac(_WORKER_PROVES)):
            raise Refusal(
                "secret", f"worker {self._worker} does not know this run's secret; start it through this run's launcher"
            )
        self._transcript.add(self._heartbeat_interval_ns.to_bytes(8, "big"))
        welcome = Welcome(self._transcript.hmac(_DRIVER_PROVES), self._heartbeat_interval_ns)
        session = Session(self._transcript.hmac(_DRIVER_SENDS), self._transcript.hmac(_WORKER_SENDS))
        return encode_handshake(welcome, self._transcript.version), session


class WorkerHandshake:
    """The worker's side of one handshake. ``nonce``: 32 bytes from the operating system, used for this one only."""

    def __init__(
        self,
        worker: WorkerId,
        secret: bytes,
        compatibility: Compatibility,
        driver_key: bytes,
        nonce: bytes,
        version: int = PROTOCOL_VERSION,
    ) -> None:
        self._transcript = _Transcript(secret, driver_key, version)
        self._worker = worker
        self._compatibility = compatibility
        self._nonce = nonce

    def hello(self) -> bytes:
        """The first frame."""
        hello = Hello(self._worker, self._nonce, self._compatibility.digest(), self._compatibility)
        frame = encode_handshake(hello, self._transcript.version)
        self._transcript.add(frame)
        return frame

    def prove(self, frame: bytes) -> bytes:
        """The answer to a Challenge. Raises Refusal if the driver refused, or has another version or other facts."""
        challenge = decode_handshake(frame, Challenge, self._transcript.version)
        if not hmac.compare_digest(challenge.compatibility_hash, self._compatibility.digest()):
            raise Refusal("compatibility", "the driver holds another model, dtype, KV layout or block size")
        self._transcript.add(frame)
        return encode_handshake(Proof(self._transcript.hmac(_WORKER_PROVES)), self._transcript.version)

    def confirm(self, frame: bytes) -> tuple[Welcome, Session]:
        """What a Welcome says, and the session. Raises Refusal if the driver does not know the secret."""
        welcome = decode_handshake(frame, Welcome, self._transcript.version)
        self._transcript.add(welcome.heartbeat_interval_ns.to_bytes(8, "big"))
        if not hmac.compare_digest(welcome.proof, self._transcript.hmac(_DRIVER_PROVES)):
            raise Refusal("secret", "the driver does not know this worker's secret; was it meant for another run?")
        return welcome, Session(self._transcript.hmac(_WORKER_SENDS), self._transcript.hmac(_DRIVER_SENDS))


class _Transcript:
    """What both sides have said so far, and HMACs over it."""

    def __init__(self, secret: bytes, driver_key: bytes, version: int) -> None:
        assert len(secret) >= SECRET_BYTES_MIN, f"a secret of {len(secret)} bytes, at least {SECRET_BYTES_MIN} needed"
        self.version = version
        self._secret = secret
        self._hash = hashlib.sha256(b"kvsim handshake\0" + version.to_bytes(2, "big"))
        self.add(driver_key)

    def add(self, part: bytes) -> None:
        # with its length, so that bytes cannot move from one part into the next unnoticed
        self._hash.update(len(part).to_bytes(8, "big") + part)

    def hmac(self, purpose: bytes) -> bytes:
        return hmac.digest(self._secret, purpose + b"\0" + self._hash.digest(), "sha256")
