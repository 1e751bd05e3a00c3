"""Whether measured times can be true: held against what the datasheet of the GPU allows.

A column in the wrong unit is off by 1000 one way or the other. One way it is faster than the hardware can be, the other
way it reaches less than a hundredth of it; both are told before anything is fitted. It must not know files.
"""

from typing import NamedTuple

import numpy as np

from kvsim.profile.least_squares import Floats

_FASTER = 1.15
"""Boost clocks beyond the datasheet's and timers explain this much, no more."""

_SLOWER = 0.01
"""Kernels of some size reach more of the datasheet than this, whatever wrote them."""

_LARGE_S = 50e-6
"""What the hardware needs at least for a kernel to be judged as too slow: launches hide smaller ones."""


class DeviceName(NamedTuple):
    """What a device calls itself contains ``words``; ``preset`` describes it."""

    words: str
    preset: str


DEVICES = (
    DeviceName("H100 80GB HBM3", "h100-sxm"),
    DeviceName("H200", "h200-sxm"),
    DeviceName("B200", "b200"),
    DeviceName("A100-SXM4-80GB", "a100-sxm-80g"),
    DeviceName("A10G", "a10g"),
    DeviceName("L40S", "l40s"),
    DeviceName("RTX 4090", "rtx-4090"),
)


def preset_of(device: str) -> str | None:
    """The name of the preset of a device that calls itself ``device``; None for one that is not known."""
    return next((known.preset for known in DEVICES if known.words.lower() in device.lower()), None)


def implausible(what: str, least_s: Floats, found_s: Floats) -> str | None:
    """What is wrong with the times ``found_s`` of kernels that the hardware needs ``least_s`` for; None if nothing is.

    The median decides on the unit, so that single outliers stay the business of whoever fits.
    """
    if not len(found_s):
        return None
    if bool((found_s <= 0).any()) or not bool(np.isfinite(found_s).all()):
        wrong = int((~((found_s > 0) & np.isfinite(found_s))).sum())
        return f"{what}: {wrong} times are not positive numbers, expected all of them to be"
    share = least_s / found_s
    large = least_s >= _LARGE_S
    if bool(large.any()):
        middle = float(np.median(share[large]))
        if middle > _FASTER:
            return (
                f"{what}: times are {middle:.3g} times as short as the hardware allows by its datasheet (median of "
                f"{int(large.sum()):,} large ones): is the unit wrong by a factor of 1000?"
            )
        if middle < _SLOWER:
            return (
                f"{what}: times reach {middle:.2g} of what the datasheet allows (median of {int(large.sum()):,} large "
                "ones): is the unit wrong by a factor of 1000?"
            )
    fast = share > _FASTER
    if bool(fast.mean() > 0.05):
        return (
            f"{what}: {int(fast.sum()):,} of {len(share):,} times are shorter than the hardware allows by its "
            "datasheet: are they of another GPU, or is a dimension missing?"
        )
    return None
