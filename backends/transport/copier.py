"""A thread that carries out copies between addresses of this process.

One transfer alone is one native call, which can be interrupted between two ranges. Several take turns, so that long
ones and short ones share the memory bandwidth as flows share a link. It must not know where the memory comes from.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from backends.transport.address_map import Addresses, Sizes
from backends.transport.batches import split_long
from backends.transport.copying import copy
from backends.transport.jobs import Job
from backends.transport.port import TransportError

_TURN_BYTES = 16 * 2**20
"""What is copied for one transfer while others wait, and the longest range: a few milliseconds, the time that a cancel
may take to work. Turns are long because the caches are cold for the interpreter after each."""

Copy: TypeAlias = Callable[[Addresses, Addresses, Sizes, bytearray], int]
"""Targets, sources, sizes, and a byte that another thread sets to end it early; how many ranges are copied, in order.
Raises TransportError when none of them is touched any more."""


@dataclass(slots=True, eq=False)
class _Copy:
    job: Job
    targets: Addresses
    sources: Addresses
    sizes: Sizes
    ends: Sizes  # bytes up to and including each range
    copied: Callable[[Job], None]
    at: int = 0  # ranges that are copied

    def turn(self, turn_bytes: int) -> int:
        """Where a turn that begins now should end."""
        moved_bytes = int(self.ends[self.at - 1]) if self.at else 0
        return int(np.searchsorted(self.ends, moved_bytes + turn_bytes, side="right"))


class Copier:
    """Sleeps while there is nothing to copy. Ends with ``close``; must be started. Memory of the CPU, unless something
    else ``copies``."""

    def __init__(self, copies: Copy = copy, turn_bytes: int = _TURN_BYTES) -> None:
        self._copy = copies
        self._turn_bytes = turn_bytes
        self._changed = threading.Condition()
        self._copies: deque[_Copy] = deque()
        self._current: _Copy | None = None
        self._interrupt = bytearray(1)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="transport-copy", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def add(
        self, job: Job, targets: Addresses, sources: Addresses, sizes: Sizes, copied: Callable[[Job], None]
    ) -> None:
        """Copy these ranges, then call ``copied(job)``, from the copier's thread. If ``job.stopped`` is set meanwhile,
        it is called soon, with the rest not copied."""
        targets, sources, sizes = split_long(targets, sources, sizes, self._turn_bytes)
        entry = _Copy(job, targets, sources, sizes, np.cumsum(sizes), copied)
        with self._changed:
            self._copies.append(entry)
            self._interrupt[0] = 1  # who is alone must share from now on
            self._changed.notify_all()

    def look_again(self) -> None:
        """``job.stopped`` of some job has been set."""
        with self._changed:
            self._interrupt[0] = 1

    def forget(self, concerned: Callable[[Job], bool]) -> None:
        """Drop these jobs without a call. None of their memory is touched any more when this returns."""
        with self._changed:
            self._interrupt[0] = 1
            self._copies = deque(entry for entry in self._copies if not concerned(entry.job))
            self._changed.wait_for(lambda: self._current is None or not concerned(self._current.job))
            self._copies = deque(entry for entry in self._copies if not concerned(entry.job))

    def close(self) -> None:
        """End the thread; what is left is dropped."""
        with self._changed:
            self._closed = True
            self._interrupt[0] = 1
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._copies or self._closed)
                if self._closed:
                    return
                entry = self._current = self._copies.popleft()
                self._interrupt[0] = 0
                end = entry.turn(self._turn_bytes) if self._copies else len(entry.sizes)
            if not entry.job.stopped:
                self._continue(entry, slice(entry.at, end))
            over = bool(entry.job.stopped) or entry.at == len(entry.sizes)
            with self._changed:
                self._current = None
                if not over:
                    self._copies.append(entry)
                self._changed.notify_all()
            if over:
                entry.copied(entry.job)

    def _continue(self, entry: _Copy, part: slice) -> None:
        try:
            entry.at += self._copy(entry.targets[part], entry.sources[part], entry.sizes[part], self._interrupt)
        except TransportError as error:
            entry.job.stopped = entry.job.stopped or ("failed", str(error))
