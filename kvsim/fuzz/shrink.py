"""Makes a schedule that fails short enough to be read: fewer requests first, then a shorter tape.

What is left must fail in the same place. The tape is cut as in delta debugging (Zeller and Hildebrandt, IEEE
Transactions on Software Engineering 28(2), 2002): pieces are left out, halves first, then ever smaller ones; then
single decisions are made the dull one. It must not know what a decision is about.
"""

from collections.abc import Callable, Sequence

from kvsim.fuzz.language import write_story
from kvsim.fuzz.schedules import Failure, Played, play

SMALL_SEEDS = 300
"""So many small schedules are looked through for one that fails in the same place."""
PLAYS_MAX = 1500
"""So often a tape is played in all."""

Tape = Sequence[int]


def shrink(failure: Failure) -> Played:
    """The shortest schedule found that fails as this one does."""
    best = _fewer_requests(failure)
    assert best.failure is not None, f"seed {failure.seed} does not fail any more"
    mode, requests = failure.mode, best.failure.requests
    plays = 0

    def attempt(tape: Tape) -> Played | None:
        nonlocal plays
        plays += 1
        played = play(failure.seed, mode, requests, tape, unequal_blocks=failure.unequal_blocks)
        same = played.failure is not None and played.failure.where == failure.where
        return played if same and _length(played) <= _length(best) else None

    def enough() -> bool:
        return plays >= PLAYS_MAX

    again = attempt(best.tape)
    assert again is not None, f"seed {failure.seed} does not fail when it is played from its tape"
    best = again
    best = _cut(best, attempt, enough)
    return _flatten(best, attempt, enough)


def story_of(played: Played) -> str:
    """The story of a schedule that failed. Its transcript is that of the scheduler that failed."""
    failure = played.failure
    assert failure is not None, "a schedule that did not fail"
    about = [
        f"Found by kvsim fuzz in the schedules of seed {failure.seed}, {failure.mode}, and made short.",
        f"{failure.where}: {failure.message}"[:110].replace("\n", " "),
    ]
    return write_story(played.world.spec, played.world.records, about)


def _length(played: Played) -> tuple[int, int]:
    return len(played.world.records), len(played.tape)


def _fewer_requests(failure: Failure) -> Played:
    """The shortest of some small schedules that fail in the same place; the schedule itself if none does."""
    found: list[Played] = []
    for requests in (1, 2, 3, 5, 8):
        for seed in range(failure.seed, failure.seed + SMALL_SEEDS):
            played = play(seed, failure.mode, requests, unequal_blocks=failure.unequal_blocks)
            if played.failure is not None and played.failure.where == failure.where:
                found.append(played)
        if found:
            return min(found, key=_length)
    return play(failure.seed, failure.mode, failure.requests, unequal_blocks=failure.unequal_blocks)


def _cut(best: Played, attempt: Callable[[Tape], Played | None], enough: Callable[[], bool]) -> Played:
    """Leave out pieces of the tape, halves first."""
    piece = max(1, len(best.tape) // 2)
    while not enough():
        at, shorter = 0, False
        while at < len(best.tape) and not enough():
            played = attempt([*best.tape[:at], *best.tape[at + piece :]])
            if played is None or _length(played) == _length(best):
                at += piece
            else:
                best, shorter = played, True
        if piece == 1 and not shorter:
            break
        piece = max(1, piece // 2)
    return best


def _flatten(best: Played, attempt: Callable[[Tape], Played | None], enough: Callable[[], bool]) -> Played:
    """Make decisions the dull one, where that does not make it longer."""
    at = 0
    while at < len(best.tape) and not enough():
        if best.tape[at]:
            played = attempt([*best.tape[:at], 0, *best.tape[at + 1 :]])
            best = best if played is None else played
        at += 1
    return best
