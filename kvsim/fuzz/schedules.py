"""One schedule by its number: played, judged, and played again from its tape.

It must not know how many there are.
"""

import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvsim.core.cluster import TransferMode
from kvsim.fuzz.choices import Choices
from kvsim.fuzz.world import World
from kvsim.fuzz.worlds import MODES, REQUESTS, random_world


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in a schedule. ``where`` names the kind of the error and the function that raised it: two
    failures with the same are taken for one."""

    seed: int
    mode: TransferMode
    unequal_blocks: bool
    requests: int
    where: str
    message: str
    calls: int

    def __str__(self) -> str:
        return f"seed {self.seed} ({self.mode}), call {self.calls}: {self.where}: {self.message}"


@dataclass(slots=True)
class Tally:
    """What schedules came to, added up: ``happened`` counts mishaps by kind, ``ends`` requests by why they ended."""

    schedules: int = 0
    calls: int = 0
    events: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Take in what others came to."""
        self.schedules += other.schedules
        self.calls += other.calls
        self.events += other.events
        self.happened.update(other.happened)
        self.ends.update(other.ends)
        self.modes.update(other.modes)
        self.failures += other.failures


@dataclass(frozen=True, slots=True)
class Played:
    """A schedule that was played as far as it went, and the decisions that it took."""

    world: World
    tape: tuple[int, ...]
    failure: Failure | None


def mode_of(seed: int, modes: Sequence[TransferMode] = MODES) -> TransferMode:
    """Each seed has one mode: in turn."""
    return modes[seed % len(modes)]


def play(
    seed: int,
    mode: TransferMode,
    requests: int = REQUESTS,
    tape: Sequence[int] | None = None,
    *,
    unequal_blocks: bool = False,
) -> Played:
    """Play the schedule of a seed, or the one that a tape says; with ``unequal_blocks`` in another world.

    Whatever is raised is a failure of the schedule, for that is what is looked for: nothing is kept quiet.
    """
    choices = Choices(seed, tape)
    world = random_world(mode, choices, requests, unequal_blocks=unequal_blocks)
    failure = None
    try:
        world.play()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} in {place.name}"
        failure = Failure(seed, mode, unequal_blocks, requests, where, str(error)[:400], len(world.records))
    return Played(world, tuple(choices.taken), failure)


def play_all(seeds: Sequence[int], modes: Sequence[TransferMode] = MODES, *, unequal_blocks: bool = False) -> Tally:
    """Play these schedules, up to the first that fails."""
    tally = Tally()
    for seed in seeds:
        mode = mode_of(seed, modes)
        played = play(seed, mode, unequal_blocks=unequal_blocks)
        world = played.world
        tally.schedules += 1
        tally.calls += len(world.records)
        tally.events += sum([len(record.events) for record in world.records])
        tally.happened.update(world.happened)
        tally.ends.update(world.ground.ends.values())
        tally.modes[mode] += 1
        if world.ground.attendance.switched:
            tally.happened["role changed"] += world.ground.attendance.switched
        if played.failure is not None:
            tally.failures.append(played.failure)
            break
    return tally
