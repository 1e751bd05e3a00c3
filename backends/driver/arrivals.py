"""Requests that are to arrive at given instants: how a recorded or generated load is played to real workers.

It must not know a clock: instants are given.
"""

from collections.abc import Iterable

from backends.driver.requests import Submission


class Arrivals:
    """Submissions by their instants, in nanoseconds of the driver's clock; those of one instant keep their order."""

    def __init__(self, arrivals: Iterable[tuple[int, Submission]] = ()) -> None:
        self._arrivals = sorted(arrivals, key=lambda arrival: arrival[0])
        self._next = 0

    @property
    def next_ns(self) -> int | None:
        """When the next one is due; None if there is none."""
        return self._arrivals[self._next][0] if self._next < len(self._arrivals) else None

    def due(self, now_ns: int) -> list[Submission]:
        """Those whose instant has come, each once."""
        first = self._next
        while self._next < len(self._arrivals) and self._arrivals[self._next][0] <= now_ns:
            self._next += 1
        return [submission for _, submission in self._arrivals[first : self._next]]
