"""Which bytes of a source's KV tensors belong at which address of a target's: tensor-centric transfer descriptors.

At connect each rank describes its KV tensor once (``KvTensor``). From then on the initiator of a transfer computes
every remote byte range itself, from block ids, layers and head ranges: no gather, no packed buffer, no handshake per
block (KVDirect, arXiv 2501.14743). ``transfer_ranges`` makes the ranges for the wire; ``TransferPlanner`` counts the
very same ranges without making them, for a scheduler and a simulator that charge for their number and bytes.

Coalescing. A *row* is one combination of the indices of the dimensions outside "block" (layer and K/V in the usual
layout). Two neighbouring ranges of a row become one where they touch on both sides, in whatever order the block tables
name them; no range runs from one row into the next, because engines register rows (layers) as regions of their own.
Whole blocks move, the unused token slots of the last one included.

Where one side's blocks are longer, by a whole factor, everything is counted in *parts*: a long block is as many parts
as it has room for short ones, and a short block is one. Tables pair up part by part, as far as both reach; ranges run
from part to part only where whole parts follow each other without a gap.

This module must not know how bytes are moved, nor what that costs. A range may exceed what one work request can carry
(2**31 bytes on InfiniBand); splitting it is the wire's business.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.core.block_runs import (
    Int64s,
    count_blocks,
    count_joint_runs,
    in_parts,
    joint_run_arrays,
    joint_runs,
    spread_runs,
)
from kvsim.core.cluster import Dimension, KvSpec
from kvsim.core.kv_tensor import KvTensor, RankPair, Span, contiguous_kv_tensor, heads_on_rank, rank_pairs
from kvsim.core.messages import BlockRuns

__all__ = [
    "KvTensor",
    "Ranges",
    "RankPair",
    "Span",
    "TransferPlan",
    "TransferPlanner",
    "contiguous_kv_tensor",
    "heads_on_rank",
    "joint_runs",
    "plan_transfer",
    "rank_pairs",
    "transfer_planner",
    "transfer_ranges",
]


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """Byte ranges to copy, ascending by source address, each array of shape ``(ranges,)``. Addresses are uint64."""

    source_address: NDArray[np.uint64]
    target_address: NDArray[np.uint64]
    size_bytes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.size_bytes)


# --- the ranges themselves ---------------------------------------------------------------------------------------


def transfer_ranges(
    source: KvTensor,
    target: KvTensor,
    source_blocks: BlockRuns,
    target_blocks: BlockRuns,
    layers: Span,
    source_heads: Span,
    target_heads: Span,
) -> Ranges:
    """The fewest ranges that move these layers, blocks and heads, coalesced as the module says.

    The sides may order their dimensions differently and have pools and blocks of different size: a range is then as
    long as both agree, down to one element. Ascending by source address; rows are those of the source.
    """
    spans = _spans(source, target, layers, source_heads, target_heads)
    tokens = source.extent("token"), target.extent("token")
    source_first, target_first, run_blocks = joint_run_arrays(*pair_up(source_blocks, target_blocks, *tokens))
    sides = _PartSide(source, min(tokens)), _PartSide(target, min(tokens))
    _assert_in_pool("source", source_first, run_blocks, sides[0].parts_total)
    _assert_in_pool("target", target_first, run_blocks, sides[1].parts_total)
    outside, chunk_bytes = _split_off_chunk(source, target, spans)
    coalesces = outside[-1] == "block" and sides[0].touch(chunk_bytes) and sides[1].touch(chunk_bytes)
    if not coalesces:
        source_first, target_first = spread_runs(source_first, run_blocks), spread_runs(target_first, run_blocks)
        run_blocks = np.ones_like(source_first)

    source_at, target_at, rows = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), 1
    for dimension in outside:
        if dimension == "block":
            rows = len(source_at)
            source_offsets, target_offsets = sides[0].offsets(source_first), sides[1].offsets(target_first)
        else:
            indices = np.arange(spans[dimension][2])
            source_offsets, target_offsets = indices * source.stride(dimension), indices * target.stride(dimension)
        source_at = (source_at[:, None] + source_offsets).ravel()
        target_at = (target_at[:, None] + target_offsets).ravel()
    sizes_bytes = np.resize(run_blocks * chunk_bytes, len(source_at))  # repeats the runs of one row for every row
    source_at += sum([first * source.stride(dimension) for dimension, (first, _, _) in spans.items()])
    target_at += sum([first * target.stride(dimension) for dimension, (_, first, _) in spans.items()])
    if tokens[0] == tokens[1]:
        return _merged(source, target, source_at, target_at, sizes_bytes, rows)
    apart = rows if coalesces else rows * len(run_blocks)  # the last chunk of a part may touch the next part by chance
    return _ascending(_merged(source, target, source_at, target_at, sizes_bytes, apart))


def pair_up(
    source_blocks: BlockRuns, target_blocks: BlockRuns, source_tokens: int, target_tokens: int
) -> tuple[BlockRuns, BlockRuns]:
    """Two tables whose blocks have so many token slots, in parts (see above) as far as both reach; the tables
    themselves where blocks are equally long, whose numbers of blocks must then be equal."""
    if source_tokens == target_tokens:
        return source_blocks, target_blocks
    tokens = min(source_tokens, target_tokens)
    assert max(source_tokens, target_tokens) % tokens == 0, f"blocks of {source_tokens} and of {target_tokens} tokens"
    source_parts, target_parts = source_tokens // tokens, target_tokens // tokens
    count = min(count_blocks(source_blocks) * source_parts, count_blocks(target_blocks) * target_parts)
    return in_parts(source_blocks, source_parts, count), in_parts(target_blocks, target_parts, count)


class _PartSide:
    """Where the parts of one side's blocks lie, each of ``tokens`` token slots."""

    def __init__(self, tensor: KvTensor, tokens: int) -> None:
        self._parts = tensor.extent("token") // tokens
        self._block_bytes = tensor.stride("block")
        self._part_bytes = tokens * tensor.stride("token") if self._parts > 1 else self._block_bytes
        self.parts_total = tensor.extent("block") * self._parts

    def touch(self, chunk_bytes: int) -> bool:
        """Whether each part is followed by the next without a gap, if all that is to move of it is one chunk."""
        return self._part_bytes == chunk_bytes and self._block_bytes == self._parts * chunk_bytes

    def offsets(self, parts: Int64s) -> Int64s:
        """Bytes from the first block to each of these parts."""
        return parts // self._parts * self._block_bytes + parts % self._parts * self._part_bytes


