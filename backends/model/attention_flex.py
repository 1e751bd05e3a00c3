"""Paged attention by torch's FlexAttention, compiled with Triton: needs nothing but a CUDA build of torch.

FlexAttention has no block tables. It sees the whole pool as one long row of keys, is told which blocks of it a tile of
queries visits, and asks a mask function about each position in them; the function looks up which logical block of the
sequence a physical one is. A mask block must be exactly one cache block: with larger ones results depend on where
blocks lie (pytorch issue 182593).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from backends.model.attention import StepAttention, decode_groups, padded_tables
from backends.model.batch import Batch, Integers
from backends.model.kv_cache import PagedKvCache, blocks_needed

if TYPE_CHECKING:  # the type is younger than the function
    from torch.nn.attention.flex_attention import FlexKernelOptions

DECODE_TILE = 16  # the smallest tile of queries that tensor cores take
PROMPT_TILE = 64


class FlexFunction(Protocol):
    """What this module uses of ``flex_attention``."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        block_mask: BlockMask,
        enable_gqa: bool,
        kernel_options: "FlexKernelOptions",
    ) -> Tensor: ...


class FlexPagedAttention:
    """FlexAttention over the pool. ``function`` is ``flex_attention``, compiled unless a test wants it as it is."""

    name = "flex"

    def __init__(self, function: FlexFunction | None = None) -> None:
        # Dynamic shapes: batch and context change in every step, and a compilation takes seconds. A full graph, since
        # torch would otherwise fall back, silently, to computing scores over the whole pool.
        self._function: FlexFunction = (
            torch.compile(flex_attention, dynamic=True, fullgraph=True) if function is None else function
        )

    def prepare(self, batch: Batch, cache: PagedKvCache) -> StepAttention:
        """Masks of a step: one padded batch for each group of decodes, one for each prompt chunk."""
        groups = decode_groups(batch.contexts, batch.new_tokens, cache.block_tokens)
        parts = [_part(group.members, DECODE_TILE, batch, cache) for group in groups]
        chunks = np.flatnonzero(batch.new_tokens > 1)
        parts += [_part(np.array([index]), PROMPT_TILE, batch, cache) for index in chunks]

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            del keys, values  # they are in the cache already
            outputs = torch.empty_like(queries)
            pools = [pool.flatten(0, 1).transpose(0, 1)[None] for pool in cache.pools(layer)]
            for part in parts:
                rows = queries[part.rows].view(part.sequences, -1, *queries.shape[1:]).transpose(1, 2)
                output = self._function(
                    rows, *pools, block_mask=part.mask, enable_gqa=True, kernel_options=part.kernel_options
                )
                outputs[part.rows] = output.transpose(1, 2).flatten(0, 1)
            return outputs

        return attend


@dataclass(frozen=True, slots=True)
class _Part:
    """Sequences with the same number of new tokens. ``rows`` of the batch are theirs, one sequence after the other."""

    rows: Tensor
    sequences: int
    mask: BlockMask
    kernel_options: "FlexKernelOptions"


def _part(members: Integers, tile: int, batch: Batch, cache: PagedKvCache) -> _Part:
    """The mask of these slices, which all have as many new tokens as the first."""
    device, block_tokens = cache.tensor.device, cache.block_tokens
    new_tokens = int(batch.new_tokens[members[0]])
    firsts, contexts = batch.first_tokens[members], batch.contexts[members]
    # Two columns at least: torch compiles once more for every dimension that is 1.
    tables = padded_tables(batch, members, blocks_min=2)
    # Blocks that each tile of queries visits: those up to its last query's position.
    tile_ends = np.arange(1, blocks_needed(new_tokens, tile) + 1) * tile
    seen = np.minimum(firsts[:, None] + tile_ends, contexts[:, None])
    visits = -(-seen // block_tokens)
    indices = np.broadcast_to(tables[:, None, :], (*visits.shape, tables.shape[1]))
    mask = BlockMask.from_kv_blocks(
        _int32(visits[:, None], device),
        _int32(indices[:, None], device),
        BLOCK_SIZE=(tile, block_tokens),
        mask_mod=_mask_function(_logical_blocks(members, batch, cache), _int32(firsts, device), block_tokens),
        seq_lengths=(new_tokens, cache.blocks * block_tokens),
        compute_q_blocks=False,
    )
    rows = np.concatenate([np.arange(batch.starts[index], batch.starts[index + 1]) for index in members])
    options: FlexKernelOptions = {"FORCE_USE_FLEX_ATTENTION": True, "BLOCK_M": tile, "BLOCK_N": block_tokens}
    return _Part(torch.from_numpy(rows).to(device), len(members), mask, options)


def _mask_function(
    logical_blocks: Tensor, firsts: Tensor, block_tokens: int
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def may_see(sequence: Tensor, head: Tensor, query: Tensor, slot: Tensor) -> Tensor:
        del head
        logical = logical_blocks[sequence, slot // block_tokens]
        position = logical * block_tokens + slot % block_tokens
        return (logical >= 0) & (position <= firsts[sequence] + query)

    return may_see


def _logical_blocks(members: Integers, batch: Batch, cache: PagedKvCache) -> Tensor:
    """int32 [sequences, blocks of the pool]: which block of the sequence each is, -1 if it is not one of it."""
    logical = np.full((len(members), cache.blocks), -1)
    for row, index in zip(logical, members, strict=True):
        row[batch.tables[index]] = np.arange(len(batch.tables[index]))
    return _int32(logical, cache.tensor.device)


def _int32(values: Integers, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int32)).to(device)
