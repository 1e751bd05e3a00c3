"""Closed forms for a run of decode steps whose cost grows linearly.

The n-th step boundary of a run comes ``(carry_fs + n * first_fs + growth_fs * n * (n - 1) / 2) // 10**6`` nanoseconds
after its start, the definition that ``kvsim.core.messages.DecodeAdvanced`` gives. What is left below a nanosecond is
carried into the worker's next run, so a run covered in one go and one that is walked step by step have the same
boundaries. Everything here is exact integer arithmetic. It must not know what a step computes.
"""

from math import sqrt
from typing import Final

from kvsim.core.messages import FEMTOSECONDS_PER_NS

FLOAT_ERROR_MAX: Final = 1e-12
"""Of a few products and sums of floats, relative to the largest of them: some 1e-15 in truth."""


def steps_total_fs(steps: int, first_fs: int, growth_fs: int, carry_fs: int) -> int:
    """Femtoseconds from the start of a run to the boundary after ``steps`` steps, what was carried in included: an
    arithmetic series."""
    return carry_fs + _times(steps, first_fs) + growth_fs * (steps * (steps - 1) // 2)


def _times(steps: int, duration_fs: int) -> int:
    """``steps * duration_fs`` as two products: compiled, one of a factor beyond 31 bits takes many times as long."""
    return (steps * (duration_fs >> 24) << 24) + steps * (duration_fs & 0xFF_FFFF)


def steps_begun_before(elapsed_ns: int, steps_max: int, first_fs: int, growth_fs: int, carry_fs: int) -> int:
    """The smallest number of steps whose boundary comes at or after ``elapsed_ns``, or ``steps_max`` if none does.

    A boundary reaches ``elapsed_ns`` exactly if its femtoseconds do, so this is the root of a quadratic, rounded up. As
    what is under the root exceeds 64 bits, the root comes as a float, which may be off; ``_reaches`` then decides.
    """
    missing_fs = elapsed_ns * FEMTOSECONDS_PER_NS - carry_fs
    if missing_fs <= 0:
        return 0
    if growth_fs == 0:
        steps = -(-missing_fs // first_fs) if first_fs else steps_max
    else:
        linear_fs, doubled_fs = first_fs + first_fs - growth_fs, missing_fs + missing_fs
        wide = float(linear_fs)
        root = sqrt(wide * wide + 4.0 * growth_fs * doubled_fs)
        steps = int(2.0 * doubled_fs / (wide + root)) if wide > 0.0 else int((root - wide) / (2.0 * growth_fs))
        while not _reaches(steps, linear_fs, growth_fs, doubled_fs):
            steps += 1
        while steps and _reaches(steps - 1, linear_fs, growth_fs, doubled_fs):
            steps -= 1
    return min(steps, steps_max)


def _reaches(steps: int, linear_fs: int, growth_fs: int, doubled_fs: int) -> bool:
    """Whether ``steps * (linear_fs + growth_fs * steps)``, twice the sum of a series, is at least ``doubled_fs``.

    Exact: floats, which cost a fraction of such large integers, decide only where they are off by far less than the
    difference.
    """
    linear, grown = float(steps) * linear_fs, float(steps) * growth_fs * steps
    beyond = linear + grown - doubled_fs
    if abs(beyond) > FLOAT_ERROR_MAX * (abs(linear) + grown + doubled_fs):
        return beyond > 0.0
    return steps * (linear_fs + growth_fs * steps) >= doubled_fs
