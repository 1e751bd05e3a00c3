"""The free blocks of a pool, and the order in which they are handed out.

It must not know why somebody wants blocks, nor whose they were.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import repeat
from math import gcd

from kvsim.core.messages import BlockRuns


class FreeList:
    """What all have in common. Callers know that there are as many blocks as they ask for."""

    def take(self, blocks: int) -> BlockRuns:
        """Remove this many blocks, chosen to suit one request."""
        raise NotImplementedError

    def take_next(self, blocks: int) -> BlockRuns:
        """Remove those that ``peek`` names."""
        raise NotImplementedError

    def peek(self, blocks: int) -> BlockRuns:
        """The next blocks that are handed out one by one, in order. Changes nothing."""
        raise NotImplementedError

    def give_back(self, first_block: int, blocks: int) -> None:
        """Add a run of blocks."""
        raise NotImplementedError

    def runs(self) -> Iterator[tuple[int, int]]:
        """All free blocks as (first block, blocks), for ``check`` only."""
        raise NotImplementedError


class FirstFit(FreeList):
    """Free runs sorted by first block, neighbours always merged."""

    def __init__(self, blocks_total: int) -> None:
        self._starts = [0]
        self._lengths = [blocks_total]

    def take(self, blocks: int) -> BlockRuns:
        """The lowest run that holds all blocks; where none does, the lowest runs one after the other."""
        starts, lengths = self._starts, self._lengths
        for index, length in enumerate(lengths):
            if length >= blocks:
                start = starts[index]
                if length == blocks:
                    del starts[index], lengths[index]
                else:
                    starts[index] = start + blocks
                    lengths[index] = length - blocks
                return ((start, blocks),)
        return self.take_next(blocks)

    def take_next(self, blocks: int) -> BlockRuns:
        starts, lengths = self._starts, self._lengths
        runs = self.peek(blocks)
        whole = len(runs) - 1
        last = runs[whole][1]
        if last == lengths[whole]:
            whole += 1
        else:
            starts[whole] += last
            lengths[whole] -= last
        if whole:
            del starts[:whole], lengths[:whole]
        return runs

    def peek(self, blocks: int) -> BlockRuns:
        starts, lengths = self._starts, self._lengths
        whole, left = 0, blocks
        while (length := lengths[whole]) < left:
            left -= length
            whole += 1
        last = (starts[whole], left)
        return (*zip(starts[:whole], lengths[:whole], strict=True), last) if whole else (last,)

    def give_back(self, first_block: int, blocks: int) -> None:
        starts, lengths = self._starts, self._lengths
        index = bisect_left(starts, first_block)
        joins_left = index > 0 and starts[index - 1] + lengths[index - 1] == first_block
        joins_right = index < len(starts) and first_block + blocks == starts[index]
        if joins_left:
            if joins_right:
                blocks += lengths[index]
                del starts[index], lengths[index]
            lengths[index - 1] += blocks
        elif joins_right:
            starts[index] = first_block
            lengths[index] += blocks
        else:
            starts.insert(index, first_block)
            lengths.insert(index, blocks)

    def runs(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._lengths, strict=True)


class Scattered(FreeList):
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
        return self.take_next(blocks)

    def take_next(self, blocks: int) -> BlockRuns:
        taken = self.peek(blocks)
        del self._stack[-blocks:]
        return taken

    def peek(self, blocks: int) -> BlockRuns:
        return tuple([(block, 1) for block in self._stack[: -blocks - 1 : -1]])

    def give_back(self, first_block: int, blocks: int) -> None:
        self._stack.extend(range(first_block + blocks - 1, first_block - 1, -1))

    def runs(self) -> Iterator[tuple[int, int]]:
        return zip(self._stack, repeat(1))
