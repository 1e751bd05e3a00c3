"""Rotary position embedding: inverse frequencies by kind, and cosine and sine of the positions of one step.

Formulas: Su et al., arXiv 2104.09864 (default); division of all frequencies by the factor (linear); Llama 3.1's
wavelength-dependent division (llama3); Peng et al., arXiv 2309.00071 (yarn). The operations follow transformers'
``modeling_rope_utils`` in kind and precision, since a difference in the last bit grows with the position.
"""

import math

import torch
from torch import Tensor

from backends.model.config import RopeSpec


def inverse_frequencies(rope: RopeSpec, head_dim: int) -> Tensor:
    """fp32 [head_dim / 2]: radians per position of each pair of dimensions."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float32) / head_dim
    powers = rope.theta**exponents
    plain = 1.0 / powers
    match rope.kind:
        case "default":
            return plain
        case "linear":
            return plain / rope.factor
        case "llama3":
            return _llama3(rope, plain)
        case "yarn":
            return _yarn(rope, powers, head_dim)


def _llama3(rope: RopeSpec, plain: Tensor) -> Tensor:
    """Long waves are stretched by the factor, short ones kept, those between are blended by their wavelength."""
    wavelength = 2 * math.pi / plain
    longest = rope.original_context_tokens / rope.low_frequency_factor
    shortest = rope.original_context_tokens / rope.high_frequency_factor
    kept = (rope.original_context_tokens / wavelength - rope.low_frequency_factor) / (
        rope.high_frequency_factor - rope.low_frequency_factor
    )
    blended = (1 - kept) * plain / rope.factor + kept * plain
    stretched = torch.where(wavelength > longest, plain / rope.factor, plain)
    between = (wavelength >= shortest) & (wavelength <= longest)
    return torch.where(between, blended, stretched)


def _yarn(rope: RopeSpec, powers: Tensor, head_dim: int) -> Tensor:
    """Dimensions that turn often within the original context are kept, those that turn rarely are stretched, with a
    linear ramp between the dimensions that turn ``beta_fast`` and ``beta_slow`` times."""

    def dimension(turns: float) -> float:
        return head_dim * math.log(rope.original_context_tokens / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # as transformers: a ramp of no width would divide by zero
    ramp = torch.clamp((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low), 0, 1)
    kept = 1 - ramp
    return 1.0 / (rope.factor * powers) * (1 - kept) + 1.0 / powers * kept


def cosine_and_sine(frequencies: Tensor, positions: Tensor, attention_factor: float, dtype: torch.dtype) -> Tensor:
    """[2, tokens, 1, head_dim]: cosine and *signed* sine of each position, ready for ``rotate``.

    The first half of the sine is negated: with it, rotation is one product with the input and one with the input
    whose halves are swapped. Computed in fp32, like transformers, and then cast.
    """
    angles = positions.to(torch.float32)[:, None] * frequencies
    cosine, sine = angles.cos() * attention_factor, angles.sin() * attention_factor
    both = torch.stack((torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)))
    return both[:, :, None, :].to(dtype)


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Rotate [tokens, any heads, head_dim] by ``cosine_and_sine`` of its tokens; halves are the pairs."""
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    return torch.addcmul(heads * rotation[0], swapped, rotation[1])
