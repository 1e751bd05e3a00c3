"""The block pool of one worker: which block of KV cache belongs to which request.

Blocks have real ids even in simulation, so a plan can be carried out verbatim by a GPU and the descriptors of a
transfer coalesce as they would there. Three allocation policies: ``first_fit`` hands out the lowest run that is long
enough, ``scattered`` hands out blocks far from each other, as a pool does after long uptime, and ``oldest_first`` those
that have been free for longest, so that what a preempted request left can be found again for as long as possible.

Growth is exact: ``peek(n)`` names the blocks that the next n blocks of growth will be. A worker that was promised
them in ``RunDecode.spare_blocks`` and the scheduler that books them later therefore agree without a word.

It must not know why somebody wants blocks.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator
from itertools import repeat
from math import gcd
from typing import Protocol

from kvsim.core.cluster import Allocation
from kvsim.core.messages import BlockRuns, RequestId
from kvsim.core.oldest_first import OldestFirst


class FreeList(Protocol):
    """The free blocks of a pool and the order in which they are handed out."""

    def take(self, blocks: int) -> BlockRuns:
        """Remove this many blocks, chosen to suit one request. The caller knows that there are enough."""

    def take_one(self) -> int:
        """Remove the block that ``peek`` names first."""

    def peek(self, blocks: int) -> BlockRuns:
        """The next blocks that ``take_one`` would remove, in order. Changes nothing."""

    def give_back(self, first_block: int, blocks: int) -> None:
        """Add a run of blocks."""

    def runs(self) -> Iterator[tuple[int, int]]:
        """All free blocks as (first block, blocks), for ``check`` only."""


class FirstFit:
    """Free runs sorted by first block, neighbours always merged."""

    def __init__(self, blocks_total: int) -> None:
        self._starts = [0]
        self._lengths = [blocks_total]

    def take(self, blocks: int) -> BlockRuns:
        """The lowest run that holds all blocks; where none does, the lowest runs one after the other."""
        for index, length in enumerate(self._lengths):
            if length >= blocks:
                return (self._cut(index, blocks),)
        taken: list[tuple[int, int]] = []
        while blocks:
            run = self._cut(0, min(blocks, self._lengths[0]))
            taken.append(run)
            blocks -= run[1]
        return tuple(taken)

    def take_one(self) -> int:
        start = self._starts[0]
        if self._lengths[0] == 1:
            del self._starts[0], self._lengths[0]
        else:
            self._starts[0] = start + 1
            self._lengths[0] -= 1
        return start

    def peek(self, blocks: int) -> BlockRuns:
        starts, lengths = self._starts, self._lengths
        if lengths[0] >= blocks:
            return ((starts[0], blocks),)
        seen: list[tuple[int, int]] = []
        index = 0
        while (length := lengths[index]) < blocks:
            seen.append((starts[index], length))
            blocks -= length
            index += 1
        seen.append((starts[index], blocks))
        return tuple(seen)

    def give_back(self, first_block: int, blocks: int) -> None:
        starts, lengths = self._starts, self._lengths
        index = bisect_left(starts, first_block)
        joins_left = index > 0 and starts[index - 1] + lengths[index - 1] == first_block
        joins_right = index < len(starts) and first_block + blocks == starts[index]
        if joins_left:
            lengths[index - 1] += blocks
            if joins_right:
                lengths[index - 1] += lengths[index]
                del starts[index], lengths[index]
        elif joins_right:
            starts[index] = first_block
            lengths[index] += blocks
        else:
            starts.insert(index, first_block)
            lengths.insert(index, blocks)

    def runs(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._lengths, strict=True)

    def _cut(self, index: int, blocks: int) -> tuple[int, int]:
        start = self._starts[index]
        if blocks == self._lengths[index]:
            del self._starts[index], self._lengths[index]
        else:
            self._starts[index] += blocks
            self._lengths[index] -= blocks
        return start, blocks


class Scattered:
    """A stack of single blocks that starts as a fixed permutation in which no two neighbours are adjacent blocks.

    The stride is the integer nearest to total / golden ratio that shares no factor with the total: successive multiples
    of it modulo the total visit every block once and stay far apart (Weyl sequence; Knuth, TAOCP vol. 3, 6.4).
    """

    def __init__(self, blocks_total: int) -> None:
        stride = max(1, blocks_total * 618_034 // 1_000_000)
        while gcd(stride, blocks_total) != 1:
            stride += 1
        self._stack = [(index * stride) % blocks_total for index in range(blocks_total)]

    def take(self, blocks: int) -> BlockRuns:
        taken = self.peek(blocks)
        del self._stack[-blocks:]
        return taken

    def take_one(self) -> int:
        return self._stack.pop()

    def peek(self, blocks: int) -> BlockRuns:
        return tuple([(block, 1) for block in self._stack[: -blocks - 1 : -1]])

    def give_back(self, first_block: int, blocks: int) -> None:
        self._stack.extend(range(first_block + blocks - 1, first_block - 1, -1))

    def runs(self) -> Iterator[tuple[int, int]]:
        return zip(self._stack, repeat(1))


def free_list(allocation: Allocation, blocks_total: int) -> FreeList:
    """A free list with all blocks in it."""
    if allocation == "first_fit":
        return FirstFit(blocks_total)
    return Scattered(blocks_total) if allocation == "scattered" else OldestFirst(blocks_total)


class BlockPool:
    """Blocks ``0 .. blocks_total - 1``: each is free or belongs to exactly one request."""

    def __init__(self, blocks_total: int, allocation: Allocation) -> None:
        assert blocks_total > 0, f"a pool of {blocks_total} blocks"
        self.blocks_total = blocks_total
        self.blocks_free = blocks_total
        self._free = free_list(allocation, blocks_total)
        self._tables: dict[RequestId, list[tuple[int, int]]] = {}
        self._generations: dict[RequestId, int] = {}

    def assign(self, request: RequestId, blocks: int, generation: int = 0) -> BlockRuns:
        """Give the request this many more blocks, behind those that it has, marked with this generation. Returns the
        new ones."""
        assert 0 < blocks <= self.blocks_free, f"{blocks} blocks wanted by request {request}, {self.blocks_free} free"
        self.blocks_free -= blocks
        taken = self._free.take(blocks)
        self._generations[request] = generation
        self._tables.setdefault(request, []).extend(taken)
        return taken

    def grow(self, requests: Collection[RequestId]) -> None:
        """Give each of the requests, in order, the one block that ``peek`` names first."""
        self.blocks_free -= len(requests)
        assert self.blocks_free >= 0, f"{len(requests)} requests grow, {self.blocks_free + len(requests)} blocks free"
        take_one, tables = self._free.take_one, self._tables
        for request in requests:
            block = take_one()
            table = tables[request]
            first, blocks = table[-1]
            if first + blocks == block:
                table[-1] = (first, blocks + 1)
            else:
                table.append((block, 1))

    def peek(self, blocks: int) -> BlockRuns:
        """The blocks that the next ``grow`` will take, in order."""
        assert blocks <= self.blocks_free, f"{blocks} spare blocks promised, {self.blocks_free} free"
        return self._free.peek(blocks) if blocks else ()

    def release(self, request: RequestId) -> int:
        """Free all blocks of the request. Returns how many."""
        released = 0
        del self._generations[request]
        for first_block, blocks in reversed(self._tables.pop(request)):
            self._free.give_back(first_block, blocks)
            released += blocks
        self.blocks_free += released
        return released

    def release_kept(self, request: RequestId, full_blocks: int) -> None:
        """Free all blocks of a request that may come back: the first ``full_blocks`` hold tokens that it will need
        again. Only with oldest_first."""
        assert isinstance(self._free, OldestFirst), "blocks are kept by oldest_first only"
        blocks = [block for first, count in self._tables[request] for block in range(first, first + count)]
        self.release(request)
        self._free.keep(request, blocks[:full_blocks])

    def blocks_kept(self, request: RequestId) -> int:
        """How many of its first blocks a request that came back would find as it left them."""
        return self._free.kept(request) if isinstance(self._free, OldestFirst) else 0

    def take_back(self, request: RequestId, blocks: int, generation: int) -> BlockRuns:
        """Give a request that came back its first ``blocks`` kept blocks; the others are forgotten."""
        assert isinstance(self._free, OldestFirst), "blocks are kept by oldest_first only"
        assert request not in self._tables, f"request {request} takes back blocks beside those that it has"
        taken = self._free.take_back(request, blocks)
        self.blocks_free -= blocks
        self._generations[request] = generation
        self._tables[request] = list(taken)
        return taken

    def table(self, request: RequestId) -> BlockRuns:
        """The request's blocks in order of their tokens."""
        return tuple(self._tables[request])

    def generation(self, request: RequestId) -> int:
        """That of the request's blocks here; 0 if it has none."""
        return self._generations.get(request, 0)

    def holds(self, request: RequestId) -> bool:
        """Whether the request has blocks here."""
        return request in self._tables

    def blocks_of(self, request: RequestId) -> int:
        """How many blocks the request has here."""
        return sum([blocks for _, blocks in self._tables.get(request, ())])

    def check(self) -> None:
        """Assert the conservation law: every block is free or in one table, exactly once."""
        free = list(self._free.runs())
        free_blocks = sum([blocks for _, blocks in free])
        assert free_blocks == self.blocks_free, f"{free_blocks} blocks in the free list, {self.blocks_free} counted"
        next_block = 0
        for first_block, blocks in sorted(free + [run for table in self._tables.values() for run in table]):
            assert blocks > 0, f"a run of {blocks} blocks at block {first_block}"
            assert first_block == next_block, f"block {min(first_block, next_block)} is owned twice or lost"
            next_block = first_block + blocks
        assert next_block == self.blocks_total, f"{next_block} blocks are free or owned, of {self.blocks_total}"
