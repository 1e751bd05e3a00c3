"""Closed forms for a run of decode steps whose cost grows linearly.

The n-th step boundary of a run comes ``(carry_fs + n * first_fs + growth_fs * n * (n - 1) / 2) // 10**6`` nanoseconds
after its start, the definition that ``kvsim.core.messages.DecodeAdvanced`` gives. What is left below a nanosecond is
carried into the worker's next run, so a run covered in one go and one that is walked step by step have the same
boundaries. Everything here is exact integer arithmetic. It must not know what a step computes.
"""

from math import sqrt

from kvsim.core.messages import FEMTOSECONDS_PER_NS


def steps_total_fs(steps: int, first_fs: int, growth_fs: int, carry_fs: int) -> int:
    """Femtoseconds from the start of a run to the boundary after ``steps`` steps, what was carried in included: an
    arithmetic series."""
    return carry_fs + steps * first_fs + growth_fs * (steps * (steps - 1) // 2)


def steps_begun_before(elapsed_ns: int, steps_max: int, first_fs: int, growth_fs: int, carry_fs: int) -> int:
    """The smallest number of steps whose boundary comes at or after ``elapsed_ns``, or ``steps_max`` if none does.

    A boundary reaches ``elapsed_ns`` exactly if its femtoseconds do, so this is the root of a quadratic, rounded up. As
    what is under the root exceeds 64 bits, the root comes as a float, which may be off; integers then decide.
    """
    missing_fs = elapsed_ns * FEMTOSECONDS_PER_NS - carry_fs
    if missing_fs <= 0:
        return 0
    if growth_fs == 0:
        steps = -(-missing_fs // first_fs) if first_fs else steps_max
    else:
        linear, doubled_fs = 2 * first_fs - growth_fs, 2 * missing_fs
        wide = float(linear)
        root = sqrt(wide * wide + 4.0 * growth_fs * doubled_fs)
        steps = int(2.0 * doubled_fs / (wide + root)) if wide > 0.0 else int((root - wide) / (2.0 * growth_fs))
        while steps * (linear + growth_fs * steps) < doubled_fs:
            steps += 1
        while steps and (steps - 1) * (linear + growth_fs * (steps - 1)) >= doubled_fs:
            steps -= 1
    return min(steps, steps_max)
