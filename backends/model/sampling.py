"""From logits to the next token: greedy, or drawn by temperature, top-k and top-p.

The draw for the n-th output token of a request depends on the request's seed and on n, not on any state: whichever
worker computes it, in whatever batch, after a preemption or a crash, it is the same draw. (Logits themselves may
differ in their last bits between batches, so a draw on the very edge between two tokens may still fall either way.)
This module must not know text or limits on length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from backends.model.errors import ModelError, problem
from kvsim.errors import Problem

SEED_END = 2**64


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How the next token of one request is chosen, and which tokens end it.

    ``temperature`` 0 is greedy: the likeliest token, the lowest id of equal ones; it ignores the rest. ``top_k`` keeps
    the k likeliest tokens (0: all), then ``top_p`` the fewest likeliest ones whose probability is at least ``top_p``.
    ``stop_token_ids`` end the sequence, unless ``ignore_eos``: benchmarks with fixed output lengths want that.
    Raises ``ModelError`` with everything out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        problems: list[Problem] = []

        def require(holds: bool, key: str, value: float, accepted: str) -> None:
            if not holds:
                problems.append(problem("sampling", key, f"found {value!r}; {accepted} is required"))

        temperature = self.temperature
        require(math.isfinite(temperature) and temperature >= 0, "temperature", temperature, "a number of at least 0")
        require(self.top_k >= 0, "top_k", self.top_k, "an integer of at least 0 (0 keeps all tokens)")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "a number above 0 and at most 1")
        require(0 <= self.seed < SEED_END, "seed", self.seed, "an integer from 0 to 2^64 - 1")
        if problems:
            raise ModelError(problems)

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0.0

    def ends(self, token_id: int) -> bool:
        """Whether this token is the last of its sequence."""
        return not self.ignore_eos and token_id in self.stop_token_ids


def token_generator(seed: int, token_index: int) -> np.random.Generator:
    """The generator for output token ``token_index`` (from 0) of a request: counter-based, Philox with the seed as key
    and the index as the high word of its counter (Salmon et al., SC 2011)."""
    counter = np.array([0, 0, 0, token_index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def sample(
    logits: Tensor, parameters: Sequence[SamplingParameters], generators: Sequence[np.random.Generator | None]
) -> list[int]:
    """The next token of each row of ``logits`` [requests, vocabulary]. Greedy rows need no generator; see
    ``token_generator`` for the others."""
    assert len(logits) == len(parameters) == len(generators), (
        f"{len(logits)} rows, {len(parameters)} parameters, {len(generators)} generators"
    )
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for row, (choice, generator) in enumerate(zip(parameters, generators, strict=True)):
        if not choice.greedy:
            assert generator is not None, f"row {row} is sampled without a generator"
            tokens[row] = _draw(logits[row].double().cpu().numpy(), choice, float(generator.random()))
    return tokens


def _draw(logits: npt.NDArray[np.float64], choice: SamplingParameters, uniform: float) -> int:
    """The token at ``uniform`` in [0, 1) of the cumulative distribution, likeliest tokens first, ties by id."""
    kept = len(logits) if choice.top_k == 0 else min(choice.top_k, len(logits))
    candidates = np.arange(len(logits))
    if kept < len(logits):  # all that could be among the k likeliest: sorting a whole vocabulary is slow
        candidates = np.flatnonzero(logits >= np.partition(logits, -kept)[-kept])
    order = candidates[np.argsort(-logits[candidates], kind="stable")][:kept]
    weights = np.exp((logits[order] - logits[order[0]]) / choice.temperature)
    cumulative = np.cumsum(weights)
    if choice.top_p < 1.0:
        count = int(np.searchsorted(cumulative, choice.top_p * cumulative[-1])) + 1
        cumulative = cumulative[: min(count, len(cumulative))]
    place = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return int(order[min(place, len(cumulative) - 1)])
