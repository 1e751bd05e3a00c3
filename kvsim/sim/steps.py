"""Closed forms for a run of decode steps whose cost grows linearly.

Step i (from 0) of a run lasts ``(first_fs + i * growth_fs) // 10**6`` nanoseconds, the definition that
``kvsim.core.messages.DecodeAdvanced`` gives. Everything here is exact integer arithmetic, so that a run covered in one
go ends in the same nanosecond as one that is walked step by step. It must not know what a step computes.
"""

from math import isqrt

import numpy as np
import numpy.typing as npt

from kvsim.core.messages import FEMTOSECONDS_PER_NS

_INT64_MAX = 2**63 - 1


def floor_sum(terms: int, divisor: int, slope: int, offset: int) -> int:
    """Sum of ``(slope * i + offset) // divisor`` over i in [0, terms), for non-negative integers and divisor > 0.

    The sum counts lattice points below a line. Whole multiples of the divisor in slope and offset are taken out in
    closed form; what is left is counted along the other axis, which swaps slope and divisor as in Euclid's algorithm:
    O(log(divisor)) rounds. Source: Graham, Knuth and Patashnik, Concrete Mathematics, section 3.5; known as floor_sum
    from the AtCoder Library.
    """
    assert min(terms, divisor - 1, slope, offset) >= 0, (terms, divisor, slope, offset)
    total = 0
    while terms > 0:
        quotient, slope = divmod(slope, divisor)
        total += quotient * (terms * (terms - 1) // 2)
        quotient, offset = divmod(offset, divisor)
        total += quotient * terms
        terms, offset = divmod(slope * terms + offset, divisor)
        slope, divisor = divisor, slope
    return total


def steps_total_ns(steps: int, first_fs: int, growth_fs: int) -> int:
    """Nanoseconds that the first ``steps`` steps last together."""
    return floor_sum(steps, FEMTOSECONDS_PER_NS, growth_fs, first_fs)


def steps_begun_before(elapsed_ns: int, steps_max: int, first_fs: int, growth_fs: int) -> int:
    """The smallest number of steps that last at least ``elapsed_ns`` together, or ``steps_max`` if none does.

    That many steps are done at the first step boundary at or after a cut at ``elapsed_ns``: a step that has begun
    before the cut runs to its end, and one that would begin at the cut does not begin. A cut at 0 answers 0.

    Rounding down shortens the sum, so n steps never last longer than their femtoseconds say: the smallest n whose
    femtoseconds reach the cut is a lower bound. It is nearly always the answer; if not, a search by doubling finds it.
    """
    assert min(steps_max, first_fs, growth_fs) >= 0, (steps_max, first_fs, growth_fs)
    if elapsed_ns <= 0:
        return 0
    low = _steps_lower_bound(elapsed_ns * FEMTOSECONDS_PER_NS, first_fs, growth_fs)
    if low is None or low >= steps_max:
        return steps_max
    if steps_total_ns(low, first_fs, growth_fs) >= elapsed_ns:
        return low
    stride = 1
    while low + stride < steps_max and steps_total_ns(low + stride, first_fs, growth_fs) < elapsed_ns:
        low += stride
        stride *= 2
    high = min(low + stride, steps_max)
    while high - low > 1:  # low is too few; high is enough, or all there are
        middle = (low + high) // 2
        if steps_total_ns(middle, first_fs, growth_fs) >= elapsed_ns:
            high = middle
        else:
            low = middle
    return high


def _steps_lower_bound(elapsed_fs: int, first_fs: int, growth_fs: int) -> int | None:
    """Smallest n with n * first_fs + growth_fs * n * (n - 1) / 2 >= elapsed_fs > 0; None if there is none."""
    if growth_fs == 0:
        return -(-elapsed_fs // first_fs) if first_fs else None
    linear = 2 * first_fs - growth_fs
    root = isqrt(linear * linear + 8 * growth_fs * elapsed_fs)
    steps = (root - linear) // (2 * growth_fs)  # floor of the quadratic's positive root
    return steps if growth_fs * steps * steps + linear * steps >= 2 * elapsed_fs else steps + 1


def step_ends_ns(steps: int, first_fs: int, growth_fs: int) -> npt.NDArray[np.int64]:
    """When each step ends, in ns after the run began: an int64 vector of ``steps`` cumulative ends."""
    assert min(steps, first_fs, growth_fs) >= 0, (steps, first_fs, growth_fs)
    assert first_fs + growth_fs * steps <= _INT64_MAX, f"a step too long for 64-bit femtoseconds: {first_fs=}"
    durations_fs = first_fs + growth_fs * np.arange(steps, dtype=np.int64)
    return np.cumsum(durations_fs // FEMTOSECONDS_PER_NS, dtype=np.int64)
