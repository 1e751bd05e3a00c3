"""One step's work: slices of sequences, prompts and single tokens mixed, and their flat form.

A step sees no requests, only slices; "prefill" is a slice of many tokens, "decode" one of a single token. This module
turns slices into the index arrays that every layer shares. It must not know attention or weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backends.model.kv_cache import PagedKvCache, blocks_needed

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SequenceSlice:
    """Consecutive tokens of one sequence that this step computes.

    ``first_token`` is the position of the first of them; the KV of all positions before it is in the cache.
    ``block_table`` holds block ids that cover at least positions [0, first_token + len(token_ids)), in order.
    ``wants_logits``: the logits that follow its last token are needed.
    """

    first_token: int
    token_ids: Sequence[int] | Integers
    block_table: Sequence[int] | Integers
    wants_logits: bool

    @property
    def context_tokens(self) -> int:
        """Positions that its last token attends to, itself included."""
        return self.first_token + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Slices laid end to end. ``token_ids``, ``positions`` and ``slots`` have one entry a token; the tokens of slice i
    are ``starts[i]`` to ``starts[i + 1]``. ``tables[i]`` is cut to the blocks that slice i needs. ``logit_rows`` are
    the last tokens of the slices that want logits, in their order."""

    token_ids: Integers
    positions: Integers
    slots: Integers
    starts: Integers
    first_tokens: Integers
    tables: tuple[Integers, ...]
    logit_rows: Integers

    @property
    def new_tokens(self) -> Integers:
        """Tokens of each slice."""
        return np.diff(self.starts)

    @property
    def contexts(self) -> Integers:
        """Positions that the last token of each slice attends to, itself included."""
        return self.first_tokens + self.new_tokens


def flatten(slices: Sequence[SequenceSlice], cache: PagedKvCache, vocabulary: int) -> Batch:
    """The flat form of slices. Asserts what the caller must have made sure of: tables that reach, ids in range."""
    assert slices, "a step without slices"
    block_tokens = cache.block_tokens
    token_ids, positions, slots, tables = [], [], [], []
    for index, part in enumerate(slices):
        ids = np.asarray(part.token_ids, dtype=np.int64)
        assert len(ids) > 0 <= part.first_token, f"slice {index}: {len(ids)} tokens from {part.first_token}"
        assert 0 <= ids.min() <= ids.max() < vocabulary, (
            f"slice {index}: token ids {ids.min()} to {ids.max()} of a vocabulary of {vocabulary}"
        )
        table = np.asarray(part.block_table, dtype=np.int64)[: blocks_needed(part.context_tokens, block_tokens)]
        assert len(table) * block_tokens >= part.context_tokens, (
            f"slice {index}: {len(table)} blocks of {block_tokens} for {part.context_tokens} tokens"
        )
        assert 0 <= table.min() <= table.max() < cache.blocks, (
            f"slice {index}: block ids {table.min()} to {table.max()} of {cache.blocks} blocks"
        )
        places = np.arange(part.first_token, part.context_tokens)
        token_ids.append(ids)
        positions.append(places)
        slots.append(table[places // block_tokens] * block_tokens + places % block_tokens)
        tables.append(table)
    starts = np.cumsum([0] + [len(ids) for ids in token_ids])
    return Batch(
        token_ids=np.concatenate(token_ids),
        positions=np.concatenate(positions),
        slots=np.concatenate(slots),
        starts=starts,
        first_tokens=np.array([part.first_token for part in slices], dtype=np.int64),
        tables=tuple(tables),
        logit_rows=np.array([starts[i + 1] - 1 for i, part in enumerate(slices) if part.wants_logits], dtype=np.int64),
    )


def clear_entered_blocks(batch: Batch, cache: PagedKvCache) -> None:
    """Zero what earlier owners left in the blocks that this step begins and does not fill: the last one of a slice, if
    the slice holds its first position."""
    for first, context, table in zip(batch.first_tokens, batch.contexts, batch.tables, strict=True):
        offset = int(context) % cache.block_tokens
        if offset and context - offset >= first:
            cache.clear_tail(int(table[-1]), offset)