_Spans: TypeAlias = dict[Dimension, tuple[int, int, int]]
"""``(first at the source, first at the target, count)`` of every dimension but "block"."""


def _spans(source: KvTensor, target: KvTensor, layers: Span, source_heads: Span, target_heads: Span) -> _Spans:
    assert source.dtype_bytes == target.dtype_bytes, f"elements of {source.dtype_bytes} and {target.dtype_bytes} bytes"
    assert source_heads[1] == target_heads[1], f"heads {source_heads} go to heads {target_heads}"
    spans: _Spans = {
        "layer": (layers[0], layers[0], layers[1]),
        "head": (source_heads[0], target_heads[0], source_heads[1]),
    }
    spans["token"] = (0, 0, min(source.extent("token"), target.extent("token")))  # of one part
    for dimension in ("kv", "dim"):
        assert source.extent(dimension) == target.extent(dimension), f"{source.shape} and {target.shape}: {dimension}"
        spans[dimension] = (0, 0, source.extent(dimension))
    for dimension, (source_first, target_first, count) in spans.items():
        assert count > 0, f"{count} of dimension {dimension} to move"
        assert 0 <= source_first <= source.extent(dimension) - count, f"{dimension}: {source_first} + {count} at source"
        assert 0 <= target_first <= target.extent(dimension) - count, f"{dimension}: {target_first} + {count} at target"
    return spans


