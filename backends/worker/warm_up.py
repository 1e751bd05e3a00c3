"""A few steps before the first order, so that no request pays for what is made at first use: kernels, buffers, caches.

What it leaves in the KV cache is nobody's: no block has been assigned yet. This module must not know requests.
"""

from backends.control.messages import Sampling
from backends.worker.steps import Draw, StepModel, StepPart

PROMPT_TOKENS = 64
ROUNDS = 2


def warm_up(model: StepModel, kv_blocks: int, block_tokens: int) -> None:
    """Compute a short prompt and the token behind it, twice, in the first blocks of the pool."""
    slots = kv_blocks * block_tokens
    tokens = min(PROMPT_TOKENS, slots - 1)
    if tokens < 1:
        return
    table = range(-(-(tokens + 1) // block_tokens))
    draw = Draw(Sampling(), 0)
    for _ in range(ROUNDS):
        model.step([StepPart(0, (0,) * tokens, table, draw)], _nobody)
        model.step([StepPart(tokens, (0,), table, draw)], _nobody)


def _nobody(_layer: int) -> None:
    """Nobody waits for a layer."""
