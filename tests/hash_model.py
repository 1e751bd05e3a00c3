"""A language model of integers, for tests that need no torch.

Its KV cache holds the tokens themselves, layer by layer, and the next token is a hash of everything that a real model
would attend to, read back through the block table. A block in the wrong place, a layer that was not moved or a token
fed twice changes every token after it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from backends.driver.requests import Submission
from backends.worker.steps import OnLayer, StepPart

VOCABULARY = 997
LAYERS = 4


def hash_token(context: Iterable[int]) -> int:
    """The token that follows these: a polynomial hash, so that order and every single token matter."""
    value = 7
    for token in context:
        value = (value * 1_000_003 + token + 1) % (1 << 61)
    return value % VOCABULARY


def hash_generate(submission: Submission) -> list[int]:
    """What any worker must generate for a request, from first principles."""
    tokens = list(submission.prompt)
    outputs: list[int] = []
    while len(outputs) < submission.output_tokens_max:
        outputs.append(hash_token(tokens))
        tokens.append(outputs[-1])
        if submission.output_tokens is not None:
            if len(outputs) == submission.output_tokens:
                break
        elif outputs[-1] in submission.stop_tokens:
            break
    return outputs


class HashModel:
    """``cache`` is int64 of shape [layers, 2, blocks, block_tokens, 1, 1]: layer l holds token x (l + 1), plus the
    position in its V half."""

    def __init__(self, cache: NDArray[np.int64]) -> None:
        self._cache = cache
        self.layers = cache.shape[0]

    def step(self, parts: Sequence[StepPart], on_layer: OnLayer) -> list[int]:
        block_tokens = self._cache.shape[3]
        for layer in range(self.layers):
            for part in parts:
                for position, token in enumerate(part.token_ids, part.first_token):
                    slot = part.block_table[position // block_tokens], position % block_tokens
                    self._cache[layer, 0, *slot, 0, 0] = token * (layer + 1)
                    self._cache[layer, 1, *slot, 0, 0] = token * (layer + 1) + position
            on_layer(layer)
        return [hash_token(self._read(part)) for part in parts if part.draw is not None]

    def _read(self, part: StepPart) -> list[int]:
        block_tokens = self._cache.shape[3]
        positions = np.arange(part.first_token + len(part.token_ids))
        blocks = np.array(part.block_table)[positions // block_tokens]
        held = self._cache[:, :, blocks, positions % block_tokens, 0, 0]
        tokens = held[0, 0]
        expected = tokens[None, :] * np.arange(1, self.layers + 1)[:, None]
        assert (held[:, 0] == expected).all(), "a layer of some block holds other tokens than the first layer"
        assert (held[:, 1] == expected + positions).all(), "a token is in the place of another position"
        return [int(token) for token in tokens]
