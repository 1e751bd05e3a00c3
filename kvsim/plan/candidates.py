"""Which layouts are searched, in which order: the best by rate matching, then up the hill from the best one found.

It must not know how a goodput is measured or what is shown of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kvsim.core.cluster import TransferMode
from kvsim.plan.layouts import Layout, neighbours
from kvsim.plan.search import TOLERANCE, Found

SPLITS, COLOCATED = 4, 2
"""Layouts that are searched for what rate matching says of them."""
PROMISING_SHARE = 0.75
CLIMBS = 4
"""Rounds of neighbours that are looked at."""

Measure = Callable[[Sequence[Layout], float, bool], Mapping[Layout, Found]]
"""Searches layouts; those below the given goodput only coarsely. The flag says that they are expected to be near it."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """Layouts with the goodput that rate matching expects, best first."""

    disaggregated: tuple[tuple[Layout, float], ...]
    colocated: tuple[tuple[Layout, float], ...]

    @property
    def best_per_s(self) -> float:
        """The largest goodput expected."""
        return max((expected for _, expected in (*self.disaggregated[:1], *self.colocated[:1])), default=0.0)


def rank(layouts: Sequence[Layout], expected_per_s: Callable[[Layout], float]) -> Ranked:
    """Order layouts by what is expected of them; of equals those with fewer GPUs, then by name, come first."""
    rated = [(layout, expected_per_s(layout)) for layout in layouts]
    rated.sort(key=lambda pair: (-pair[1], pair[0].gpus, pair[0].name))
    return Ranked(
        tuple(pair for pair in rated if not pair[0].colocated), tuple(pair for pair in rated if pair[0].colocated)
    )


def best_of(found: Mapping[Layout, Found]) -> Layout:
    """The layout with the largest goodput; of equals the one with fewer GPUs, then by name."""
    return min(found, key=lambda layout: (-found[layout].goodput_per_s, layout.gpus, layout.name))


def explore(
    ranked: Ranked, gpus: int, modes: Sequence[TransferMode], measure: Measure, expect: Callable[[Layout], float]
) -> dict[Layout, Found]:
    """Search until the best split has only worse neighbours, then it in all ``modes``; returns all that was searched.

    The neighbours are searched again in a mode that does better by more than the tolerance of a search. ``expect`` is
    the goodput that rate matching sees in a layout, corrected by what was found so far: a neighbour of which much less
    is expected than was found is not searched.
    """
    first = [pair[0] for pair in (*ranked.disaggregated[:1], *ranked.colocated[:1])]
    others = [pair[0] for pair in (*ranked.disaggregated[1:SPLITS], *ranked.colocated[1:COLOCATED])]
    found = dict(measure(first, 0.0, False))
    found.update(measure(others, _best_per_s(found), False))
    _climb(found, gpus, measure, expect)
    splits = _splits(found)
    if _best_per_s(splits):
        best = best_of(splits)
        moved = [best.with_mode(mode) for mode in modes if mode != best.mode]
        before = found[best].goodput_per_s
        found.update(measure(moved, before, True))
        if _best_per_s(_splits(found)) > before * (1 + TOLERANCE):
            _climb(found, gpus, measure, expect)
    return found


def _climb(found: dict[Layout, Found], gpus: int, measure: Measure, expect: Callable[[Layout], float]) -> None:
    for _ in range(CLIMBS):
        splits = _splits(found)
        if not splits:
            return
        hopeless = PROMISING_SHARE * _best_per_s(splits)
        around = neighbours(best_of(splits), gpus)
        unknown = [layout for layout in around if layout not in found and expect(layout) >= hopeless]
        if not unknown:
            return
        found.update(measure(unknown, found[best_of(splits)].goodput_per_s, False))


def _splits(found: Mapping[Layout, Found]) -> dict[Layout, Found]:
    return {layout: each for layout, each in found.items() if not layout.colocated}


def _best_per_s(found: Mapping[Layout, Found]) -> float:
    return max((each.goodput_per_s for each in found.values()), default=0.0)
