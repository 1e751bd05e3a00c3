"""What a calibration hands over: plain numbers as they were measured, before anything is fitted to them.

Measured on real workers that one scheduler drives, so every number holds what a run holds too: the control plane, the
threads of a worker, its driver. It must not know who measures, nor files or fits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from kvsim.profile.points import StepPoint


@dataclass(frozen=True, slots=True)
class TransferSample:
    """One transfer. ``moving_ns`` is what its mover says that it took, ``total_ns`` what the driver saw: from the turn
    that ordered it to the one that heard that the target has it."""

    size_bytes: int
    operations: int
    moving_ns: int
    total_ns: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """``alone``: steps of one worker that had the machine for itself. ``together[k]``: steps of workers while exactly
    k were busy. ``round_trips_ns``: what a prefill took beyond its step, from its order to its report as the driver
    sees it. ``gaps_ns``: what passed between two reports of a decode run beyond the later step. ``decisions_ns``: the
    mean turn of the scheduler in each part of the measurement. ``transfers`` are by transport. ``pack_bytes_per_s``: at
    which one thread gathers scattered blocks. ``other_cores``: that other processes kept busy meanwhile, on average.
    """

    alone: tuple[StepPoint, ...]
    together: Mapping[int, tuple[StepPoint, ...]]
    round_trips_ns: tuple[int, ...]
    gaps_ns: tuple[int, ...]
    decisions_ns: tuple[int, ...]
    transfers: Mapping[str, tuple[TransferSample, ...]]
    pack_bytes_per_s: float
    other_cores: float
