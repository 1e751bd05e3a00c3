"""The paged KV cache of one worker: one tensor of blocks, in memory that the caller chose.

It must not know who owns which block: that is the scheduler's business, and the worker's block tables.
"""

import torch
from torch import Tensor

from backends.model.config import ModelConfig


class PagedKvCache:
    """Keys (index 0) and values (index 1) of every layer.

    ``tensor`` is [layers, 2, blocks, block_tokens, kv_heads, head_dim]. It may lie in shared memory, and
    others may write whole blocks between steps. It must be contiguous.
    """

    def __init__(self, tensor: Tensor) -> None:
        assert (tensor.dim(), tensor.shape[1]) == (6, 2), f"a KV cache of shape {tuple(tensor.shape)}"
        assert tensor.is_contiguous(), f"a KV cache with strides {tensor.stride()}"
        self.tensor = tensor
        self.layers, _, self.blocks, self.block_tokens, self.kv_heads, self.head_dim = tensor.shape

    @classmethod
    def allocate(
        cls,
        config: ModelConfig,
        blocks: int,
        block_tokens: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "PagedKvCache":
        """A cache of zeros in memory of its own."""
        shape = (config.layers, 2, blocks, block_tokens, config.kv_heads, config.head_dim)
        return cls(torch.zeros(shape, dtype=dtype, device=device))

    def pools(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each [blocks, block_tokens, kv_heads, head_dim]."""
        return self.tensor[layer, 0], self.tensor[layer, 1]

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put [tokens, kv_heads, head_dim] into token slots (block x block_tokens + offset)."""
        key_pool, value_pool = self.pools(layer)
        slot_shape = (self.blocks * self.block_tokens, self.kv_heads, self.head_dim)
        key_pool.view(slot_shape).index_copy_(0, slots, keys)
        value_pool.view(slot_shape).index_copy_(0, slots, values)

    def clear_tail(self, block: int, first_offset: int) -> None:
        """Zero the slots of a block from ``first_offset`` on, in all layers.

        Called when a sequence enters a block: what an earlier owner left behind must neither reach a computation (a
        masked score of NaN is still NaN) nor leave with a transfer, which moves whole blocks.
        """
        self.tensor[:, :, block, first_offset:] = 0


def blocks_needed(tokens: int, block_tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // block_tokens)
