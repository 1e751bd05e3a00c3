"""Kernel times between measured shapes: each row's ratio to the roofline, interpolated along every dimension.

What a law leaves is smooth where the time itself is not, so ratios (their logarithms) are interpolated. Along each
dimension the nearest measured shapes that differ in it alone give one answer, on the logarithm of that dimension; the
answers are averaged with weights by how well each dimension answered for measured shapes left out of the table. Beyond
the measured range the nearest ratio stands, which leaves extrapolation to the law; ``Answer.outside`` tells it. It must
not know files.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim.profile.laws import predicted_seconds
from kvsim.profile.least_squares import Floats
from kvsim.sim.hardware import GpuSpec

if TYPE_CHECKING:
    import pandas as pd

Places = npt.NDArray[np.intp]

DIMENSIONS = {
    "gemm": ("m", "n", "k"),
    "context_attention": ("tokens", "batch", "heads", "kv_heads"),
    "generation_attention": ("tokens", "batch", "heads", "kv_heads"),
}
"""What is interpolated in each table; all other conditions must be as measured."""


_POWERS = (0.0, 0.5, 1.0, 2.0)
_NEAR = 0.01
"""Shapes that are nearer than this, 1 %, count as this far: kernels differ by chance."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``seconds`` of each shape asked for; NaN for one that no measured shape is near in any dimension. ``outside``
    says which lie beyond the measured range of some dimension."""

    seconds: Floats
    outside: npt.NDArray[np.bool_]


class KernelTable:
    """One table of kernels with the law that it is compared with."""

    def __init__(self, name: str, table: "pd.DataFrame", gpu: GpuSpec) -> None:
        self._name = name
        self._table = table.reset_index(drop=True)
        self._gpu = gpu
        self._ratios: Floats = np.log(
            self._table["us"].to_numpy(dtype=np.float64) / 1e6 / predicted_seconds(name, table, gpu)
        )
        self._keys = {
            dimension: [column for column in self._table.columns if column not in (dimension, "us")]
            for dimension in DIMENSIONS[name]
        }
        self._groups = {
            dimension: self._table.groupby(keys, sort=False).indices for dimension, keys in self._keys.items()
        }
        self._weights, self._power = self._weigh()

    def times(self, shapes: "pd.DataFrame") -> Answer:
        """Of shapes with the table's conditions as columns."""
        answers, gaps = self._answers(shapes, leave_out=False)
        mean = _averaged(answers, gaps, self._weights, self._power)
        outside = np.zeros(len(shapes), dtype=bool)
        for dimension in DIMENSIONS[self._name]:
            known = self._table[dimension]
            outside |= ((shapes[dimension] < known.min()) | (shapes[dimension] > known.max())).to_numpy()
        seconds: Floats = np.exp(mean) * predicted_seconds(self._name, shapes, self._gpu)
        return Answer(seconds, outside)

    def _weigh(self) -> tuple[Floats, float]:
        """For each dimension the inverse of its mean squared error where it answers for measured shapes left out, and
        the power of the distance to the neighbours that makes the average of all best there."""
        answers, gaps = self._answers(self._table, leave_out=True)
        errors = np.abs(answers - self._ratios)
        known = ~np.isnan(errors)
        weights = np.array(
            [
                1.0 / max(float(row[mask].mean()) ** 2, 1e-8) if mask.any() else 0.0
                for row, mask in zip(errors, known, strict=True)
            ]
        )
        missed = [
            float(np.nanmean(np.abs(_averaged(answers, gaps, weights, power) - self._ratios))) for power in _POWERS
        ]
        return weights, _POWERS[int(np.argmin(missed))]

    def _answers(self, shapes: "pd.DataFrame", *, leave_out: bool) -> tuple[Floats, Floats]:
        """A row for each dimension: what its neighbours say of each shape, NaN where it has none, and how far the
        nearer one is. With ``leave_out`` the shapes are those of the table, and none answers for itself."""
        rows, distances = [], []
        for dimension in DIMENSIONS[self._name]:
            keys, groups = self._keys[dimension], self._groups[dimension]
            found, gap = np.full(len(shapes), np.nan), np.full(len(shapes), 1.0)
            own = np.log(self._table[dimension].to_numpy(dtype=np.float64))
            asked = np.log(shapes[dimension].to_numpy(dtype=np.float64))
            for key, places in shapes.groupby(keys, sort=False).indices.items():
                if key not in groups:
                    continue
                known = np.asarray(groups[key])
                order = known[np.argsort(own[known], kind="stable")]
                if leave_out:
                    if len(order) > 1:
                        found[order] = _between_neighbours(own[order], self._ratios[order])
                        steps = np.diff(own[order])
                        gap[order] = np.minimum(np.append(steps, np.inf), np.insert(steps, 0, np.inf))
                else:
                    found[places] = np.interp(asked[places], own[order], self._ratios[order])
                    gap[places] = np.min(np.abs(asked[places][:, None] - own[order][None, :]), axis=1)
            rows.append(found)
            distances.append(gap)
        return np.array(rows), np.array(distances)


def _averaged(answers: Floats, gaps: Floats, weights: Floats, power: float) -> Floats:
    """The answers' mean by ``weights`` and by the inverse ``power`` of their distances; NaN where none is there."""
    told = ~np.isnan(answers)
    counted = np.where(told, weights[:, None] / np.maximum(gaps, _NEAR) ** power, 0.0)
    total = counted.sum(axis=0)
    sums = (np.where(told, answers, 0.0) * counted).sum(axis=0)
    return np.asarray(np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0), dtype=np.float64)


def _between_neighbours(places: Floats, values: Floats) -> Floats:
    """For each place what the line between the two beside it says; at the ends the one beside it."""
    if len(places) == 2:
        return values[::-1].copy()
    found = np.empty_like(values)
    share = (places[1:-1] - places[:-2]) / np.maximum(places[2:] - places[:-2], 1e-12)
    found[1:-1] = values[:-2] + share * (values[2:] - values[:-2])
    found[0], found[-1] = values[1], values[-2]
    return found
