"""What joins a batch and who is admitted to a block pool: plain functions over integers.

The rules follow vLLM's scheduler (v1): first come, first served; a token budget a step; a watermark of free blocks that
new requests may not touch. They must not know requests or workers.
"""

from collections.abc import Iterable

from kvsim.core.integers import div_ceil


def blocks_for(tokens: int, block_tokens: int) -> int:
    """Blocks that hold this many tokens."""
    return div_ceil(tokens, block_tokens)


def admits(blocks_needed: int, blocks_free: int, watermark_blocks: int, blocks_total: int) -> bool:
    """Whether a new request may take its blocks: the watermark must stay free, except in an empty pool."""
    if blocks_free == blocks_total:
        return blocks_needed <= blocks_free
    return blocks_needed + watermark_blocks <= blocks_free


def whole_prompts(
    prompts_tokens: Iterable[int], tokens_max: int, requests_max: int, blocks_free: int, block_tokens: int
) -> int:
    """How many of the waiting prompts, in order, one prefill step takes whole.

    The first is taken even if it alone exceeds ``tokens_max`` (a dedicated prefill worker does not chunk); none is
    taken past the first whose blocks are not free.
    """
    taken = tokens = 0
    for prompt_tokens in prompts_tokens:
        blocks_free -= blocks_for(prompt_tokens, block_tokens)
        tokens += prompt_tokens
        if taken == requests_max or blocks_free < 0 or (taken and tokens > tokens_max):
            break
        taken += 1
    return taken


def chunk_tokens(context_tokens: int, computed_tokens: int, budget_tokens: int) -> int:
    """Tokens of the next chunk of a prompt under what is left of a step's token budget."""
    return max(0, min(context_tokens - computed_tokens, budget_tokens))


def layers_to_start(layers_ready: int, layers_started: int, reserved: bool, transfer_active: bool) -> int:
    """Layers that the next transfer of a request moves: all that are ready and not yet handed to one.

    One transfer of a request is in flight at a time, as work requests on one reliable connection complete in order;
    layers that become ready meanwhile go together with the next one.
    """
    return layers_ready - layers_started if reserved and not transfer_active else 0
