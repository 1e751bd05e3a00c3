"""What a rank tells its peers about its KV cache, and which ranks share heads.

Together these two are all that an initiator needs to compute remote addresses by itself. This module must not know
block tables or transfers.
"""

from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from kvsim.core.cluster import LAYER_MAJOR, Dimension, KvSpec

Span: TypeAlias = tuple[int, int]
"""``(first, count)`` along one dimension."""


@dataclass(frozen=True, slots=True)
class KvTensor:
    """One registered KV tensor of one rank.

    ``dimensions`` name each axis, outermost first; ``shape`` and ``strides_bytes`` go with them. Strides may leave gaps
    but axes must nest: each stride covers all of the axis inside it. ``key`` is what a peer needs for access (an rkey).
    Values from a peer must be checked before one of these is built from them: here they are asserted only.
    """

    base_address: int
    key: int
    dtype_bytes: int
    dimensions: tuple[Dimension, ...]
    shape: tuple[int, ...]
    strides_bytes: tuple[int, ...]

    def __post_init__(self) -> None:
        assert sorted(self.dimensions) == sorted(LAYER_MAJOR), f"dimensions {self.dimensions}"
        assert len(self.shape) == len(self.strides_bytes) == len(self.dimensions), f"{self.shape} {self.strides_bytes}"
        assert min(self.shape) > 0, f"shape {self.shape}"
        inside_bytes = self.dtype_bytes
        for extent, stride_bytes in zip(reversed(self.shape), reversed(self.strides_bytes), strict=True):
            assert stride_bytes >= inside_bytes, f"strides {self.strides_bytes} of shape {self.shape} do not nest"
            inside_bytes = stride_bytes * extent

    def extent(self, dimension: Dimension) -> int:
        """How many indices this dimension has."""
        return self.shape[self.dimensions.index(dimension)]

    def stride(self, dimension: Dimension) -> int:
        """Bytes from one index of this dimension to the next."""
        return self.strides_bytes[self.dimensions.index(dimension)]


@dataclass(frozen=True, slots=True)
class RankPair:
    """One source rank and one target rank that share heads. ``*_heads`` are spans of each rank's own head indices."""

    source_rank: int
    target_rank: int
    source_heads: Span
    target_heads: Span


def heads_on_rank(kv_heads: int, tensor_parallel: int) -> int:
    """KV heads that each rank holds: an even share, or one replicated head where there are more ranks than heads."""
    more, fewer = max(kv_heads, tensor_parallel), min(kv_heads, tensor_parallel)
    assert more % fewer == 0, f"{kv_heads} KV heads do not spread evenly over {tensor_parallel} ranks"
    return max(1, kv_heads // tensor_parallel)


def contiguous_kv_tensor(
    kv: KvSpec, kv_heads_on_rank: int, blocks: int, base_address: int = 0, key: int = 0
) -> KvTensor:
    """The tensor without gaps that ``kv.layout`` describes, for one rank with a pool of this many blocks."""
    extents: dict[Dimension, int] = {
        "layer": kv.layers,
        "kv": 2,
        "block": blocks,
        "token": kv.block_tokens,
        "head": kv_heads_on_rank,
        "dim": kv.head_dim,
    }
    shape = tuple(extents[dimension] for dimension in kv.layout)
    strides_bytes = tuple(kv.dtype_bytes * prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return KvTensor(base_address, key, kv.dtype_bytes, kv.layout, shape, strides_bytes)


def rank_pairs(source_tp: int, target_tp: int, kv_heads: int) -> tuple[RankPair, ...]:
    """Who gives which heads to whom, ordered by target rank, then by head.

    Rank r of t holds heads ``r * kv_heads // t`` onwards. Each target rank gets each head that it holds from one source
    rank, target replicas included. Where a head is replicated on the source, the i-th rank of the target that holds it
    reads the i-th replica modulo their number, so that readers spread evenly.
    """
    source_heads, target_heads = heads_on_rank(kv_heads, source_tp), heads_on_rank(kv_heads, target_tp)
    source_replicas, target_replicas = max(1, source_tp // kv_heads), max(1, target_tp // kv_heads)
    pairs = []
    for target_rank in range(target_tp):
        target_first = target_rank // target_replicas * target_heads
        replica = target_rank % target_replicas % source_replicas
        head, end = target_first, target_first + target_heads
        while head < end:
            share = head // source_heads  # which part of the heads, and so which group of replicas
            source_first = share * source_heads
            heads = min(end, source_first + source_heads) - head
            source_span, target_span = (head - source_first, heads), (head - target_first, heads)
            pairs.append(RankPair(share * source_replicas + replica, target_rank, source_span, target_span))
            head += heads
    return tuple(pairs)
