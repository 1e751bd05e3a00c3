"""A transport within one process, for tests: bytes move when the test says so, in the order in which it says so."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from backends.transport.description import PeerDescription, RegionDescription, describe_tensor, tensors_of
from backends.transport.port import (
    Access,
    Capabilities,
    Completion,
    Notification,
    Peer,
    PeerLost,
    PeerReady,
    Region,
    TensorMemory,
    TransferHandle,
    TransportEvent,
)
from kvsim.core.descriptors import Ranges
from kvsim.core.kv_tensor import KvTensor


@dataclass(slots=True)
class _Job:
    owner: "Loopback"
    peer: str
    kind: str
    ranges: Ranges
    handle: TransferHandle
    notification: bytes
    tag: int = 0


class Hub:
    """The memory and the pending transfers of every ``Loopback``. ``move`` carries one of them out."""

    def __init__(self) -> None:
        self.ends: dict[str, Loopback] = {}
        self.jobs: list[_Job] = []
        self.unnoticed: list[tuple[Loopback, Loopback]] = []
        self._memory: dict[int, NDArray[np.uint8]] = {}

    def add_memory(self, memory: NDArray[np.uint8]) -> int:
        address = (len(self._memory) + 1) << 40
        self._memory[address] = memory
        return address

    def at(self, address: int, size_bytes: int) -> NDArray[np.uint8]:
        base = address >> 40 << 40
        offset = address - base
        assert offset + size_bytes <= len(self._memory[base]), f"{size_bytes} bytes at {offset}"
        return self._memory[base][offset : offset + size_bytes]

    def ready(self) -> list[_Job]:
        """Jobs that can be carried out: a receive waits for its send."""
        sends = {(job.owner.name, job.peer, job.tag) for job in self.jobs if job.kind == "send"}
        return [
            job
            for job in self.jobs
            if job.kind in ("read", "write") or (job.kind == "receive" and (job.peer, job.owner.name, job.tag) in sends)
        ]

    def fail(self, job: _Job, ranges: int, reason: str) -> None:
        """Copy some ranges of a job and give it up, for both sides if it has two."""
        self._copy(job, ranges)
        for each in [job, *self._counterparts(job)]:
            self.jobs.remove(each)
            each.owner.events.append(Completion(each.handle, "failed", reason, 0, 0))

    def cut(self, one: str, other: str) -> None:
        """Two ends do not reach each other any more, and notice."""
        for end, peer in ((self.ends.get(one), other), (self.ends.get(other), one)):
            if end is not None and peer in end.peers and peer in self.ends:
                end.lose(peer)

    def end(self, name: str) -> None:
        """An end dies: it does nothing more. Its memory is there until its peers ``notice``, and so are their jobs."""
        dead = self.ends.pop(name)
        dead.events.clear()
        self.jobs = [job for job in self.jobs if job.owner is not dead]
        self.unnoticed = [(end, peer) for end, peer in self.unnoticed if end is not dead]
        self.unnoticed += [(end, dead) for end in self.ends.values() if end.peers.get(name) is dead]

    def notice(self, end: "Loopback", dead: "Loopback") -> None:
        """An end sees that its peer is gone, unless it has disconnected already."""
        self.unnoticed.remove((end, dead))
        if end.peers.get(dead.name) is dead:
            end.lose(dead.name)

    def move(self, job: _Job) -> None:
        """Copy the bytes of a job and tell both ends."""
        ended = [job, *self._counterparts(job)]
        self._copy(job, len(job.ranges))
        for each in ended:
            self.jobs.remove(each)
            size_bytes = int(each.ranges.size_bytes.sum())
            each.owner.events.append(Completion(each.handle, "done", "", size_bytes, 1000))
        if job.notification and self.ends.get(job.peer) is job.owner.peers[job.peer]:
            self.ends[job.peer].events.append(Notification(job.owner.name, job.notification))

    def _copy(self, job: _Job, ranges: int) -> None:
        columns = job.ranges.source_address, job.ranges.target_address, job.ranges.size_bytes
        for source, target, size in list(zip(*columns, strict=True))[:ranges]:
            self.at(int(target), int(size))[:] = self.at(int(source), int(size))

    def _counterparts(self, job: _Job) -> list[_Job]:
        """The send that a receive waited for."""
        wanted = ("send", job.peer, job.owner.name, job.tag)
        if job.kind != "receive":
            return []
        return [other for other in self.jobs if (other.kind, other.owner.name, other.peer, other.tag) == wanted]


class Loopback:
    """``backends.transport.port.Transport`` over a hub: everything that workers use of it."""

    def __init__(self, hub: Hub, name: str) -> None:
        self._name = name
        self.events: list[TransportEvent] = []
        self._hub = hub
        self._regions: list[Region] = []
        self._handles = 0
        self.peers: dict[str, Loopback] = {}
        hub.ends[name] = self

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("loopback", True, True, True, False, True, True, False, True, access_enforced=False)

    def allocate(self, size_bytes: int) -> memoryview:
        return memoryview(bytearray(size_bytes))

    def register(self, memory: memoryview | TensorMemory, tensor: KvTensor, peers_may: Access = "both") -> Region:
        assert isinstance(memory, memoryview)
        address = self._hub.add_memory(np.frombuffer(memory, dtype=np.uint8))
        region = Region(len(self._regions), address, memory.nbytes, replace(tensor, base_address=address), peers_may)
        self._regions.append(region)
        return region

    def describe(self, audience: str) -> PeerDescription:
        regions = tuple(
            RegionDescription(region.number, region.address, region.size_bytes, 1, describe_tensor(region.tensor))
            for region in self._regions
        )
        return PeerDescription("loopback", 1, self.name, audience, "here", regions, b"t" * 32, self.key)

    def connect(self, description: PeerDescription) -> Peer:
        assert description.audience == self.name
        owner = self._hub.ends.get(description.owner)
        if owner is None or owner.key != description.endpoint:
            self.events.append(PeerLost(description.owner, "nobody is there"))
        else:
            self.peers[description.owner] = owner
            self.events.append(PeerReady(description.owner))
        return Peer(description.owner, tensors_of(description))

    @property
    def key(self) -> bytes:
        """Differs between two ends of one name."""
        return b"%d" % self._regions[0].address

    def disconnect(self, peer_name: str) -> None:
        self._fail_jobs(peer_name)
        other = self.peers.pop(peer_name, None)
        if other is not None and other.peers.get(self.name) is self:
            other.lose(self.name)

    def lose(self, peer_name: str) -> None:
        """The peer is not reached any more."""
        self._fail_jobs(peer_name)
        del self.peers[peer_name]
        self.events.append(PeerLost(peer_name, "connection reset"))

    def _fail_jobs(self, peer_name: str) -> None:
        for job in [job for job in self._hub.jobs if job.owner is self and job.peer == peer_name]:
            self._hub.jobs.remove(job)
            self.events.append(Completion(job.handle, "failed", f"{peer_name} is gone", 0, 0))

    def read(self, peer: Peer, ranges: Ranges, notification: bytes = b"") -> TransferHandle:
        return self._start("read", peer, ranges, notification)

    def write(self, peer: Peer, ranges: Ranges, notification: bytes = b"") -> TransferHandle:
        return self._start("write", peer, ranges, notification)

    def send(self, peer: Peer, ranges: Ranges, tag: int) -> TransferHandle:
        return self._start("send", peer, ranges, b"", tag)

    def receive(self, peer: Peer, ranges: Ranges, tag: int) -> TransferHandle:
        return self._start("receive", peer, ranges, b"", tag)

    def cancel(self, handle: TransferHandle) -> None:
        for job in [job for job in self._hub.jobs if job.owner is self and job.handle == handle]:
            self._hub.jobs.remove(job)
            self.events.append(Completion(job.handle, "cancelled", "", 0, 0))

    def unregister(self, region: Region) -> None:
        self._regions.remove(region)

    def notify(self, peer: Peer, payload: bytes) -> None:
        end = self._hub.ends.get(peer.name)
        if end is not None and end is self.peers.get(peer.name):  # else it is dropped, as the port says
            end.events.append(Notification(self.name, payload))

    def wait(self, timeout_s: float) -> bool:
        del timeout_s
        return bool(self.events)

    def fileno(self) -> int:
        raise AssertionError("nobody sleeps on a loopback")

    def close(self) -> None:
        del self._hub.ends[self.name]

    def poll(self) -> list[TransportEvent]:
        events, self.events = self.events, []
        return events

    def _start(self, kind: str, peer: Peer, ranges: Ranges, notification: bytes, tag: int = 0) -> TransferHandle:
        self._handles += 1
        handle = TransferHandle(self._handles)
        if peer.name not in self.peers:
            self.events.append(Completion(handle, "failed", f"{peer.name} is gone", 0, 0))
            return handle
        self._hub.jobs.append(_Job(self, peer.name, kind, ranges, handle, notification, tag))
        return handle