def _split_off_chunk(source: KvTensor, target: KvTensor, spans: _Spans) -> tuple[list[Dimension], int]:
    """The largest chunk of a block that is contiguous on both sides: the dimensions outside it, and its bytes."""
    outside, chunk_bytes = list(source.dimensions), source.dtype_bytes
    while outside[-1] != "block":
        dimension = outside[-1]
        count = spans[dimension][2]
        if count > 1 and not source.stride(dimension) == target.stride(dimension) == chunk_bytes:
            break
        chunk_bytes *= count
        del outside[-1]
    return outside, chunk_bytes


def _merged(
    source: KvTensor, target: KvTensor, source_at: Int64s, target_at: Int64s, sizes_bytes: Int64s, rows: int
) -> Ranges:
    """Offsets to addresses; neighbours in one of ``rows`` equal stretches that touch on both sides become one."""
    begins = np.ones(len(source_at), dtype=np.bool_)
    begins[1:] = (source_at[1:] != source_at[:-1] + sizes_bytes[:-1]) | (
        target_at[1:] != target_at[:-1] + sizes_bytes[:-1]
    )
    begins[:: max(1, len(begins) // rows)] = True  # a row ends a range
    kept = np.flatnonzero(begins)
    if len(kept) < len(begins):
        sizes_bytes = np.add.reduceat(sizes_bytes, kept)
        source_at, target_at = source_at[kept], target_at[kept]
    return Ranges(
        source_at.astype(np.uint64) + np.uint64(source.base_address),
        target_at.astype(np.uint64) + np.uint64(target.base_address),
        sizes_bytes,
    )


def _ascending(ranges: Ranges) -> Ranges:
    """Parts of a block may lie apart, with others of the same block in between."""
    order = np.argsort(ranges.source_address, kind="stable")
    return Ranges(ranges.source_address[order], ranges.target_address[order], ranges.size_bytes[order])


def _assert_in_pool(side: str, firsts: Int64s, blocks: Int64s, pool_blocks: int) -> None:
    order = np.argsort(firsts)
    begins, ends = firsts[order], (firsts + blocks)[order]
    in_pool = not len(begins) or (begins[0] >= 0 and ends[-1] <= pool_blocks)
    assert in_pool, f"a {side} block is not in 0 .. {pool_blocks - 1}"
    assert bool(np.all(begins[1:] >= ends[:-1])), f"a {side} block is named twice"


# --- counting them -----------------------------------------------------------------------------------------------


class TransferPlan:
    """Bytes and operations of moving one request's blocks, over all pairs of ranks. Made by ``TransferPlanner``.
    Where one side's blocks are longer, ``blocks`` and ``runs`` are of parts.

    ``messages`` is the number of rank pairs: what a two-sided transfer sends, one packed buffer each.
    """

    def __init__(
        self, blocks: int, runs: int, messages: int, bytes_per_block_layer: int, factors: tuple[tuple[int, int], ...]
    ) -> None:
        self.blocks = blocks
        self.runs = runs
        self.messages = messages
        self.bytes_per_block_layer = bytes_per_block_layer
        self.factors = factors

    def size_bytes(self, layers: int) -> int:
        """Bytes of this many layers; heads that several target ranks hold count once for each."""
        return self.blocks * self.bytes_per_block_layer * layers

    def operations(self, first_layer: int, layers: int) -> int:
        """Ranges of layers ``[first_layer, first_layer + layers)``: exactly those that ``transfer_ranges`` makes."""
        assert 0 <= first_layer <= len(self.factors) - 1 - layers, f"layers {first_layer} + {layers}"
        per_run, per_block = self.factors[layers]
        return per_run * self.runs + per_block * self.blocks


class TransferPlanner:
    """Plans transfers between two tensor-parallel degrees and lengths of blocks (0: that of ``kv``). Immutable."""

    def __init__(
        self, kv: KvSpec, source_tp: int, target_tp: int, source_tokens: int = 0, target_tokens: int = 0
    ) -> None:
        self._tokens = source_tokens or kv.block_tokens, target_tokens or kv.block_tokens
        part_tokens = min(self._tokens)
        pairs = rank_pairs(source_tp, target_tp, kv.kv_heads)
        heads_held = (heads_on_rank(kv.kv_heads, source_tp), heads_on_rank(kv.kv_heads, target_tp))
        heads_moved = [pair.source_heads[1] for pair in pairs]
        self._messages = len(pairs)
        self._bytes_per_block_layer = 2 * part_tokens * kv.head_dim * kv.dtype_bytes * sum(heads_moved)  # 2: K and V
        self._factors = tuple(
            [_range_factors(kv, heads_moved, heads_held, layers, self._tokens) for layers in range(kv.layers + 1)]
        )

    def plan(self, source_blocks: BlockRuns, target_blocks: BlockRuns) -> TransferPlan:
        """The plan of one request, whose tables pair up in order."""
        if self._tokens[0] != self._tokens[1]:
            source_blocks, target_blocks = pair_up(source_blocks, target_blocks, *self._tokens)
        runs = count_joint_runs(source_blocks, target_blocks)
        return TransferPlan(
            count_blocks(source_blocks), runs, self._messages, self._bytes_per_block_layer, self._factors
        )


def _range_factors(
    kv: KvSpec, heads_moved: list[int], heads_held: tuple[int, int], layers: int, block_tokens: tuple[int, int]
) -> tuple[int, int]:
    """Ranges per joint run and ranges per block, summed over all pairs of ranks, when ``layers`` layers move.

    From the innermost dimension outwards a chunk grows until it covers a dimension in part only; from there on each
    index of a dimension has a chunk of its own. Where the chunk grows up to "block", runs of blocks coalesce. The slots
    of a part of a block touch those of the next part, unless there is something between "block" and "token".
    """
    extents = {"layer": kv.layers, "kv": 2, "head": max(heads_held), "dim": kv.head_dim, "token": 1, "block": 1}
    first, last = sorted((kv.layout.index("block"), kv.layout.index("token")))
    apart = last != first + 1 and any(extents[dimension] > 1 for dimension in kv.layout[first + 1 : last])
    unequal, inside = block_tokens[0] != block_tokens[1], kv.layout[first] == "block"
    per_run = per_block = 0
    for heads in heads_moved:
        moved = {"layer": layers, "kv": 2, "token": min(block_tokens), "head": heads, "dim": kv.head_dim}
        in_part = {"layer": layers < kv.layers, "head": heads < max(heads_held), "token": unequal and inside and apart}
        chunks, growing, runs_coalesce = 1, True, False
        for dimension in reversed(kv.layout):
            if dimension == "block":
                runs_coalesce, growing = growing and (inside or not unequal), False
            elif growing:
                growing = not in_part.get(dimension, False)
            else:
                chunks *= moved[dimension]
        if runs_coalesce:
            per_run += chunks
        else:
            per_block += chunks
    return (per_run, per_block) if layers else (0, 0)


@lru_cache  # it costs about a millisecond
def transfer_planner(
    kv: KvSpec, source_tp: int, target_tp: int, source_tokens: int = 0, target_tokens: int = 0
) -> TransferPlanner:
    """The planner of this pair of degrees and lengths of blocks, built once."""
    return TransferPlanner(kv, source_tp, target_tp, source_tokens, target_tokens)


def plan_transfer(
    kv: KvSpec, source_tp: int, target_tp: int, source_blocks: BlockRuns, target_blocks: BlockRuns
) -> TransferPlan:
    """Bytes and operations of moving these blocks, without making the ranges."""
    return transfer_planner(kv, source_tp, target_tp).plan(source_blocks, target_blocks)
