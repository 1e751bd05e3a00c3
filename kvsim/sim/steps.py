"""Closed forms for a run of decode steps whose cost grows linearly.

The n-th step boundary of a run comes ``(carry_fs + n * first_fs + growth_fs * n * (n - 1) / 2) // 10**6`` nanoseconds
after its start, the definition that ``kvsim.core.messages.DecodeAdvanced`` gives. What is left below a nanosecond is
carried into the worker's next run, so a run covered in one go and one that is walked step by step have the same
boundaries. Everything here is exact integer arithmetic. It must not know what a step computes.
"""

from math import isqrt

from kvsim.core.messages import FEMTOSECONDS_PER_NS


def steps_total_fs(steps: int, first_fs: int, growth_fs: int, carry_fs: int) -> int:
    """Femtoseconds from the start of a run to the boundary after ``steps`` steps, what was carried in included: an
    arithmetic series."""
    return carry_fs + steps * first_fs + growth_fs * (steps * (steps - 1) // 2)


def steps_begun_before(elapsed_ns: int, steps_max: int, first_fs: int, growth_fs: int, carry_fs: int) -> int:
    """The smallest number of steps whose boundary comes at or after ``elapsed_ns``, or ``steps_max`` if none does.

    A boundary reaches ``elapsed_ns`` exactly if its femtoseconds do, so this is the root of a quadratic, rounded up.
    """
    missing_fs = elapsed_ns * FEMTOSECONDS_PER_NS - carry_fs
    if missing_fs <= 0:
        return 0
    if growth_fs == 0:
        steps = -(-missing_fs // first_fs) if first_fs else steps_max
    else:
        linear = 2 * first_fs - growth_fs
        root = isqrt(linear * linear + 8 * growth_fs * missing_fs)
        steps = (root - linear) // (2 * growth_fs)  # floor of the positive root
        if steps * (linear + growth_fs * steps) < 2 * missing_fs:
            steps += 1
    return min(steps, steps_max)
