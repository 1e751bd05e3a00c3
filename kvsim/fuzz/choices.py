"""Where a schedule takes its random decisions from: a seed, or a tape of decisions that were taken before.

Every decision is a number below a small bound, and all of them are noted. A tape can be cut anywhere and still is one:
what it says is taken modulo the bound, and behind its end every decision is 0. So a schedule that failed is made
shorter by cutting its tape. Who decides makes 0 the dull choice.

It must not know what is decided.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

_Item = TypeVar("_Item")


class Choices:
    """Decisions drawn from ``seed``, or taken from ``tape`` if there is one. ``taken`` are those so far."""

    def __init__(self, seed: int = 0, tape: Sequence[int] | None = None) -> None:
        self.taken: list[int] = []
        self._draw = Random(seed).random
        self._tape = tape

    def below(self, bound: int) -> int:
        """A number from 0 to ``bound - 1``."""
        if self._tape is None:
            choice = int(self._draw() * bound)
        else:
            at = len(self.taken)
            choice = self._tape[at] % bound if at < len(self._tape) else 0
        self.taken.append(choice)
        return choice

    def pick(self, items: Sequence[_Item]) -> _Item:
        """One of the items; the first is the dull one."""
        return items[self.below(len(items))]

    def between(self, low: int, high: int) -> int:
        """A number from ``low`` to ``high``."""
        return low + self.below(high - low + 1)

    def happens(self, permille: int) -> bool:
        """Whether something that is not dull happens."""
        return self.below(1000) >= 1000 - permille
