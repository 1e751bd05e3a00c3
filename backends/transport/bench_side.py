"""One side of the transfer benchmark: a pool, something that moves blocks, and stamps that show what has arrived.

Both processes of the benchmark have one. It must not know timing or tables.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.transport.choose import open_transport
from backends.transport.description import PeerDescription
from backends.transport.port import (
    Completion,
    Peer,
    PeerLost,
    PeerReady,
    TensorMemory,
    Transport,
    TransportError,
)
from kvsim.core.cluster import LAYER_MAJOR
from kvsim.core.descriptors import Ranges
from kvsim.core.kv_tensor import KvTensor

Operation: TypeAlias = Literal["read", "write"]

_WAIT_S = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Which blocks of ``block_bytes`` move: ids in the initiator's pool and, pairwise, in the owner's."""

    block_bytes: int
    initiator: NDArray[np.int64]
    owner: NDArray[np.int64]

    @property
    def size_bytes(self) -> int:
        """Of all blocks together."""
        return self.block_bytes * len(self.initiator)

    def first(self) -> "Blocks":
        """The first one alone."""
        return Blocks(self.block_bytes, self.initiator[:1], self.owner[:1])


def scattered_blocks(pool_bytes: int, total_bytes: int, block_bytes: int, seed: int) -> Blocks:
    """Blocks drawn at random from both pools, none twice: next to nothing to coalesce."""
    generator = np.random.default_rng(seed)
    in_pool, count = pool_bytes // block_bytes, total_bytes // block_bytes
    drawn = [generator.permutation(in_pool)[:count].astype(np.int64) for _ in range(2)]
    return Blocks(block_bytes, drawn[0], drawn[1])


class Within(Protocol):
    """Copies blocks from one pool to another one of this process, both of the kind that is measured."""

    def seconds(self, blocks: Blocks) -> float:
        """Copy these; how long it took."""
        ...


