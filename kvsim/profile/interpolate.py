"""Kernel times between measured shapes: each row's ratio to the roofline, from the measured shapes around it.

What a law leaves is smooth where the time itself is not, so ratios (their logarithms) are interpolated, over the places
of ``kvsim.profile.shape_places`` as ``kvsim.profile.kriging`` says. Beyond the measured range of a dimension the ratio
at its end stands, which leaves extrapolation to the law; ``Answer.outside`` tells it. It must not know files.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim.profile.kriging import Places, estimate
from kvsim.profile.laws import predicted_seconds
from kvsim.profile.least_squares import Floats
from kvsim.profile.shape_places import places
from kvsim.sim.hardware import GpuSpec

if TYPE_CHECKING:
    import pandas as pd

_ATTENTION = ("tokens", "batch", "heads", "kv_heads", "head_dim")
DIMENSIONS = {"gemm": ("m", "n", "k"), "context_attention": _ATTENTION, "generation_attention": _ATTENTION}
"""What is interpolated in each table; all other conditions must be as measured."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``seconds`` of each shape asked for; NaN for one whose other conditions were not measured. ``outside`` says which
    lie beyond the measured range of some dimension."""

    seconds: Floats
    outside: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Group:
    """Measured shapes under the same conditions: the range of each dimension, places, and logarithms of ratios."""

    ranges: dict[str, tuple[int, int]]
    places: Places
    ratios: Floats


class KernelTable:
    """One table of kernels with the law that it is compared with."""

    def __init__(self, name: str, table: "pd.DataFrame", gpu: GpuSpec) -> None:
        self._name = name
        self._gpu = gpu
        self._conditions = [column for column in table.columns if column not in (*DIMENSIONS[name], "us")]
        ratios = np.log(table["us"].to_numpy(dtype=np.float64) / 1e6 / predicted_seconds(name, table, gpu))
        found = places(name, table, gpu)
        self._groups: dict[Hashable, _Group] = {}
        for key, members in table.groupby(self._conditions, sort=False).indices.items():
            rows = np.asarray(members, dtype=np.intp)
            measured = table.iloc[rows]
            ranges = {one: (int(measured[one].min()), int(measured[one].max())) for one in DIMENSIONS[name]}
            self._groups[key] = _Group(ranges, found.at(rows), ratios[rows])

    def times(self, shapes: "pd.DataFrame") -> Answer:
        """Of shapes with the table's conditions as columns."""
        ratios = np.full(len(shapes), np.nan)
        outside = np.zeros(len(shapes), dtype=bool)
        for key, rows in shapes.groupby(self._conditions, sort=False).indices.items():
            group = self._groups.get(key)
            if group is None:
                continue
            asked = shapes.iloc[rows]
            within = asked.assign(**{one: asked[one].clip(*ends) for one, ends in group.ranges.items()})
            outside[rows] = (within != asked).any(axis=1).to_numpy()
            ratios[rows] = estimate(group.places, group.ratios, places(self._name, within, self._gpu))
        seconds: Floats = np.exp(ratios) * predicted_seconds(self._name, shapes, self._gpu)
        return Answer(seconds, outside)
