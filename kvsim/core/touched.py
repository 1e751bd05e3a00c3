"""Workers on which something has changed, and whose turn comes first: those marked so by id, then the others by id.

A bit for each worker, so that looking for one costs next to nothing where there is none, which is the usual case. It
must not know why somebody's turn comes first.
"""

from kvsim.core.messages import WorkerId


class Touched:
    """A set of workers, ids below ``workers``."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._bits = 0  # the lower, the sooner

    def add(self, worker: WorkerId, *, first: bool) -> None:
        """Something has changed on this worker. ``first`` is the same each time, until it is dropped."""
        self._bits |= 1 << (worker if first else worker + self._workers)

    def drop(self, worker: WorkerId) -> None:
        """What has changed there matters no more."""
        self._bits &= ~(1 << worker | 1 << worker + self._workers)

    def pop(self) -> WorkerId | None:
        """Remove and return the worker whose turn it is; None if there is none."""
        bits = self._bits
        if not bits:
            return None
        self._bits = bits & (bits - 1)
        place = (bits & -bits).bit_length() - 1
        return WorkerId(place if place < self._workers else place - self._workers)
