"""The free blocks of a pool, and the order in which they are handed out.

It must not know why somebody wants blocks, nor whose they were.
"""

from collections.abc import Iterator
from itertools import repeat
from math import gcd
from operator import itemgetter
from typing import Any, Final

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

    def give_back_table(self, table: list[tuple[int, int]]) -> None:
        """Add the runs of a table that nobody needs any more, the last one first."""
        for first_block, blocks in reversed(table):
            self.give_back(first_block, blocks)

    def runs(self) -> Iterator[tuple[int, int]]:
        """All free blocks as (first block, blocks), for ``check`` only."""
        raise NotImplementedError


_FIRST_BLOCK: Final = itemgetter(0)

MERGED_UP_TO: Final = 4
"""A table is merged in where there are at most so many free runs for each of its own, else each finds its place."""


class FirstFit(FreeList):
    """Free runs (first block, blocks), sorted, neighbours always merged."""

    def __init__(self, blocks_total: int) -> None:
        self._runs = [(0, blocks_total)]

    def take(self, blocks: int) -> BlockRuns:
        """The lowest run that holds all blocks; where none does, the lowest runs one after the other."""
        runs = self._runs
        for index in range(len(runs)):
            start, length = runs[index]
            if length >= blocks:
                if length == blocks:
                    runs.pop(index)
                else:
                    runs[index] = (start + blocks, length - blocks)
                return ((start, blocks),)
        return self.take_next(blocks)

    def take_next(self, blocks: int) -> BlockRuns:
        runs = self._runs
        taken = self.peek(blocks)
        last = len(taken) - 1
        start, length = runs[last]
        used = taken[last][1]
        if used == length:
            last += 1
        else:
            runs[last] = (start + used, length - used)
        if last:
            del runs[:last]
        return taken

    def peek(self, blocks: int) -> BlockRuns:
        runs = self._runs
        start, length = runs[0]
        if length >= blocks:
            return ((start, blocks),)
        whole = 0
        while length < blocks:
            blocks -= length
            whole += 1
            start, length = runs[whole]
        seen = runs[:whole]
        seen.append((start, blocks))
        return tuple(seen)

    def give_back(self, first_block: int, blocks: int) -> None:
        runs = self._runs
        index = self._place(first_block)
        if index < len(runs):
            start, length = runs[index]
            if first_block + blocks == start:  # joins the run on its right
                blocks += length
                runs.pop(index)
        if index:
            start, length = runs[index - 1]
            if start + length == first_block:
                runs[index - 1] = (start, length + blocks)
                return
        runs.insert(index, (first_block, blocks))

    def give_back_table(self, table: list[tuple[int, int]]) -> None:
        runs = self._runs
        if len(table) == 1 or len(runs) > MERGED_UP_TO * len(table):
            super().give_back_table(table)
            return
        runs = runs + table
        runs.sort(key=_FIRST_BLOCK)
        whole: list[Any] = runs  # compiled, moving a pair as what it is takes it apart and makes a new one
        merged: list[Any] = []
        start, end = 0, -1
        for place, (first, blocks) in enumerate(runs):
            if first == end:
                merged[-1] = (start, first + blocks - start)
            else:
                merged.append(whole[place])
                start = first
            end = first + blocks
        self._runs = merged

    def _place(self, block: int) -> int:
        """The index of the first run behind this block. ``bisect`` would compare pairs, which costs twice as much."""
        runs, low, high = self._runs, 0, len(self._runs)
        while low < high:
            middle = (low + high) // 2
            if runs[middle][0] < block:
                low = middle + 1
            else:
                high = middle
        return low

    def runs(self) -> Iterator[tuple[int, int]]:
        return iter(self._runs)


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
