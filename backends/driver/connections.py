"""Which workers must reach each other's KV caches, and how far that is: descriptions collected, handed out, connected.

Every prefill worker exchanges KV with every decode worker. Both sides of a pair need the description that the other
made for them, and a description serves once: after a disconnection both make new ones. A worker says ``Ready`` when it
starts and after each ``DisconnectPeer``, each time with fresh descriptions for everybody.

This module must not know how descriptions look, nor what moves between the workers.
"""

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from backends.control.errors import Refusal
from backends.control.messages import ConnectPeer, DisconnectPeer, DriverMessage, Ready
from backends.worker.descriptions import decode_descriptions
from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import WorkerId

ATTEMPTS_MAX = 3
"""How often two workers that live and do not reach each other are connected anew before it is given up."""

Send = Callable[[WorkerId, DriverMessage], None]

Readdress: TypeAlias = Callable[[str, str, bytes], bytes]
"""What a peer is told in place of a description, where a worker is not reached at the address that it knows itself by
(address translation, a relay): given its name, the peer's name and the description."""


class Connections:
    """Pairs of workers and their state. ``send`` takes what a worker is to be told."""

    def __init__(self, cluster: ClusterSpec, send: Send, readdress: Readdress | None = None) -> None:
        self._names = {spec.id: spec.name for spec in cluster.workers}
        self._partners = partners(cluster)
        self._send = send
        self._readdress = readdress
        self._descriptions: dict[WorkerId, dict[str, bytes]] = {}
        self._leaving: dict[WorkerId, deque[WorkerId]] = {}  # peers that a worker was told to disconnect from
        self._asked: set[tuple[WorkerId, WorkerId]] = set()  # (worker, peer): told to connect
        self._reached: set[tuple[WorkerId, WorkerId]] = set()  # (worker, peer): says that it has
        self._attempts: dict[tuple[WorkerId, WorkerId], int] = {}

    def partners(self, worker: WorkerId) -> tuple[WorkerId, ...]:
        """Those with which a worker exchanges KV, be they there or not."""
        return self._partners[worker]

    def ready(self, worker: WorkerId, message: Ready) -> WorkerId | None:
        """A worker described itself: connect whom it is to reach. Returns the peer from which it has disconnected, if
        that is what it says. Raises Refusal if a description is missing."""
        try:
            descriptions = decode_descriptions(message.description)
        except msgspec.DecodeError as error:
            raise Refusal("range", f"worker {worker}: its descriptions cannot be read: {error}") from error
        missing = [self._names[peer] for peer in self._partners[worker] if self._names[peer] not in descriptions]
        if missing:
            raise Refusal("range", f"worker {worker} does not describe itself to {', '.join(missing)}")
        leaving = self._leaving.setdefault(worker, deque())
        left = leaving.popleft() if leaving else None
        if self._readdress is not None:
            name, change = self._names[worker], self._readdress
            descriptions = {peer: change(name, peer, description) for peer, description in descriptions.items()}
        self._descriptions[worker] = descriptions
        for peer in self._partners[worker]:
            self._connect(worker, peer)
        return left

    def reached(self, worker: WorkerId, peer: WorkerId) -> None:
        """A worker says that it reaches a peer. Attempts are counted anew from when both do: connections that break
        now and then, over days, are no reason to give up a worker."""
        if (worker, peer) in self._asked:
            self._reached.add((worker, peer))
            if (peer, worker) in self._reached:
                self._attempts.pop((min(worker, peer), max(worker, peer)), None)

    def unreachable(self, worker: WorkerId, peer: WorkerId) -> bool:
        """A worker says that it does not reach a peer, or no longer. Both are disconnected and connected anew; False
        if that has been tried too often."""
        if (worker, peer) not in self._asked:
            return True  # late: it was told to disconnect meanwhile
        pair = min(worker, peer), max(worker, peer)
        self._attempts[pair] = self._attempts.get(pair, 0) + 1
        self._disconnect(worker, peer)
        self._disconnect(peer, worker)
        return self._attempts[pair] < ATTEMPTS_MAX

    def lost(self, worker: WorkerId) -> tuple[WorkerId, ...]:
        """A worker is gone: all that reach it disconnect. Returns the partners that do not reach it now; of the others
        ``ready`` will say when that is so."""
        self._descriptions.pop(worker, None)
        self._leaving.pop(worker, None)
        apart = []
        for peer in self._partners[worker]:
            if (peer, worker) in self._asked:
                self._disconnect(peer, worker)
            elif worker not in self._leaving.get(peer, ()):
                apart.append(peer)
            self._asked.discard((worker, peer))
            self._reached.discard((worker, peer))
            self._attempts.pop((min(worker, peer), max(worker, peer)), None)
        return tuple(apart)

    def complete(self, worker: WorkerId) -> bool:
        """Whether the worker has described itself and it and every partner that is there reach each other."""
        if worker not in self._descriptions:
            return False
        here = [peer for peer in self._partners[worker] if peer in self._descriptions]
        return all((worker, peer) in self._reached and (peer, worker) in self._reached for peer in here)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _connect(self, worker: WorkerId, peer: WorkerId) -> None:
        """Tell both to connect, if both have described themselves and neither is about to disconnect."""
        if worker not in self._descriptions or peer not in self._descriptions:
            return
        if peer in self._leaving.get(worker, ()) or worker in self._leaving.get(peer, ()):
            return
        if (worker, peer) in self._asked:
            return
        for one, other in ((worker, peer), (peer, worker)):
            self._asked.add((one, other))
            self._send(one, ConnectPeer(other, self._descriptions[other][self._names[one]]))

    def _disconnect(self, worker: WorkerId, peer: WorkerId) -> None:
        self._asked.discard((worker, peer))
        self._reached.discard((worker, peer))
        self._leaving.setdefault(worker, deque()).append(peer)
        self._send(worker, DisconnectPeer(peer))


def partners(cluster: ClusterSpec) -> dict[WorkerId, tuple[WorkerId, ...]]:
    """For each worker those with which it exchanges KV: prefill workers with decode workers, all with all where roles
    change."""
    if cluster.policy.roles is not None:
        everybody = [spec.id for spec in cluster.workers]
        return {worker: tuple([other for other in everybody if other != worker]) for worker in everybody}
    opposite = {"prefill": "decode", "decode": "prefill", "colocated": None}
    return {
        spec.id: tuple([other.id for other in cluster.workers if other.role == opposite[spec.role]])
        for spec in cluster.workers
    }
