"""One generator of random numbers for each purpose: who draws more from one moves nothing that is drawn from others."""

from typing import Literal, TypeAlias, get_args

import numpy as np

# Order is part of the meaning of a seed: add purposes at the end only.
Purpose: TypeAlias = Literal["arrivals", "prompt_tokens", "output_tokens", "pairs", "labels"]


def generator_for(purpose: Purpose, seed: int, phase: int | None = None) -> np.random.Generator:
    """The random numbers of one purpose (and ``phase``), independent of those of all others."""
    purposes = get_args(Purpose)
    sequence = np.random.SeedSequence(seed).spawn(len(purposes))[purposes.index(purpose)]
    return np.random.default_rng(sequence if phase is None else sequence.spawn(phase + 1)[phase])
