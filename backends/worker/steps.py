"""One forward pass as the engine sees it: which tokens go in at which positions, and which tokens come out.

The engine is written against ``StepModel``; ``backends.worker.language_model`` carries it out on a transformer with a
paged cache. This module must not know torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from backends.control.messages import Sampling

OnLayer: TypeAlias = Callable[[int], None]
"""Is told the index of each layer, in order, once the KV of the whole batch is in the blocks up to and with it."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How the next token of a request is drawn. ``place`` is its place in the output, from 0: a draw depends on
    seed and place alone, so it is the same on whatever worker it happens, and again after a preemption."""

    sampling: Sampling
    place: int


@dataclass(frozen=True, slots=True)
class StepPart:
    """Some consecutive tokens of one request. ``block_table`` has blocks for all positions up to the last of these
    tokens; with ``draw`` the token that follows them is drawn."""

    first_token: int
    token_ids: Sequence[int]
    block_table: Sequence[int]
    draw: Draw | None


class StepModel(Protocol):
    """A model together with the KV cache that it reads and writes."""

    @property
    def layers(self) -> int:
        """How often ``on_layer`` is called in a step."""
        ...

    def step(self, parts: Sequence[StepPart], on_layer: OnLayer) -> list[int]:
        """Compute all parts in one pass. Returns the tokens drawn, in the order of the parts that have a draw; the KV
        of all of them is in the cache when it returns."""
        ...
