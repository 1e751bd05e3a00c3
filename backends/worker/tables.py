"""Which blocks of KV cache hold which request on this worker: the scheduler's tables, followed from its commands.

The scheduler books the growth of a decode run when it hears of it; the worker needs the block before it computes the
token. Both take the same blocks, as ``spare_blocks`` names the next ones of the pool in the order in which contexts
will cross a block boundary: by step, then by place in the batch.

This module must not decide who gets blocks, and it must not know tensors.
"""

from collections.abc import Callable, Iterator

from backends.worker.errors import OrderError
from kvsim.core.messages import BlockRuns, RequestId


class TableError(OrderError):
    """An order that cannot be carried out on these tables: the driver and this worker do not agree any more."""


class BlockTables:
    """Blocks ``0 .. blocks_total - 1`` of ``block_tokens`` token slots each; every block is in one table at most.

    ``mark`` is told of the generation of blocks before anything can be computed into them, and of 0 for those that are
    free or grown into."""

    def __init__(
        self, blocks_total: int, block_tokens: int, mark: Callable[[BlockRuns, int], None] = lambda _blocks, _mark: None
    ) -> None:
        self._blocks_total = blocks_total
        self._block_tokens = block_tokens
        self._mark = mark
        self._tables: dict[RequestId, list[int]] = {}
        self._used: set[int] = set()
        self._spare: Iterator[int] = iter(())

    def assign(self, request: RequestId, blocks: BlockRuns, generation: int = 0) -> None:
        """These blocks belong to the request, behind those that it has, and are of this generation. Raises TableError
        if one is taken or is none of this pool."""
        table = self._tables.setdefault(request, [])
        for block in each_block(blocks, self._blocks_total):
            self._append(request, table, block)
        self._mark(blocks, generation)

    def release(self, request: RequestId) -> None:
        """All blocks of the request are free. Raises TableError if it has none."""
        table = self.table(request)
        self._used.difference_update(table)
        self._mark(tuple([(block, 1) for block in table]), 0)
        del self._tables[request]

    def promise(self, spare_blocks: BlockRuns) -> None:
        """A run begins: growth takes these blocks, in order. What an earlier run left of its own is forgotten."""
        self._spare = each_block(spare_blocks, self._blocks_total)

    def grow(self, request: RequestId, context_tokens: int) -> None:
        """Make room for the token at position ``context_tokens``: the next spare block, if the last one is full.

        Raises TableError if none is left or the table lags behind by more than one token.
        """
        table = self.table(request)
        room_tokens = len(table) * self._block_tokens
        if context_tokens < room_tokens:
            return
        if context_tokens > room_tokens:
            raise TableError(f"request {request}: context {context_tokens} in blocks for {room_tokens} tokens")
        block = next(self._spare, None)
        if block is None:
            raise TableError(f"request {request}: no spare block left at context {context_tokens}")
        self._append(request, table, block)

    def table(self, request: RequestId) -> list[int]:
        """The request's blocks in order of their tokens. Raises TableError if it has none."""
        table = self._tables.get(request)
        if table is None:
            raise TableError(f"request {request} has no blocks here")
        return table

    def covers(self, request: RequestId, tokens: int) -> bool:
        """Whether the request's blocks have room for this many tokens."""
        return tokens <= len(self._tables.get(request, ())) * self._block_tokens

    @property
    def requests(self) -> tuple[RequestId, ...]:
        """Every request that has blocks here."""
        return tuple(self._tables)

    @property
    def blocks_used(self) -> int:
        """Blocks that are in a table."""
        return len(self._used)

    def _append(self, request: RequestId, table: list[int], block: int) -> None:
        if block in self._used:
            raise TableError(f"block {block} for request {request} is in a table already")
        self._used.add(block)
        table.append(block)


def each_block(blocks: BlockRuns, blocks_total: int) -> Iterator[int]:
    """Every block id of the runs, in order. Raises TableError at a run that is not within the pool."""
    for first, count in blocks:
        if count < 1 or first < 0 or first + count > blocks_total:
            raise TableError(f"blocks {first} .. {first + count - 1} are not in a pool of {blocks_total}")
        yield from range(first, first + count)
