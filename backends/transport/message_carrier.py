"""The sends and receives of one peer of transport message: two threads, a staging buffer each.

It must not know how the pair of processes found each other's control connections; frames come in through
``on_peer_frame`` and go out through the link.
"""

import secrets
import socket
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from backends.transport.address_map import Addresses, Sizes
from backends.transport.copying import copy
from backends.transport.frames import encoded
from backends.transport.gloo_group import GlooPair, host_store, reach_store
from backends.transport.jobs import Job
from backends.transport.link import Link
from backends.transport.rendezvous import SENDING, Actions, Rendezvous, RendezvousError

if TYPE_CHECKING:
    import torch

STORE = 2  # rank 0: the store listens on this port, its keys begin with this secret
JOIN = 3  # rank 1: is about to join the group

_SECRET_BYTES = 16
_STORE = struct.Struct(f"!H{_SECRET_BYTES}s")
_TAG_AND_BYTES = struct.Struct("!IQ")
_PARTNER_TIMEOUT_S = 30.0
_PATIENCE_S = 0.3


class MessageCarrier:
    """Carries the jobs of one link. ``greeted`` says whether the peer has dialled us since it was made."""

    def __init__(self, link: Link, rank: int, own_host: str, peer_host: str, timeout_ms: int) -> None:
        self.greeted = False
        self._link = link
        self._rank = rank
        self._hosts = (own_host, peer_host)
        self._timeout_ms = timeout_ms
        self._changed = threading.Condition()
        self._rendezvous = Rendezvous()
        self._partner: bytes | None = None  # payload of its STORE or JOIN
        self._pair: GlooPair | None = None
        self._stopped = False
        self._memory = threading.Lock()  # held while memory of the caller is touched
        self._threads: list[threading.Thread] = []

    # --- the link's side -------------------------------------------------------------------------------------------

    def open(self, control: socket.socket) -> None:
        """Join the group of two. Both sides must connect within a time."""
        try:
            pair = self._host_group(control) if self._rank == 0 else self._join_group(control)
        except RuntimeError as error:
            raise ConnectionError(f"no process group: {str(error).splitlines()[0]}") from error
        with self._changed:
            if self._stopped:
                raise ConnectionAbortedError("given up")
            self._pair = pair
        for work in (self._send_all, self._receive_all):
            thread = threading.Thread(target=self._guard, args=(work, pair), name="transport-message", daemon=True)
            self._threads.append(thread)
            thread.start()

    def start(self, job: Job) -> None:
        """Tell the peer what we are ready for."""
        with self._changed:
            actions = self._rendezvous.submit(job)
            self._changed.notify_all()
        self._carry_out(actions)

    def cancel(self, job: Job) -> None:
        """Give a tag up, unless its bytes are on their way."""
        with self._changed:
            actions = self._rendezvous.cancel(job)
        self._carry_out(actions)

    def on_frame(self, kind: int, payload: bytes) -> str:
        """Nothing comes back on the connection that we dialled."""
        del payload
        return f"it sent a message of kind {kind}"

    def abort(self) -> None:
        """Wake the threads where they wait for us; ``close`` sees to those that wait for the peer."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            pair = self._pair
        if pair is not None:
            pair.stop()

    def close(self) -> None:
        """Wait for the threads, but not for ever: gloo cannot be woken when half a piece has come. Such a thread ends
        with its timeout; till then it holds buffers of its own, never memory of the caller."""
        self.abort()
        self._join_threads()
        if self._pair is not None:
            self._pair.break_off()
            self._join_threads()
        with self._memory:
            self._pair = None  # with the threads' references gone too, gloo closes its connections

    # --- the peer's side -------------------------------------------------------------------------------------------

    def replace(self) -> None:
        """The peer has dialled us anew: what we had with it is over."""
        self._link.end("failed", "it has connected anew")

    def on_peer_frame(self, kind: int, payload: bytes) -> str:
        """The peer sent this; what is wrong with it, or an empty text."""
        if kind == (JOIN if self._rank == 0 else STORE):
            with self._changed:
                self._partner = payload
                self._changed.notify_all()
            return ""
        if len(payload) != _TAG_AND_BYTES.size:
            return f"it sent {len(payload)} bytes as a message of kind {kind}"
        try:
            with self._changed:
                actions = self._rendezvous.on_frame(kind, *_TAG_AND_BYTES.unpack(payload))
                self._changed.notify_all()
        except RendezvousError as error:
            return str(error)
        self._carry_out(actions)
        return ""

    # --- inside ----------------------------------------------------------------------------------------------------

    def _host_group(self, control: socket.socket) -> GlooPair:
        store = host_store(self._hosts[0])
        secret = secrets.token_bytes(_SECRET_BYTES)
        control.sendall(encoded(STORE, _STORE.pack(store.port, secret)))
        self._await_partner()
        return GlooPair(store, secret.hex(), 0, self._hosts[0], self._timeout_ms)

    def _join_group(self, control: socket.socket) -> GlooPair:
        partner = self._await_partner()
        if len(partner) != _STORE.size:
            raise ConnectionAbortedError(f"it describes its store in {len(partner)} bytes")
        port, secret = _STORE.unpack(partner)
        store = reach_store(self._hosts[1], port)
        control.sendall(encoded(JOIN, b""))
        return GlooPair(store, secret.hex(), 1, self._hosts[0], self._timeout_ms)

    def _await_partner(self) -> bytes:
        with self._changed:
            came = self._changed.wait_for(lambda: self._partner is not None or self._stopped, _PARTNER_TIMEOUT_S)
            if self._stopped:
                raise ConnectionAbortedError("given up")
            if not came or self._partner is None:
                raise TimeoutError(f"it did not connect to us within {_PARTNER_TIMEOUT_S:g} s")
            return self._partner

    def _carry_out(self, actions: Actions) -> None:
        for kind, tag, size_bytes in actions.frames:
            self._link.send(kind, _TAG_AND_BYTES.pack(tag, size_bytes))
        for job, outcome, reason in actions.over:
            self._link.finish(job, outcome, reason)

    def _send_all(self, pair: GlooPair) -> None:
        staging = _Staging()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._rendezvous.has_send or self._stopped)
                if self._stopped:
                    return
                job = self._rendezvous.take_send()
            buffer = staging.buffer(job.size_bytes)
            with self._memory:
                if self._stopped:
                    return
                copy(staging.addresses(job.sizes), job.local, job.sizes)
            self._link.send(SENDING, _TAG_AND_BYTES.pack(job.tag, job.size_bytes))
            pair.send(buffer, job.tag)
            self._link.finish(job, *(job.stopped or ("done", "")))

    def _receive_all(self, pair: GlooPair) -> None:
        staging = _Staging()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._rendezvous.has_incoming or self._stopped)
                if self._stopped:
                    return
                tag, size_bytes, job = self._rendezvous.take_incoming()
            pair.receive(staging.buffer(size_bytes), tag)
            if job is not None:
                with self._memory:
                    if self._stopped:
                        return
                    if not job.stopped:
                        copy(job.local, staging.addresses(job.sizes), job.sizes)
                self._link.finish(job, *(job.stopped or ("done", "")))

    def _join_threads(self) -> None:
        for thread in self._threads:
            thread.join(_PATIENCE_S)

    def _guard(self, work: Callable[[GlooPair], None], pair: GlooPair) -> None:
        try:
            work(pair)
        except RuntimeError as error:
            self._link.end("failed", f"its process group is broken: {str(error).splitlines()[0]}")


class _Staging:
    """A buffer that is kept from transfer to transfer and grows."""

    def __init__(self) -> None:
        self._array = np.empty(0, dtype=np.uint8)

    def buffer(self, size_bytes: int) -> "torch.Tensor":
        """Its first bytes as a tensor."""
        import torch  # noqa: PLC0415

        if size_bytes > len(self._array):
            self._array = np.empty(size_bytes, dtype=np.uint8)
        return torch.from_numpy(self._array[:size_bytes])

    def addresses(self, sizes: Sizes) -> Addresses:
        """Where packed ranges of these sizes lie in it."""
        offsets = np.cumsum(sizes) - sizes
        return offsets.astype(np.uint64) + np.uint64(self._array.ctypes.data)
