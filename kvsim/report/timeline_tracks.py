"""What a timeline keeps of a worker while records pass by: lanes of transfers, and blocks of requests.

It must not know trace events.
"""

from kvsim.core.batching import blocks_for
from kvsim.core.messages import RequestId, TransferId


class Lanes:
    """Tracks of one kind on one worker: a transfer gets the lowest free one, so spans of a track never overlap."""

    def __init__(self, first_track: int, name: str) -> None:
        self._first_track = first_track
        self._name = name
        self._occupants: list[TransferId | None] = []

    def enter(self, transfer: TransferId) -> tuple[int, str | None]:
        """Its track, and the name of the track if it is a new one."""
        for lane, occupant in enumerate(self._occupants):
            if occupant is None:
                self._occupants[lane] = transfer
                return self._first_track + lane, None
        self._occupants.append(transfer)
        lane = len(self._occupants) - 1
        return self._first_track + lane, f"{self._name} {lane + 1}"

    def leave(self, transfer: TransferId) -> int:
        """Free its track and return it."""
        lane = self._occupants.index(transfer)
        self._occupants[lane] = None
        return self._first_track + lane


class Memory:
    """Blocks reserved on one worker, per request. Decoding requests grow by a block when they write its first slot.

    ``unfilled_blocks`` are those of requests whose KV is not complete there: still to be computed, or on its way.
    """

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._blocks: dict[RequestId, int] = {}
        self._complete: set[RequestId] = set()
        self.reserved_blocks = self.unfilled_blocks = 0

    def assign(self, request: RequestId, blocks: int) -> None:
        """The request has so many blocks more."""
        self._blocks[request] = self._blocks.get(request, 0) + blocks
        self.reserved_blocks += blocks
        if request not in self._complete:
            self.unfilled_blocks += blocks

    def complete(self, request: RequestId) -> None:
        """The KV of the request's whole context is there."""
        if request in self._blocks and request not in self._complete:
            self._complete.add(request)
            self.unfilled_blocks -= self._blocks[request]

    def grow_to(self, request: RequestId, context_tokens: int) -> None:
        """The request has written the KV of so many tokens."""
        missing = blocks_for(context_tokens, self._block_tokens) - self._blocks.get(request, 0)
        if missing > 0:
            self.assign(request, missing)

    def release(self, request: RequestId) -> None:
        """Its blocks are free."""
        blocks = self._blocks.pop(request, 0)
        self.reserved_blocks -= blocks
        if request not in self._complete:
            self.unfilled_blocks -= blocks
        self._complete.discard(request)

    def clear(self) -> None:
        """Nothing is there any more."""
        self._blocks.clear()
        self._complete.clear()
        self.reserved_blocks = self.unfilled_blocks = 0
