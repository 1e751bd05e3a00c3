"""Transfers of one peer cut into requests, which the streams to that peer take one by one.

Streams that are free take the next request of the next transfer in turn, so long transfers do not hold up short ones.
It must not know sockets.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from backends.transport.address_map import Addresses, Sizes
from backends.transport.batches import batch_bounds, split_long
from backends.transport.jobs import Job
from backends.transport.port import Outcome
from backends.transport.tcp_wire import BYTES_MAX, RANGES_MAX
from kvsim.core.integers import div_ceil

_SHARE_BYTES_MIN = 256 * 1024
"""Below this a transfer is not worth spreading over one stream more."""


@dataclass(slots=True, eq=False)
class _Transfer:
    job: Job
    local: Addresses
    remote: Addresses
    sizes: Sizes
    bounds: list[int]
    taken: int = 0
    answered: int = 0

    @property
    def requests(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A part of a transfer: the arrays that go with it, all of one length."""

    transfer: _Transfer
    is_write: bool
    local: Addresses
    remote: Addresses
    sizes: Sizes
    size_bytes: int


class RequestQueue:
    """Requests of all transfers with one peer. For all threads. ``finished`` is called once for each transfer."""

    def __init__(self, streams: int, finished: Callable[[Job, Outcome, str], None]) -> None:
        self._streams = streams
        self._finished = finished
        self._lock = threading.Lock()
        self._transfers: deque[_Transfer] = deque()
        self._closed = False

    def add(self, job: Job) -> int:
        """Queue a transfer; how many requests it makes."""
        rounds = div_ceil(job.size_bytes, self._streams * BYTES_MAX)  # so that all streams end at about the same time
        bytes_max = min(BYTES_MAX, max(_SHARE_BYTES_MIN, div_ceil(job.size_bytes, self._streams * rounds)))
        local, remote, sizes = split_long(job.local, job.remote, job.sizes, bytes_max)
        transfer = _Transfer(job, local, remote, sizes, batch_bounds(sizes, bytes_max, RANGES_MAX))
        with self._lock:
            if self._closed:
                return 0
            self._transfers.append(transfer)
        return transfer.requests

    def take(self, *, writes: bool) -> Request | None:
        """The next request, unless there is none, or it is a WRITE and those are not wanted now."""
        while True:
            over = None
            with self._lock:
                if not self._transfers:
                    return None
                transfer = self._transfers[0]
                if not transfer.job.stopped:
                    if transfer.job.kind == "write" and not writes:
                        return None
                    return self._next_of(transfer)
                self._transfers.popleft()  # the rest of it is not asked for any more
                del transfer.bounds[transfer.taken + 1 :]
                if transfer.answered == transfer.taken:
                    over = transfer
            if over is not None:
                self._finish(over)

    def answer(self, request: Request, problem: str = "") -> None:
        """A request has been carried out, or refused because of a problem."""
        transfer = request.transfer
        with self._lock:
            transfer.answered += 1
            if problem:
                transfer.job.stopped = transfer.job.stopped or ("failed", problem)
            over = transfer.answered == transfer.requests
        if over:
            self._finish(transfer)

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._closed = True
            self._transfers.clear()

    def _next_of(self, transfer: _Transfer) -> Request:
        at = transfer.taken
        transfer.taken += 1
        self._transfers.popleft()
        if transfer.taken < transfer.requests:
            self._transfers.append(transfer)
        part = slice(transfer.bounds[at], transfer.bounds[at + 1])
        sizes = transfer.sizes[part]
        return Request(
            transfer,
            transfer.job.kind == "write",
            transfer.local[part],
            transfer.remote[part],
            sizes,
            int(sizes.sum()),
        )

    def _finish(self, transfer: _Transfer) -> None:
        self._finished(transfer.job, *(transfer.job.stopped or ("done", "")))
