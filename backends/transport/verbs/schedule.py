"""Transfers with one peer cut into chains of work requests, and the chains that are on their way on each queue pair.

Pure bookkeeping: no device, no thread, no clock.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backends.transport.address_map import Addresses, Sizes
from backends.transport.batches import split_long
from backends.transport.jobs import Job
from backends.transport.verbs.requests import READ, WRITE, Keys

RANGE_BYTES_MAX = 2**20
"""Longer ranges are cut, so that several queue pairs share them and a cancelled transfer ends soon."""

_CHAIN_BYTES_MAX = 4 * 2**20
LANE_BYTES_MAX = 8 * 2**20
"""Nothing more is posted to a queue pair with so many bytes on their way: 0.2 ms at 400 Gbit/s, many round trips. What
has been posted cannot be called back, and whoever cancels a transfer or takes a region back waits for it."""


class KnownRegions:
    """Regions of one end by address as ranges name them: what its device calls those addresses, and a row of keys for
    each of them. Immutable."""

    def __init__(self, regions: list[tuple[int, int, int]]) -> None:
        """Each is (number, first address, what the device calls that)."""
        ordered = sorted(regions, key=lambda region: region[1])
        self.numbers = tuple(number for number, _, _ in ordered)
        self._begins = np.array([begin for _, begin, _ in ordered], dtype=np.uint64)
        shifts = [(base - begin) % 2**64 for _, begin, base in ordered]
        self._shifts = np.array(shifts, dtype=np.uint64)  # modulo 2**64: adding wraps round to the right address

    def locate(self, addresses: Addresses) -> tuple[Addresses, NDArray[np.intp]]:
        """What the device calls these addresses, and the rows of their regions. They must lie in regions."""
        rows = np.searchsorted(self._begins, addresses, side="right") - 1
        return addresses + self._shifts[rows], rows


@dataclass(slots=True, eq=False)
class Move:
    """A transfer on its way. The arrays have one entry for each work request that it takes."""

    job: Job
    opcode: int
    local: Addresses
    local_keys: Keys
    remote: Addresses
    remote_rows: NDArray[np.intp]
    sizes: Sizes
    waiting: deque[tuple[int, int]]
    chain_max: int
    outstanding: int = 0

    @property
    def over(self) -> bool:
        """Whether no chain of it is on its way and none will be."""
        return not self.outstanding and (bool(self.job.stopped) or not self.waiting)


@dataclass(slots=True, eq=False)
class Chain:
    """Work requests ``[begin, end)`` of a move, posted to one queue pair; or a receipt, which belongs to no move."""

    number: int
    lane: int
    move: Move | None
    begin: int
    end: int
    receipt: tuple[int, int] = (0, 0)
    size_bytes: int = 0

    @property
    def requests(self) -> int:
        """How many places of the queue it takes."""
        return self.end - self.begin


@dataclass(slots=True, eq=False)
class Lane:
    """The send queue of one queue pair: at most ``capacity`` work requests are on their way, of ``size_bytes``."""

    index: int
    capacity: int
    free: int = 0
    size_bytes: int = 0
    chains: deque[Chain] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.free = self.capacity


class Schedule:
    """Moves that wait, and chains on their way on several lanes."""

    def __init__(self, lanes: int, capacity: int, chain_max: int) -> None:
        self.lanes = [Lane(index, capacity) for index in range(lanes)]
        self._chain_max = chain_max
        self._moves: deque[Move] = deque()  # that have ranges waiting
        self._lane_of: dict[int, int] = {}
        self._number = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is on its way, and nothing waits."""
        return not self._lane_of and not self._moves

    def add(
        self,
        job: Job,
        local: Addresses,
        local_keys: Keys,
        remote: Addresses,
        remote_rows: NDArray[np.intp],
        sizes: Sizes,
    ) -> Move:
        """Take a transfer on."""
        opcode = READ if job.kind == "read" else WRITE
        chain_max = max(1, min(self._chain_max, _CHAIN_BYTES_MAX // int(sizes.max())))
        waiting = deque([(0, len(sizes))])
        move = Move(job, opcode, local, local_keys, remote, remote_rows, sizes, waiting, chain_max)
        self._moves.append(move)
        return move

    def next_chain(self, lane: Lane) -> Chain | None:
        """Take the next requests that this lane has room for: those of each transfer in turn, so that long ones do not
        hold up short ones. They count as posted."""
        if not lane.free or lane.size_bytes >= LANE_BYTES_MAX:
            return None
        for _ in range(len(self._moves)):
            move = self._moves.popleft()
            if not move.waiting:
                continue
            self._moves.append(move)
            if not move.job.stopped:  # else it stays, for ``over``
                return self._chain_of(lane, move)
        return None

    def receipt_chain(self, lane: Lane, receipt: tuple[int, int]) -> Chain:
        """A place for one receipt, which counts as posted. The lane must have room."""
        assert lane.free, "a receipt for a full lane"
        chain = self._posted(lane, None, 0, 1)
        chain.receipt = receipt
        return chain

    def lane_of(self, number: int) -> int | None:
        """Index of the lane on which this chain is on its way, or None if it is not."""
        return self._lane_of.get(number)

    def done_through(self, lane: Lane, number: int) -> list[Chain]:
        """The chain of this number is done, and those before it on its lane, as a queue pair works in order."""
        done = []
        while lane.chains and lane.chains[0].number <= number:
            done.append(self._forget(lane))
        return done

    def drain(self, lane: Lane) -> list[Chain]:
        """The lane's queue pair is gone: all chains that were on their way on it."""
        return [self._forget(lane) for _ in range(len(lane.chains))]

    def again(self, chain: Chain) -> None:
        """Requests of a drained chain wait anew."""
        assert chain.move is not None, "a receipt has no ranges"
        if chain.move not in self._moves:
            self._moves.append(chain.move)
        chain.move.waiting.append((chain.begin, chain.end))

    def over(self) -> list[Move]:
        """Moves that were stopped while all of them waited."""
        return [move for move in self._moves if move.over]

    def forget(self, move: Move) -> None:
        """A move that is over."""
        if move in self._moves:
            self._moves.remove(move)

    def _chain_of(self, lane: Lane, move: Move) -> Chain:
        begin, end = move.waiting.popleft()
        cut = min(end, begin + min(move.chain_max, lane.free))
        if cut < end:
            move.waiting.appendleft((cut, end))
        move.outstanding += 1
        return self._posted(lane, move, begin, cut)

    def _posted(self, lane: Lane, move: Move | None, begin: int, end: int) -> Chain:
        self._number += 1
        size_bytes = int(move.sizes[begin:end].sum()) if move is not None else 0
        chain = Chain(self._number, lane.index, move, begin, end, size_bytes=size_bytes)
        self._lane_of[self._number] = lane.index
        lane.free -= chain.requests
        lane.size_bytes += size_bytes
        lane.chains.append(chain)
        return chain

    def _forget(self, lane: Lane) -> Chain:
        chain = lane.chains.popleft()
        del self._lane_of[chain.number]
        lane.free += chain.requests
        lane.size_bytes -= chain.size_bytes
        if chain.move is not None:
            chain.move.outstanding -= 1
        return chain


def cut_ranges(job: Job) -> tuple[Addresses, Addresses, Sizes]:
    """Our addresses, the peer's and sizes of a transfer, in ranges that one work request can carry."""
    return split_long(job.own, job.remote, job.sizes, RANGE_BYTES_MAX)
