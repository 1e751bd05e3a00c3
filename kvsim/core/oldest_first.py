"""Free blocks in the order in which they became free, and what requests that may come back have left in them.

As the free queue of vLLM v1: a request's blocks are freed last first, and whoever needs blocks takes those that have
been free for longest. So of a request that was preempted the end is overwritten first, and what is left of it at any
time is a beginning. It must not know why somebody wants blocks.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice, repeat

from kvsim.core.free_blocks import FreeList
from kvsim.core.messages import BlockRuns, RequestId


class OldestFirst(FreeList):
    """A queue of single blocks, at first in ascending order. ``_kept`` holds, for requests that may come back, their
    first blocks that are still as they left them, and ``_keeper`` whose a block is."""

    def __init__(self, blocks_total: int) -> None:
        self._queue: OrderedDict[int, None] = OrderedDict((block, None) for block in range(blocks_total))
        self._kept: dict[RequestId, list[int]] = {}
        self._keeper: dict[int, RequestId] = {}

    def take(self, blocks: int) -> BlockRuns:
        """Remove this many blocks."""
        return self.take_next(blocks)

    def take_next(self, blocks: int) -> BlockRuns:
        """Remove those that ``peek`` names."""
        return as_runs([self.take_one() for _ in range(blocks)])

    def take_one(self) -> int:
        """Remove the block that has been free for longest. What was kept in it is lost."""
        block, _ = self._queue.popitem(last=False)
        if self._keeper:
            self._overwrite(block)
        return block

    def peek(self, blocks: int) -> BlockRuns:
        """The blocks that have been free for longest, in order."""
        return as_runs(list(islice(self._queue, blocks)))

    def give_back(self, first_block: int, blocks: int) -> None:
        """Add a run of blocks, its last block first."""
        for block in range(first_block + blocks - 1, first_block - 1, -1):
            self._queue[block] = None

    def keep(self, request: RequestId, blocks: Sequence[int]) -> None:
        """These free blocks hold, in order, the first tokens of a request that may come back."""
        self._forget(request)
        if blocks:
            self._kept[request] = list(blocks)
            for block in blocks:
                self._keeper[block] = request

    def kept(self, request: RequestId) -> int:
        """How many of them nobody has overwritten."""
        return len(self._kept.get(request, ()))

    def take_back(self, request: RequestId, blocks: int) -> BlockRuns:
        """Remove the first ``blocks`` of them; the others stay free and are forgotten."""
        taken = self._kept[request][:blocks]
        assert len(taken) == blocks, f"{blocks} blocks of request {request} wanted, {len(taken)} kept"
        self._forget(request)
        for block in taken:
            del self._queue[block]
        return as_runs(taken)

    def runs(self) -> Iterator[tuple[int, int]]:
        return zip(self._queue, repeat(1))

    def _overwrite(self, block: int) -> None:
        request = self._keeper.pop(block, None)
        if request is not None:
            kept = self._kept[request]
            assert kept[-1] == block, f"block {block} of request {request} is overwritten before the ones behind it"
            kept.pop()
            if not kept:
                del self._kept[request]

    def _forget(self, request: RequestId) -> None:
        for block in self._kept.pop(request, ()):
            del self._keeper[block]


def as_runs(blocks: Sequence[int]) -> BlockRuns:
    """Block ids as runs, in their order."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and runs[-1][0] + runs[-1][1] == block:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return tuple(runs)
