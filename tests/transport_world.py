"""Ends of transports for tests: pools with known bytes, connected to each other, and waits that always end."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from fake_cuda import FAKE_CUDA, FakeTensor, fake_driver
from numpy.typing import NDArray

from backends.transport.bench_peers import missing
from backends.transport.choose import TRANSPORTS, open_transport
from backends.transport.cuda_ipc.transport import CudaIpcTransport
from backends.transport.port import (
    Completion,
    Notification,
    Peer,
    PeerLost,
    PeerReady,
    Region,
    TransferHandle,
    Transport,
    TransportEvent,
)
from kvsim.core.descriptors import Ranges
from kvsim.core.kv_tensor import KvTensor

TIMEOUT_S = 30.0
"""How long a test waits for an event before it fails. Events come within milliseconds."""

PAIR_BYTES = 1 << 20


def parameters(*kinds: str) -> list[object]:
    """These transports as parameters of tests. Those with verbs bear the mark rdma, and are skipped without a device:
    ``tests/rdma_guest/run_suite.sh`` runs them under a kernel that has one. Those with cuda_ipc run over a stand-in for
    libcuda, and are skipped where it cannot be built."""
    return [pytest.param(kind, marks=_MARKS.get(kind, ())) for kind in kinds]


_MISSING = missing("verbs")
RDMA = (
    pytest.mark.rdma,
    pytest.mark.skipif(
        bool(_MISSING), reason=f"no RDMA here: {_MISSING.split(':')[0]}; see tests/rdma_guest/run_suite.sh"
    ),
)
"""Marks of tests that need a device."""

_MARKS = {"verbs": RDMA, "cuda_ipc": (FAKE_CUDA,)}

ALL = parameters(*TRANSPORTS)
ONE_SIDED = parameters("shm", "tcp", "verbs", "cuda_ipc")


def flat_tensor(blocks: int, block_bytes: int) -> KvTensor:
    """A tensor of plain blocks, for tests that care for bytes only."""
    size_bytes = blocks * block_bytes
    return KvTensor(
        0,
        0,
        1,
        ("layer", "kv", "block", "token", "head", "dim"),
        (1, 1, blocks, 1, 1, block_bytes),
        (size_bytes, size_bytes, block_bytes, block_bytes, block_bytes, 1),
    )


@dataclass(slots=True, eq=False)
class End:
    """One transport with one region over all of its pool, and every event that it has told so far."""

    transport: Transport
    pool: NDArray[np.uint8]
    region: Region
    events: list[TransportEvent] = field(default_factory=list)

    def await_events(self, enough: Callable[[list[TransportEvent]], bool]) -> list[TransportEvent]:
        """Take in events until there are enough of them; all of them."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not enough(self.events):
            assert self.transport.wait(deadline_s - time.monotonic()), f"nothing new after {self.events}"
            self.events += self.transport.poll()
        return self.events

    def await_lost(self, peer: str) -> PeerLost:
        """Wait until this peer is lost; the first that is told of it."""

        def told() -> list[PeerLost]:
            return [event for event in self.events if isinstance(event, PeerLost) and event.peer == peer]

        self.await_events(lambda _: bool(told()))
        return told()[0]

    def completions(self) -> dict[TransferHandle, Completion]:
        """Those told so far, by handle; none may be told twice."""
        told = [event for event in self.events if isinstance(event, Completion)]
        by_handle = {completion.handle: completion for completion in told}
        assert len(by_handle) == len(told), f"a handle was completed twice: {told}"
        return by_handle

    def outcome(self, handle: TransferHandle) -> Completion:
        """Wait for the end of this transfer."""
        self.await_events(lambda _: handle in self.completions())
        return self.completions()[handle]

    def notifications(self, count: int) -> list[Notification]:
        """Wait for this many notifications; all of them."""

        def told() -> list[Notification]:
            return [event for event in self.events if isinstance(event, Notification)]

        self.await_events(lambda _: len(told()) >= count)
        return told()


def open_with_pool(
    kind: str, name: str, size_bytes: int
) -> tuple[Transport, memoryview | FakeTensor, NDArray[np.uint8]]:
    """A transport, memory for it to register, and the bytes of that memory. With cuda_ipc it lies on a GPU that the
    stand-in for libcuda makes up, behind other things in one allocation."""
    if kind == "cuda_ipc":
        tensor = FakeTensor(size_bytes, offset=4096 + 512)
        return CudaIpcTransport(name, driver=fake_driver()), tensor, tensor.view()
    transport = open_transport(kind, name)
    memory = transport.allocate(size_bytes)
    return transport, memory, np.frombuffer(memory, dtype=np.uint8)


