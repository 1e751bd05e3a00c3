"""One cell of the transfer benchmark: which blocks move, and all that moving them has taken so far.

Cells are timed in turn, again and again, so that other work on the machine disturbs all of them alike, and figures of
different block sizes can be held against each other. It must not know tables, nor what else is timed beside.
"""

import time
from dataclasses import dataclass, field

from backends.transport.bench_pair import Pair
from backends.transport.bench_side import Blocks, Operation, scattered_blocks


@dataclass(slots=True)
class Timings:
    """Seconds of each repetition: the blocks moved by the transport, and by the plain chain of work requests if there
    is one; copied by one thread; as many bytes over one socket. ``alone``: one block, by either."""

    moved: list[float] = field(default_factory=list)
    chained: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)
    streamed: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    chain_alone: list[float] = field(default_factory=list)

    def ratios(self, reference: list[float]) -> list[float]:
        """Each time of the reference over the transport's next to it: the share of the reference's speed."""
        return [other / moved for moved, other in zip(self.moved, reference, strict=True)]


class Cell:
    """Blocks that are read or written. ``number`` tells cells apart and makes their blocks different."""

    def __init__(self, number: int, operation: Operation, blocks: Blocks, seed: int) -> None:
        self.number = number
        self.operation = operation
        self.blocks = blocks
        self.timings = Timings()
        self._one = blocks.first()
        self._seed = seed

    def wrong_blocks(self, pair: Pair) -> int:
        """Tell the owner which blocks they are, which comes first with every pair; move them and count those that did
        not arrive."""
        number, blocks = self.number, self.blocks
        pair.ask(do="draw", number=number, total=blocks.size_bytes, block=blocks.block_bytes, seed=self._seed)
        if self.operation == "read":
            pair.ask(do="stamp", number=number)
        else:
            pair.side.stamp(blocks.initiator, blocks.block_bytes, number)
        self.seconds(pair)
        if self.operation == "read":
            return pair.side.wrong_blocks(blocks.initiator, blocks.block_bytes, number)
        return int(str(pair.ask(do="wrong", number=number)))

    def seconds(self, pair: Pair, *, alone: bool = False) -> float:
        """Move all of them, or the first one alone."""
        began_s = time.perf_counter()
        if pair.side.needs_owner:
            pair.order(do="assist", operation=self.operation, number=self.number, alone=alone)
        pair.side.move(self.operation, self._one if alone else self.blocks)
        took_s = time.perf_counter() - began_s
        if pair.side.needs_owner:
            pair.answer()
        return took_s


def make_cell(
    number: int, operation: Operation, pool_bytes: int, total_bytes: int, block_bytes: int, seed: int
) -> Cell:
    """A cell of blocks drawn at random from pools of this size."""
    own_seed = seed + number
    return Cell(number, operation, scattered_blocks(pool_bytes, total_bytes, block_bytes, own_seed), own_seed)
