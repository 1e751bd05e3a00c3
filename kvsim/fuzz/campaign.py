"""Many schedules on all cores, up to the first that fails.

Seeds are handed out in batches; what is being played when one fails, or when the time is over, is played to its end, so
the seeds that were covered are always one range. It must not know what a schedule is.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from kvsim.core.cluster import TransferMode
from kvsim.fuzz.schedules import Failure, Tally, play_all
from kvsim.fuzz.worlds import MODES
from kvsim.parent_watch import end_with_parent

BATCH = 50
SECONDS_PER_HOUR = 3600

Advance = Callable[[Tally], None]


@dataclass(frozen=True, slots=True)
class Campaign:
    """What the schedules of seeds ``start`` to ``end - 1`` came to, and how long that took. If one failed, those of its
    batch behind it were not played."""

    start: int
    end: int
    tally: Tally
    duration_s: float

    @property
    def failure(self) -> Failure | None:
        """The failure of the lowest seed."""
        return min(self.tally.failures, key=lambda failure: failure.seed, default=None)

    @property
    def schedules_per_hour(self) -> float:
        """How fast it went."""
        return self.tally.schedules * SECONDS_PER_HOUR / self.duration_s


def run_campaign(
    start: int,
    seeds: int,
    jobs: int = 1,
    minutes: float | None = None,
    modes: Sequence[TransferMode] = MODES,
    advance: Advance = lambda _tally: None,
    *,
    unequal_blocks: bool = False,
) -> Campaign:
    """Play ``seeds`` schedules, or as many as begin within ``minutes``. ``advance`` is shown the sum after each batch.
    With ``unequal_blocks`` the blocks of each worker have a length of their own.

    With one job everything happens in this process.
    """
    began_s = time.monotonic()
    end_s = None if minutes is None else began_s + 60 * minutes
    tally = Tally()
    end = start
    batches = (range(first, min(first + BATCH, start + seeds)) for first in range(start, start + seeds, BATCH))

    def wanted() -> Iterator[range]:
        nonlocal end
        for batch in batches:
            if tally.failures or (end_s is not None and time.monotonic() >= end_s):
                return
            end = batch.stop
            yield batch

    play_batch = partial(play_all, modes=tuple(modes), unequal_blocks=unequal_blocks)
    for part in map(play_batch, wanted()) if jobs == 1 else _on_processes(wanted(), play_batch, jobs):
        tally.add(part)
        advance(tally)
    return Campaign(start, end, tally, time.monotonic() - began_s)


def _on_processes(batches: Iterator[range], play_batch: Callable[[range], Tally], jobs: int) -> Iterator[Tally]:
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin) as pool:
        playing: set[Future[Tally]] = set()
        try:
            while True:
                while len(playing) < 2 * jobs and (batch := next(batches, None)) is not None:
                    playing.add(pool.submit(play_batch, batch))
                if not playing:
                    return
                done, playing = wait(playing, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """A process ends with the one that started it, which alone hears of Ctrl-C."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