def make_end(kind: str, name: str, size_bytes: int = 1 << 20, seed: int = 0, tensor: KvTensor | None = None) -> End:
    """A transport named ``name`` whose pool holds random bytes, or zeros for seed 0: plain blocks, or this tensor."""
    transport, memory, pool = open_with_pool(kind, name, size_bytes)
    if seed:
        pool[:] = np.random.default_rng(seed).integers(0, 256, size_bytes, dtype=np.uint8)
    return End(transport, pool, transport.register(memory, tensor or flat_tensor(size_bytes // 1024, 1024)))


def join(first: End, second: End) -> tuple[Peer, Peer]:
    """Connect two ends to each other and wait until both are ready: the second as the first sees it, and back."""
    to_second = second.transport.describe(first.transport.name)
    to_first = first.transport.describe(second.transport.name)
    peers = first.transport.connect(to_second), second.transport.connect(to_first)
    await_ready(first, second.transport.name)
    await_ready(second, first.transport.name)
    return peers


def await_ready(end: End, peer: str) -> None:
    """Wait for PeerReady, and complain about PeerLost."""

    def told() -> list[TransportEvent]:
        return [event for event in end.events if isinstance(event, PeerReady | PeerLost) and event.peer == peer]

    end.await_events(lambda _: bool(told()))
    assert isinstance(told()[-1], PeerReady), told()


def ranges_between(
    source: Region, target: Region, source_offsets: list[int], target_offsets: list[int], sizes_bytes: list[int]
) -> Ranges:
    """Ranges from offsets in the regions."""
    return Ranges(
        np.array(source_offsets, dtype=np.uint64) + np.uint64(source.address),
        np.array(target_offsets, dtype=np.uint64) + np.uint64(target.address),
        np.array(sizes_bytes, dtype=np.int64),
    )


def pull(initiator: End, owner: End, peers: tuple[Peer, Peer], ranges: Ranges, tag: int = 0) -> TransferHandle:
    """Move bytes from the owner to the initiator by whatever the transport has; the initiator's handle."""
    if initiator.transport.capabilities.read:
        return initiator.transport.read(peers[0], ranges)
    handle = initiator.transport.receive(peers[0], ranges, tag)
    owner.transport.send(peers[1], ranges, tag)
    return handle


def push(initiator: End, owner: End, peers: tuple[Peer, Peer], ranges: Ranges, tag: int = 0) -> TransferHandle:
    """Move bytes from the initiator to the owner; the initiator's handle."""
    if initiator.transport.capabilities.write:
        return initiator.transport.write(peers[0], ranges)
    owner.transport.receive(peers[1], ranges, tag)
    return initiator.transport.send(peers[0], ranges, tag)


def shuffled_blocks(seed: int, pool_bytes: int, block_bytes: int, count: int) -> list[int]:
    """Offsets of ``count`` different blocks of a pool, in random order."""
    ids = np.random.default_rng(seed).permutation(pool_bytes // block_bytes)[:count]
    return [int(block) * block_bytes for block in ids]


@contextmanager
def ends(*made: End) -> Iterator[tuple[End, ...]]:
    """Close these at the end of the test, and see that nothing of them is left."""
    try:
        yield made
    finally:
        for end in made:
            end.transport.close()
    deadline_s = time.monotonic() + TIMEOUT_S  # gloo's waits cannot be ended, but time out
    for thread in [thread for thread in threading.enumerate() if thread.name.startswith("transport")]:
        thread.join(deadline_s - time.monotonic() if thread.name == "transport-message" else 0)
        assert not thread.is_alive(), f"{thread} is left"


@contextmanager
def pair(kind: str, size_bytes: int = PAIR_BYTES) -> Iterator[tuple[End, End, tuple[Peer, Peer]]]:
    """Two connected ends: "a" with zeros, "b" with random bytes."""
    with ends(make_end(kind, "a", size_bytes), make_end(kind, "b", size_bytes, seed=7)) as (a, b):
        yield a, b, join(a, b)
