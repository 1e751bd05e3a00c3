"""What chance has in store for each transfer. It must not know what a transfer is."""

from kvsim.core.messages import TransferId
from kvsim.sim.faults.plan import Chance, generator_of
from kvsim.sim.faults.spec import ChanceKind, ChanceSpec, Side

_BATCH = 1024


class _Numbers:
    """Uniform numbers in [0, 1) by index, drawn when they are asked for: the same whatever the order of asking."""

    def __init__(self, seed: int, entry: int, purpose: int) -> None:
        self._generator = generator_of(seed, entry, purpose)
        self._drawn: list[float] = []

    def __getitem__(self, index: int) -> float:
        while index >= len(self._drawn):
            self._drawn += self._generator.random(_BATCH).tolist()
        return self._drawn[index]


class Chances:
    """Asked by transfer id. Of several entries that would strike the same transfer alike, the first does."""

    def __init__(self, chances: tuple[Chance, ...]) -> None:
        self._rolls = [
            (chance, _Numbers(chance.seed, chance.entry, 0), _Numbers(chance.seed, chance.entry, 1))
            for chance in chances
        ]

    def strikes(self, transfer: TransferId, kind: ChanceKind, side: Side) -> tuple[ChanceSpec, int, float] | None:
        """Whether this happens to this transfer: what was asked for, by which entry, and how far it gets (a share in
        [0, 1))."""
        for chance, rolls, shares in self._rolls:
            spec = chance.spec
            if spec.kind == kind and spec.side == side and rolls[transfer] < spec.probability:
                return spec, chance.entry, shares[transfer]
        return None
