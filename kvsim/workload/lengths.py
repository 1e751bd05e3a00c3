"""Prompt and output lengths of generated requests.

Each length uses one draw of a standard distribution per request, transformed afterwards: changing a parameter moves
every request's length, but never which request is long and which is short. It must not know about arrivals or files.
"""

from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

from kvsim.workload.spec import FixedLength, LengthSpec, LognormalLength, UniformLength

CLIPPED_SHARE_WORTH_A_NOTE = 0.01


def draw_lengths(
    name: str, spec: LengthSpec, requests: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Tokens of each request, shape ``(requests,)``, and what the user must be told about the column ``name``.

    The first n lengths do not depend on ``requests``.
    """
    match spec:
        case FixedLength(tokens=tokens):
            assert tokens >= 1, f"{name}: a fixed length of {tokens} tokens"
            return np.full(requests, tokens, dtype=np.int64), ()
        case UniformLength(tokens_min=low, tokens_max=high):
            assert 1 <= low <= high, f"{name}: a uniform length from {low} to {high} tokens"
            # [0, 1) x (number of values), rounded down: each value has probability 1/n to within n x 2**-53
            return low + np.floor(generator.random(requests) * (high - low + 1)).astype(np.int64), ()
        case LognormalLength(tokens_min=low, tokens_max=high):
            assert 1 <= low <= high, f"{name}: a log-normal length clipped to {low} .. {high} tokens"
            unclipped = _lognormal_tokens(spec, generator.standard_normal(requests))
            tokens_clipped = np.clip(unclipped, low, high).astype(np.int64)
            return tokens_clipped, _clipping_note(name, spec, unclipped, tokens_clipped)


def _lognormal_tokens(spec: LognormalLength, normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded, unclipped lengths from standard normal draws.

    ``exp(mu + sigma z)`` has mean ``exp(mu + sigma**2 / 2)`` and ``cv**2 = exp(sigma**2) - 1`` (Johnson, Kotz and
    Balakrishnan, Continuous Univariate Distributions, vol. 1, ch. 14), solved for mu and sigma.
    """
    assert spec.mean_tokens > 0, f"a log-normal length with mean {spec.mean_tokens}"
    assert spec.cv >= 0, f"a log-normal length with coefficient of variation {spec.cv}"
    variance = log(1.0 + spec.cv**2)
    return np.rint(np.exp(log(spec.mean_tokens) - variance / 2 + sqrt(variance) * normal))


def _clipping_note(
    name: str, spec: LognormalLength, unclipped: NDArray[np.float64], tokens: NDArray[np.int64]
) -> tuple[str, ...]:
    share = float(np.mean(unclipped != tokens)) if tokens.size else 0.0
    if share < CLIPPED_SHARE_WORTH_A_NOTE:
        return ()
    return (
        f"{name}: {share:.1%} of the draws were clipped to {spec.tokens_min:,} .. {spec.tokens_max:,} tokens; "
        f"their mean is {float(tokens.mean()):,.0f} tokens (asked for: {spec.mean_tokens:,g})",
    )
