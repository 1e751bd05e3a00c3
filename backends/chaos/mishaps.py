"""What can befall real workers, and the schedule of a round: drawn by a seed, so that a failing round can be run again.

This module must not know how a mishap is brought about.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

Kind: TypeAlias = Literal["kill", "hang", "half_write", "lease", "drop", "delay", "damage", "garbage", "stranger"]

KINDS: dict[Kind, str] = {
    "kill": "SIGKILL of a worker",
    "hang": "SIGSTOP of a worker",
    "half_write": "SIGKILL of the mover of a KV transfer half of whose bytes have arrived",
    "lease": "a reader of KV that stops for longer than the lease of what it reads, and goes on",
    "drop": "every KV connection between two workers broken",
    "delay": "a connection that lets nothing pass for a while",
    "damage": "a flipped bit in a worker's words to the scheduler, or in the answer",
    "garbage": "random bytes to every port that listens",
    "stranger": "somebody who does not know the secret asks to be a worker",
}
FATAL: tuple[Kind, ...] = ("kill", "hang", "half_write", "damage")
"""Those after which a worker is lost; the others must cost no worker."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """``after_s`` the one before. ``choice`` picks whom it befalls; ``seconds`` is how long a delay lasts."""

    kind: Kind
    after_s: float
    choice: int
    seconds: float


def draw_mishaps(seed: int, round_number: int, count: int, kinds: tuple[Kind, ...] = tuple(KINDS)) -> list[Mishap]:
    """The mishaps of one round: ``count`` of them, no kind twice before every kind has come once."""
    random = np.random.default_rng(np.random.SeedSequence([seed, round_number]))
    order: list[Kind] = []
    while len(order) < count:
        order.extend(kinds[index] for index in random.permutation(len(kinds)))
    return [
        Mishap(kind, random.uniform(0.02, 0.3), int(random.integers(1 << 30)), random.uniform(0.05, 0.4))
        for kind in order[:count]
    ]
