"""The portable attention kernel: copy each sequence's blocks side by side, then torch's scaled dot product.

Decodes go in padded batches of similar context, prompt chunks one by one. Measured against per-sequence calls and
against repeated KV heads in its favour; see ``attention`` for the interface.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from backends.model.attention import DecodeGroup, StepAttention, decode_groups, padded_tables
from backends.model.batch import Batch, Integers
from backends.model.kv_cache import PagedKvCache

QUERY_TILE = 256
"""Rows of a prompt chunk that are computed together. Bounds the mask, and skips positions after the tile."""

Rows = Tensor | slice


class GatherAttention:
    """Gather, then SDPA: runs wherever torch does. Holds a scratch buffer, so one of it serves one thread."""

    name = "gather"

    def __init__(self) -> None:
        self._scratch: Tensor | None = None

    def prepare(self, batch: Batch, cache: PagedKvCache) -> StepAttention:
        """Masks and indices of a step, which all layers share."""
        groups = decode_groups(batch.contexts, batch.new_tokens, cache.block_tokens)
        parts: list[_Part] = [_DecodePart(group, batch, cache) for group in groups]
        parts += [_chunk_part(int(index), batch, cache) for index in np.flatnonzero(batch.new_tokens > 1)]
        blocks_max = max(0 if part.blocks is None else len(part.blocks) for part in parts)
        return _GatherStep(parts, cache, self._room(blocks_max, cache))

    def _room(self, blocks: int, cache: PagedKvCache) -> Tensor:
        """Room for gathered blocks, kept between steps: fresh pages for every layer cost more than the copy itself."""
        elements = blocks * cache.block_tokens * cache.kv_heads * cache.head_dim
        scratch, tensor = self._scratch, cache.tensor
        fits = scratch is not None and scratch.numel() >= elements
        if scratch is None or not fits or scratch.dtype != tensor.dtype or scratch.device != tensor.device:
            self._scratch = scratch = torch.empty(elements, dtype=tensor.dtype, device=tensor.device)
        return scratch


class _Part(Protocol):
    """Rows of the batch that are computed by themselves.

    ``blocks`` are the rows to gather of a layer's pool, seen as [2 x blocks, elements]: those of keys, then those of
    values. None: the rows attend to their own keys and values only.
    """

    rows: Rows
    blocks: Tensor | None

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Outputs of queries [rows, heads, head_dim]; keys and values are what they see, flat: [tokens, kv_heads,
        head_dim], of a decode group one sequence's padded tokens after the other's."""


@dataclass(frozen=True, slots=True)
class _GatherStep:
    """Attention of one step."""

    parts: list[_Part]
    cache: PagedKvCache
    scratch: Tensor

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if len(self.parts) == 1:  # it holds all rows, in order
            return self._attend(self.parts[0], layer, queries, keys, values)
        outputs = torch.empty_like(queries)
        for part in self.parts:
            rows = part.rows
            outputs[rows] = self._attend(part, layer, queries[rows], keys[rows], values[rows])
        return outputs

    def _attend(self, part: _Part, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if part.blocks is None:
            return part.attend(queries, keys, values)
        pool = self.cache.tensor[layer].view(2 * self.cache.blocks, -1)
        room = self.scratch[: len(part.blocks) * pool.shape[1]]
        torch.index_select(pool, 0, part.blocks, out=room.view(len(part.blocks), -1))
        past_keys, past_values = room.view(2, -1, self.cache.kv_heads, self.cache.head_dim)
        return part.attend(queries, past_keys, past_values)


class _DecodePart:
    """One token of each of several sequences. The query heads that share a KV head become queries of that head, so
    that keys and values are read once and never repeated."""

    def __init__(self, group: DecodeGroup, batch: Batch, cache: PagedKvCache) -> None:
        contexts = batch.contexts[group.members]
        self.rows: Rows = torch.from_numpy(batch.starts[group.members]).to(cache.tensor.device)
        self.blocks: Tensor | None = _key_and_value_blocks(padded_tables(batch, group.members), cache)
        self._tokens = group.tokens_max
        self._mask: Tensor | None = None
        if contexts.min() < group.tokens_max:
            hidden = np.arange(group.tokens_max) >= contexts[:, None]
            self._mask = _additive(torch.from_numpy(hidden)[:, None, None, :], cache)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Outputs [sequences, heads, head_dim]."""
        sequences, heads, head_dim = queries.shape
        kv_heads = keys.shape[1]

        def padded(flat: Tensor) -> Tensor:  # [sequences, kv_heads, tokens, head_dim]
            return flat.view(sequences, -1, kv_heads, head_dim)[:, : self._tokens].transpose(1, 2)

        by_kv_head = queries.reshape(sequences, kv_heads, heads // kv_heads, head_dim)
        output = scaled_dot_product_attention(by_kv_head, padded(keys), padded(values), attn_mask=self._mask)
        return output.reshape(sequences, heads, head_dim)


class _FirstChunkPart:
    """A chunk that begins its sequence: it attends to nothing but itself, so nothing is gathered."""

    def __init__(self, rows: slice) -> None:
        self.rows: Rows = rows
        self.blocks: Tensor | None = None

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Outputs [tokens, heads, head_dim]."""
        q, k, v = (tensor.transpose(0, 1)[None] for tensor in (queries, keys, values))
        output = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return output[0].transpose(0, 1)


class _LaterChunkPart:
    """A chunk that attends to earlier positions of its sequence as well."""

    def __init__(self, rows: slice, index: int, batch: Batch, cache: PagedKvCache) -> None:
        self.rows: Rows = rows
        self.blocks: Tensor | None = _key_and_value_blocks(batch.tables[index], cache)
        self._first = int(batch.first_tokens[index])
        self._context = context = int(batch.contexts[index])
        # Of a tile that ends where the context does, row r sees all but the positions after its own. Every other tile
        # uses the lower right part of the same mask.
        own_position = np.arange(max(self._first, context - QUERY_TILE), context)
        self._mask = _additive(torch.from_numpy(np.arange(context) > own_position[:, None]), cache)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Outputs [tokens, heads, head_dim], tile by tile: a tile does not look at the positions behind it."""
        outputs = torch.empty_like(queries)
        for start in range(0, len(queries), QUERY_TILE):
            stop = min(start + QUERY_TILE, len(queries))
            end = self._first + stop
            mask = self._mask[len(self._mask) - (stop - start) :, self._context - end :]
            q, k, v = (part.transpose(0, 1)[None] for part in (queries[start:stop], keys[:end], values[:end]))
            output = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
            outputs[start:stop] = output[0].transpose(0, 1)
        return outputs


def _chunk_part(index: int, batch: Batch, cache: PagedKvCache) -> _Part:
    rows = slice(int(batch.starts[index]), int(batch.starts[index + 1]))
    if batch.first_tokens[index] == 0:
        return _FirstChunkPart(rows)
    return _LaterChunkPart(rows, index, batch, cache)


def _key_and_value_blocks(tables: Integers, cache: PagedKvCache) -> Tensor:
    """Rows of a layer's pool with the keys of these blocks, and then those with their values."""
    flat = tables.ravel()
    return torch.from_numpy(np.concatenate((flat, flat + cache.blocks))).to(cache.tensor.device)


def _additive(hidden: Tensor, cache: PagedKvCache) -> Tensor:
    """The mask that SDPA adds to scores: minus infinity where ``hidden``. Made once, not in every layer."""
    mask = torch.zeros(hidden.shape, dtype=cache.tensor.dtype)
    return mask.masked_fill_(hidden, float("-inf")).to(cache.tensor.device)
