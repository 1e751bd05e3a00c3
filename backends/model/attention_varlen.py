"""Paged attention by torch's ``varlen_attn`` with block tables: one kernel call for prompts and decodes together.

Needs a torch whose ``varlen_attn`` takes ``block_table`` (2.13 does) and FlashAttention 3, activated, on a GPU of
compute capability 9.0; ``attention_choice`` finds out. The layout of the cache is the one that the function asks for.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from backends.model.attention import StepAttention, padded_tables
from backends.model.batch import Batch, Integers
from backends.model.kv_cache import PagedKvCache

CAUSAL_WINDOW = (-1, 0)


class VarlenFunction(Protocol):
    """What this module uses of ``torch.nn.attention.varlen.varlen_attn``."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor | None,
        max_q: int,
        max_k: int,
        *,
        window_size: tuple[int, int],
        enable_gqa: bool,
        seqused_k: Tensor,
        block_table: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]: ...


class VarlenAttention:
    """Variable-length attention over block tables; ``function`` is torch's."""

    name = "varlen"

    def __init__(self, function: VarlenFunction) -> None:
        self._function = function

    def prepare(self, batch: Batch, cache: PagedKvCache) -> StepAttention:
        """Index tensors of the step, int32 as the kernel wants them."""

        def on_device(values: Integers) -> Tensor:
            return torch.from_numpy(values.astype(np.int32)).to(cache.tensor.device)

        starts = on_device(batch.starts)
        contexts = on_device(batch.contexts)
        tables = on_device(padded_tables(batch, np.arange(len(batch.tables))))
        queries_max, keys_max = int(batch.new_tokens.max()), int(batch.contexts.max())

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            del keys, values  # they are in the cache already
            key_pool, value_pool = cache.pools(layer)
            output = self._function(
                queries,
                key_pool,
                value_pool,
                starts,
                None,  # lengths of keys come from seqused_k
                queries_max,
                keys_max,
                window_size=CAUSAL_WINDOW,
                enable_gqa=True,
                seqused_k=contexts,
                block_table=tables,
            )
            assert isinstance(output, Tensor), "auxiliary outputs that nobody asked for"
            return output

        return attend
