"""Which generation each block of a worker's pool is of, in memory that peers can read.

KV that is moved must belong to the request that it was ordered for. A worker writes the generation of a block
(``AssignBlocks.generation``) here before it computes anything into it, and wipes it when the block is free. Whoever has
read a block reads its stamp *afterwards*: if that still is the generation that was ordered, the block had not changed
hands before its last byte left, and what was read is the KV of that request. A generation is never used twice.

Two rows of one integer a block: our own stamps, and what a transfer found at the source of each of our blocks. The
second row needs no bookkeeping, as a block is the target of one transfer at a time. The compute thread stamps, the
communication thread reads; both touch single aligned integers.

This module must not know requests or when transfers happen.
"""

import numpy as np

from backends.transport.port import Transport
from backends.worker.tables import each_block
from kvsim.core.block_runs import block_ids, joint_run_arrays
from kvsim.core.cluster import LAYER_MAJOR
from kvsim.core.descriptors import Ranges
from kvsim.core.kv_tensor import KvTensor
from kvsim.core.messages import BlockRuns

STAMP_BYTES = 8
OWN, FOUND = 0, 1  # indices of the rows, along the dimension "kv"


class Stamps:
    """Those of a pool of ``blocks_total`` blocks, registered with the transport: its last region, behind the KV cache.

    ``tensor`` has the shape (layer 1, kv 2, block n, token 1, head 1, dim 1), so that it is described as any other.
    """

    def __init__(self, transport: Transport, blocks_total: int) -> None:
        memory = transport.allocate(2 * blocks_total * STAMP_BYTES)
        self._stamps = np.frombuffer(memory, dtype=np.int64).reshape(2, blocks_total)
        self._blocks_total = blocks_total
        row_bytes = blocks_total * STAMP_BYTES
        strides_bytes = (2 * row_bytes, row_bytes, STAMP_BYTES, STAMP_BYTES, STAMP_BYTES, STAMP_BYTES)
        shape = (1, 2, blocks_total, 1, 1, 1)
        tensor = KvTensor(0, 0, STAMP_BYTES, LAYER_MAJOR, shape, strides_bytes)
        self.tensor = transport.register(memory, tensor, peers_may="read").tensor

    def mark(self, blocks: BlockRuns, generation: int) -> None:
        """These blocks are of this generation; 0: of none. Raises TableError if one is none of this pool."""
        self._stamps[OWN, list(each_block(blocks, self._blocks_total))] = generation

    def own(self, blocks: BlockRuns) -> int:
        """The generation of these blocks; 0 if they differ."""
        return self._common(OWN, blocks)

    def found(self, target_blocks: BlockRuns) -> int:
        """What a transfer found at the source of these blocks; 0 if that differs."""
        return self._common(FOUND, target_blocks)

    def _common(self, row: int, blocks: BlockRuns) -> int:
        stamps = self._stamps[row, block_ids(blocks)]
        first = int(stamps[0])
        return first if bool((stamps == first).all()) else 0


def stamp_ranges(source: KvTensor, target: KvTensor, source_blocks: BlockRuns, target_blocks: BlockRuns) -> Ranges:
    """What moves the source's own stamps of its blocks to where the target finds them. Raises AssertionError at blocks
    that are not in a pool."""
    source_first, target_first, blocks = joint_run_arrays(source_blocks, target_blocks)
    for name, tensor, firsts in (("source", source, source_first), ("target", target, target_first)):
        in_pool = bool((firsts >= 0).all()) and bool((firsts + blocks <= tensor.extent("block")).all())
        assert in_pool, f"a {name} block is not in 0 .. {tensor.extent('block') - 1}"
    source_at = source_first * STAMP_BYTES + OWN * source.stride("kv")
    target_at = target_first * STAMP_BYTES + FOUND * target.stride("kv")
    return Ranges(
        source_at.astype(np.uint64) + np.uint64(source.base_address),
        target_at.astype(np.uint64) + np.uint64(target.base_address),
        (blocks * STAMP_BYTES).astype(np.int64),
    )


def joined(first: Ranges, second: Ranges) -> Ranges:
    """The ranges of both, in this order."""
    return Ranges(
        np.concatenate((first.source_address, second.source_address)),
        np.concatenate((first.target_address, second.target_address)),
        np.concatenate((first.size_bytes, second.size_bytes)),
    )


def problem_of_stamps(tensor: KvTensor) -> str:
    """What is wrong with what a peer says are its stamps; empty if nothing is."""
    extents = {dimension: tensor.extent(dimension) for dimension in tensor.dimensions if dimension != "block"}
    if tensor.dtype_bytes != STAMP_BYTES or extents != {"layer": 1, "kv": 2, "token": 1, "head": 1, "dim": 1}:
        return f"stamps of shape {tensor.shape} and {tensor.dtype_bytes} bytes"
    return "" if tensor.stride("block") == STAMP_BYTES else f"stamps {tensor.stride('block')} bytes apart"
