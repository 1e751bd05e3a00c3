"""Values between measured places: each is the mean of its neighbours, weighted by how alike they and it are.

Ordinary kriging (Matheron, Economic Geology 58, 1963) over the nearest measured places: two values are as alike as
``exp(-d)``, where d is the sum of the differences of their coordinates, and each measured value is disturbed by chance
as well. Weights add up to 1, and a place that was measured itself has its own value. It must not know what the
coordinates mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvsim.profile.least_squares import Floats

_NEIGHBOURS = 32
_CHANCE = 0.1
"""Share of the spread between far places that one place shows when it is measured again."""

_CHUNK = 256
"""Places that are answered at once; bounds memory."""


@dataclass(frozen=True, slots=True)
class Places:
    """A row for each place: ``near`` by which neighbours are found, ``alike`` in units of what makes values unlike."""

    near: Floats
    alike: Floats

    def __len__(self) -> int:
        return len(self.near)

    def at(self, rows: npt.NDArray[np.intp]) -> "Places":
        """Only these."""
        return Places(self.near[rows], self.alike[rows])


def estimate(known: Places, values: Floats, asked: Places) -> Floats:
    """A value for each place of ``asked``, from the ``values`` of at least one ``known`` place."""
    assert len(known) == len(values) > 0, (len(known), len(values))
    found = np.empty(len(asked))
    for rows in _chunks(len(asked)):
        nearest = _nearest(known.near, asked.near[rows])
        found[rows] = _mean(known.alike[nearest], values[nearest], asked.alike[rows])
    return found


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))


def _nearest(known: Floats, asked: Floats) -> npt.NDArray[np.intp]:
    """For each place asked for, the known ones that are nearest (Euclid), in no order."""
    count = min(_NEIGHBOURS, len(known))
    if count == len(known):
        return np.broadcast_to(np.arange(count), (len(asked), count))
    one, other = known.astype(np.float32), asked.astype(np.float32)  # near enough to choose, and twice as quick
    squares = (one**2).sum(axis=1)[None, :] - 2.0 * other @ one.T
    return np.asarray(np.argpartition(squares, count - 1, axis=1)[:, :count], dtype=np.intp)


def _mean(places: Floats, values: Floats, asked: Floats) -> Floats:
    """``places`` has a row of neighbours for each row of ``values`` and each place of ``asked``."""
    count = values.shape[1]
    among = np.exp(-_distances(places[:, :, None, :], places[:, None, :, :]))
    here_distances = _distances(places, asked[:, None, :])
    here = np.exp(-here_distances) + _CHANCE * (here_distances == 0.0)  # a place that was measured shares its chance
    among[:, np.arange(count), np.arange(count)] += _CHANCE
    ones = np.ones_like(values)
    solved = np.linalg.solve(among, np.stack([values, ones], axis=-1))
    level = solved[..., 0].sum(axis=1) / solved[..., 1].sum(axis=1)
    return np.asarray(level + (here * (solved[..., 0] - level[:, None] * solved[..., 1])).sum(axis=1), dtype=np.float64)


def _distances(one: Floats, other: Floats) -> Floats:
    total = np.zeros(np.broadcast_shapes(one.shape, other.shape)[:-1])
    for column in range(one.shape[-1]):
        total += np.abs(one[..., column] - other[..., column])
    return total