class Side(Protocol):
    """A mover of blocks between the pools of two processes. ``move`` runs at the initiator and returns when the bytes
    are in place; ``assist`` starts what the owner has to do for that, if anything."""

    pool: NDArray[np.uint8]
    needs_owner: bool
    """Whether ``assist`` does anything."""

    def stamp(self, ids: NDArray[np.int64], block_bytes: int, number: int) -> None:
        """Mark blocks of the pool so that they can be told from all others."""
        stamp(self.pool, ids, block_bytes, number)

    def wrong_blocks(self, ids: NDArray[np.int64], block_bytes: int, number: int) -> int:
        """How many of these blocks do not bear the marks of ``stamp``."""
        return wrong_blocks(self.pool, ids, block_bytes, number)

    def within(self) -> "Within | None":
        """What times the same blocks within this process, where that is not the processor's memcpy."""
        return None

    def describe(self) -> str:
        """What the other side needs to meet us, as text."""
        ...

    def meet(self, description: str) -> None:
        """Get ready to move. Both sides call it."""
        ...

    def move(self, operation: Operation, blocks: Blocks) -> None:
        """Read from the owner, or write to it."""
        ...

    def assist(self, operation: Operation, blocks: Blocks) -> None:
        """The owner's half of the move that the initiator begins at the same time."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class TransportSide(Side):
    """A ``Side`` made of one of our transports; blocks are moved between ``memory`` of both sides."""

    def __init__(
        self, transport: Transport, name: str, pool: NDArray[np.uint8], memory: memoryview | TensorMemory
    ) -> None:
        self._transport = transport
        self.needs_owner = transport.capabilities.two_sided
        self.pool = pool
        self._region = transport.register(memory, _flat(len(pool)))
        self._other = "initiator" if name == "owner" else "owner"
        self._tag = 0
        self._peer: Peer
        self._there = np.uint64(0)

    @classmethod
    def of(cls, kind: str, name: str, pool_bytes: int) -> "TransportSide":
        """One whose pool is what the transport allocates."""
        transport = open_transport(kind, name)
        memory = transport.allocate(pool_bytes)
        pool = np.frombuffer(memory, dtype=np.uint8)
        pool[:] = 0  # every page is there before anything is timed
        return cls(transport, name, pool, memory)

    def describe(self) -> str:
        """See ``Side``."""
        return msgspec.msgpack.encode(self._transport.describe(self._other)).hex()

    def meet(self, description: str) -> None:
        """See ``Side``."""
        told = msgspec.msgpack.decode(bytes.fromhex(description), type=PeerDescription)
        self._there = np.uint64(told.regions[0].address)
        self._peer = self._transport.connect(told)
        self._await(PeerReady)

    def move(self, operation: Operation, blocks: Blocks) -> None:
        """See ``Side``."""
        ranges = self._ranges(operation, blocks, blocks.initiator, blocks.owner)
        if self._transport.capabilities.two_sided:
            self._start_half("receive" if operation == "read" else "send", ranges)
        elif operation == "read":
            self._transport.read(self._peer, ranges)
        else:
            self._transport.write(self._peer, ranges)
        self._await(Completion)

    def assist(self, operation: Operation, blocks: Blocks) -> None:
        """See ``Side``."""
        if self._transport.capabilities.two_sided:
            # for the owner a read of the initiator is a send, so its own blocks are the source
            flipped: Operation = "write" if operation == "read" else "read"
            ranges = self._ranges(flipped, blocks, blocks.owner, blocks.initiator)
            self._start_half("send" if operation == "read" else "receive", ranges)
            self._await(Completion)

    def close(self) -> None:
        """See ``Side``."""
        self._transport.close()

    def _ranges(
        self, operation: Operation, blocks: Blocks, ours: NDArray[np.int64], theirs: NDArray[np.int64]
    ) -> Ranges:
        here = np.uint64(self._region.address) + ours.astype(np.uint64) * np.uint64(blocks.block_bytes)
        there = self._there + theirs.astype(np.uint64) * np.uint64(blocks.block_bytes)
        sizes = np.full(len(ours), blocks.block_bytes, dtype=np.int64)
        return Ranges(there, here, sizes) if operation == "read" else Ranges(here, there, sizes)

    def _start_half(self, half: Literal["send", "receive"], ranges: Ranges) -> None:
        self._tag += 1
        start = self._transport.send if half == "send" else self._transport.receive
        start(self._peer, ranges, self._tag)

    def _await(self, kind: type[PeerReady] | type[Completion]) -> None:
        while self._transport.wait(_WAIT_S):
            for event in self._transport.poll():
                if isinstance(event, PeerLost) or (isinstance(event, Completion) and event.outcome != "done"):
                    raise TransportError(f"the benchmark's transfer failed: {event.reason}")
                if isinstance(event, kind):
                    return
        raise TransportError(f"the benchmark's transfer did not end within {_WAIT_S:g} s")


def stamp(pool: NDArray[np.uint8], ids: NDArray[np.int64], block_bytes: int, number: int) -> None:
    """Write a number of its own to the first and the last 8 bytes of each of these blocks."""
    words = pool.view(np.uint64).reshape(-1, block_bytes // 8)
    values = np.arange(len(ids), dtype=np.uint64) + np.uint64(number << 32)
    words[ids, 0] = values
    words[ids, -1] = ~values


def wrong_blocks(pool: NDArray[np.uint8], ids: NDArray[np.int64], block_bytes: int, number: int) -> int:
    """How many of these blocks do not hold the stamps of ``stamp``."""
    words = pool.view(np.uint64).reshape(-1, block_bytes // 8)
    values = np.arange(len(ids), dtype=np.uint64) + np.uint64(number << 32)
    return int(np.count_nonzero((words[ids, 0] != values) | (words[ids, -1] != ~values)))


def _flat(pool_bytes: int) -> KvTensor:
    return KvTensor(0, 0, 1, LAYER_MAJOR, (1, 1, 1, 1, 1, pool_bytes), (pool_bytes,) * 5 + (1,))
