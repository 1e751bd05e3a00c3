"""The block pool of one worker: which block of KV cache belongs to which request.

Blocks have real ids even in simulation, so a plan can be carried out verbatim by a GPU and the descriptors of a
transfer coalesce as they would there. Three allocation policies: ``first_fit`` hands out the lowest run that is long
enough, ``scattered`` hands out blocks far from each other, as a pool does after long uptime, and ``oldest_first`` those
that have been free for longest, so that what a preempted request left can be found again for as long as possible.

Growth is exact: ``peek(n)`` names the blocks that the next n blocks of growth will be. A worker that was promised
them in ``RunDecode.spare_blocks`` and the scheduler that books them later therefore agree without a word.

It must not know why somebody wants blocks.
"""

from kvsim.core.block_runs import count_blocks
from kvsim.core.cluster import Allocation
from kvsim.core.free_blocks import FirstFit, FreeList, Scattered
from kvsim.core.messages import BlockRuns, RequestId
from kvsim.core.oldest_first import OldestFirst


def free_list(allocation: Allocation, blocks_total: int) -> FreeList:
    """A free list with all blocks in it."""
    if allocation == "first_fit":
        return FirstFit(blocks_total)
    return Scattered(blocks_total) if allocation == "scattered" else OldestFirst(blocks_total)


class BlockTable:
    """The blocks of one request as runs, in order of their tokens, and their generation."""

    __slots__ = ("generation", "runs")

    def __init__(self, runs: list[tuple[int, int]], generation: int) -> None:
        self.runs = runs
        self.generation = generation

    def grow(self, block: int) -> None:
        """One block follows."""
        first, blocks = self.runs[-1]
        if first + blocks == block:
            self.runs[-1] = (first, blocks + 1)
        else:
            self.runs.append((block, 1))

    def blocks(self) -> int:
        """How many blocks it has."""
        return count_blocks(tuple(self.runs))


class BlockPool:
    """Blocks ``0 .. blocks_total - 1``: each is free or belongs to exactly one request."""

    def __init__(self, blocks_total: int, allocation: Allocation) -> None:
        assert blocks_total > 0, f"a pool of {blocks_total} blocks"
        self.blocks_total = blocks_total
        self.blocks_free = blocks_total
        self._free = free_list(allocation, blocks_total)
        self._tables: dict[RequestId, BlockTable] = {}

    def assign(self, request: RequestId, blocks: int, generation: int = 0) -> BlockRuns:
        """Give the request this many more blocks, behind those that it has, marked with this generation. Returns the
        new ones."""
        assert 0 < blocks <= self.blocks_free, f"{blocks} blocks wanted by request {request}, {self.blocks_free} free"
        self.blocks_free -= blocks
        taken = self._free.take(blocks)
        table = self._tables.get(request)
        if table is None:
            self._tables[request] = BlockTable(list(taken), generation)
        else:
            table.runs.extend(taken)
            table.generation = generation
        return taken

    def growing_table(self, request: RequestId) -> BlockTable:
        """What ``grow`` takes to give this request a block; the same until the request's blocks are released."""
        return self._tables[request]

    def grow(self, tables: list[BlockTable]) -> None:
        """Give each of the tables, in order, one of the blocks that ``peek`` names, in order."""
        if not tables:
            return
        self.blocks_free -= len(tables)
        assert self.blocks_free >= 0, f"{len(tables)} tables grow, {self.blocks_free + len(tables)} blocks free"
        taken = self._free.take_next(len(tables))
        place = block = left = 0
        for table in tables:
            if not left:
                block, left = taken[place]
                place += 1
            table.grow(block)
            block += 1
            left -= 1

    def peek(self, blocks: int) -> BlockRuns:
        """The blocks that the next ``grow`` will take, in order."""
        assert blocks <= self.blocks_free, f"{blocks} spare blocks promised, {self.blocks_free} free"
        return self._free.peek(blocks) if blocks else ()

    def release(self, request: RequestId) -> int:
        """Free all blocks of the request. Returns how many."""
        table = self._tables.pop(request)
        released = table.blocks()
        self._free.give_back_table(table.runs)
        self.blocks_free += released
        return released

    def release_kept(self, request: RequestId, full_blocks: int) -> None:
        """Free all blocks of a request that may come back: the first ``full_blocks`` hold tokens that it will need
        again. Only with oldest_first."""
        assert isinstance(self._free, OldestFirst), "blocks are kept by oldest_first only"
        blocks = [block for first, count in self._tables[request].runs for block in range(first, first + count)]
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
        self._tables[request] = BlockTable(list(taken), generation)
        return taken

    def table(self, request: RequestId) -> BlockRuns:
        """The request's blocks in order of their tokens."""
        return tuple(self._tables[request].runs)

    def generation(self, request: RequestId) -> int:
        """That of the request's blocks here; 0 if it has none."""
        table = self._tables.get(request)
        return table.generation if table is not None else 0

    def holds(self, request: RequestId) -> bool:
        """Whether the request has blocks here."""
        return request in self._tables

    def blocks_of(self, request: RequestId) -> int:
        """How many blocks the request has here."""
        table = self._tables.get(request)
        return table.blocks() if table is not None else 0

    def check(self) -> None:
        """Assert the conservation law: every block is free or in one table, exactly once."""
        free = list(self._free.runs())
        free_blocks = sum([blocks for _, blocks in free])
        assert free_blocks == self.blocks_free, f"{free_blocks} blocks in the free list, {self.blocks_free} counted"
        next_block = 0
        for first_block, blocks in sorted(free + [run for table in self._tables.values() for run in table.runs]):
            assert blocks > 0, f"a run of {blocks} blocks at block {first_block}"
            assert first_block == next_block, f"block {min(first_block, next_block)} is owned twice or lost"
            next_block = first_block + blocks
        assert next_block == self.blocks_total, f"{next_block} blocks are free or owned, of {self.blocks_total}"
