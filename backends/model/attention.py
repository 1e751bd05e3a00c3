"""Attention over a paged cache: the interface of its kernels, and how they group the slices of a step.

A kernel prepares a step once (masks and indices are the same for all layers) and is then called layer by layer, after
the layer's new keys and values are in the cache. Only kernels follow block tables. They must not know weights.
``attention_gather`` runs anywhere, ``attention_varlen`` and ``attention_flex`` on GPUs; ``attention_choice`` chooses.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from backends.model.batch import Batch, Integers
from backends.model.kv_cache import PagedKvCache

PADDED_SHARE_MAX = 0.25
"""A decode group is padded to its longest context; it ends before a context this much shorter than that."""


class StepAttention(Protocol):
    """Attention of one step."""

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Outputs [tokens, heads, head_dim] of queries of this shape. ``keys`` and ``values`` [tokens, kv_heads,
        head_dim] are the step's own, which are in the cache already. Causal, scaled by head_dim^-0.5."""


class AttentionKernel(Protocol):
    """A way to compute attention over block tables. ``name`` is what users write."""

    name: str

    def prepare(self, batch: Batch, cache: PagedKvCache) -> StepAttention:
        """The attention of a step on this batch."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Slices of one token and of similar context, in batch order: one batch padded to ``tokens_max`` positions."""

    members: Integers
    tokens_max: int


def decode_groups(contexts: Integers, new_tokens: Integers, block_tokens: int) -> list[DecodeGroup]:
    """Slices of a single token in groups of similar context, the longest first."""
    single = np.flatnonzero(new_tokens == 1)
    order = single[np.argsort(-contexts[single], kind="stable")]
    groups: list[DecodeGroup] = []
    start = 0
    while start < len(order):
        longest = int(contexts[order[start]])
        # Two blocks of slack: short contexts, where a call costs more than its work, would else all be alone.
        shortest = (1 - PADDED_SHARE_MAX) * longest - 2 * block_tokens
        stop = start + int(np.count_nonzero(contexts[order[start:]] >= shortest))
        groups.append(DecodeGroup(members=np.sort(order[start:stop]), tokens_max=longest))
        start = stop
    return groups


def padded_tables(batch: Batch, members: Integers, blocks_min: int = 1) -> Integers:
    """[members, blocks]: block tables of these slices, each filled up with its own first block to the length of the
    longest, or to ``blocks_min``.

    A sequence's own block holds numbers, whatever lies in the rest of the cache; a mask hides them.
    """
    tables = [batch.tables[index] for index in members]
    padded = np.empty((len(tables), max(blocks_min, *(len(table) for table in tables))), dtype=np.int64)
    for row, table in zip(padded, tables, strict=True):
        row[: len(table)] = table
        row[len(table) :] = table[0]
    return padded
