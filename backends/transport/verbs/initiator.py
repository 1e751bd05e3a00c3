"""The initiator's queue pairs with one peer: made, connected over the peer's connection, posted to, replaced, closed.

They share one completion queue. It must not know which transfers wait, nor what a fault means.
"""

import os
import socket
import time
from typing import Any

import numpy as np

from backends.transport.port import TransportError
from backends.transport.verbs import wire
from backends.transport.verbs.device import Device
from backends.transport.verbs.faults import words_for
from backends.transport.verbs.native import Poller, Poster, poller_of
from backends.transport.verbs.queue_pairs import QueuePair, make_initiator
from backends.transport.verbs.requests import SEND, WRITE, Keys, RequestChain
from backends.transport.verbs.schedule import Chain, KnownRegions, Lane

CHAIN_REQUESTS_MAX = 128
QUEUE_REQUESTS_MAX = 512
"""Work requests on their way on each queue pair, if the device takes as many."""

RECEIPTS_MAX = 64
"""Receipts on their way at a time."""

_PROBE_TIMEOUT_S = 20.0
_PROBE_ROUND_S = 0.0002


class Initiator:
    """Our queue pairs with one peer. ``begins`` are the addresses of the peer's regions by number. For one thread."""

    def __init__(self, device: Device, count: int, begins: dict[int, int], connection: socket.socket) -> None:
        self.capacity = min(QUEUE_REQUESTS_MAX, device.limits.work_requests)
        self.remote = KnownRegions([])
        self.owner_end = 0
        self._device = device
        self._begins = begins
        self._connection = connection
        self._pairs: list[QueuePair] = []
        self._keys: list[Keys] = []
        self._chain = RequestChain(CHAIN_REQUESTS_MAX)
        self._receipts = np.zeros((RECEIPTS_MAX, wire.RECEIPT.size), dtype=np.uint8)
        self._receipt_number = 0
        library = device.library
        self._made: list[Any] = []
        try:
            with device.calling("makes no completion queue"):
                self._made.append(channel := library.channel(device.context))
                completions = min(device.limits.completions, count * self.capacity + 1)
                self._cq: Any = library.cq(device.context, completions, None, channel, 0)
                self._made.append(self._cq)
                access = library.constant("IBV_ACCESS_LOCAL_WRITE")
                at, size_bytes = self._receipts.ctypes.data, self._receipts.nbytes
                self._memory: Any = library.mr(device.domain, size_bytes, access, address=at)
                self._made.append(self._memory)
            for index in range(count):
                self._connect(index)
            self.poller: Poller = poller_of(self._pairs[0].qp, receive=False)
            self._probe()
        except (OSError, TransportError):
            self.close()
            raise

    def regions_gone(self) -> set[int]:
        """Regions that were described and that the peer has no more."""
        return set(self._begins) - set(self.remote.numbers)

    def post(self, chain: Chain) -> None:
        """Post the ranges of a chain. Raises TransportError if the queue refuses."""
        self._check(post_ranges(self._pairs[chain.lane].poster, self._chain, chain, self._keys[chain.lane]))

    def post_receipt(self, chain: Chain) -> None:
        """Send the receipt of a transfer, while fewer than ``RECEIPTS_MAX`` are on their way."""
        slot = self._receipt_number % RECEIPTS_MAX
        self._receipt_number += 1
        self._receipts[slot] = np.frombuffer(wire.RECEIPT.pack(*chain.receipt), dtype=np.uint8)
        at = np.array([self._receipts.ctypes.data + slot * wire.RECEIPT.size], dtype=np.uint64)
        nothing = np.zeros(1, dtype=np.uint64)
        size = np.array([wire.RECEIPT.size], dtype=np.int64)
        first = self._chain.fill(SEND, chain.number, at, int(self._memory.lkey), nothing, 0, size)
        self._check(self._pairs[chain.lane].poster.send(first))

    def close_lane(self, lane: Lane) -> None:
        """Nothing that was posted to it touches memory any more."""
        with self._device.calling("does not close a queue pair"):
            self._pairs[lane.index].close()

    def replace(self, lane: Lane) -> None:
        """A new queue pair in place of one that was closed, with new keys. Raises OSError, TransportError."""
        self._connect(lane.index)

    def close(self) -> None:
        """Close everything. Nothing that was posted touches memory any more."""
        with self._device.lock:
            for pair in self._pairs:
                pair.close()
            for resource in reversed(self._made):
                resource.close()

    def _connect(self, index: int) -> None:
        pair = make_initiator(self._device, self._cq, self.capacity)
        if index == len(self._pairs):
            self._pairs.append(pair)
            self._keys.append(np.zeros(0, dtype=np.uint32))
        self._pairs[index] = pair
        with self._device.calling("cannot describe its queue pair"):
            ours = pair.address(self._device.limits.reads_out)
        wire.send(self._connection, wire.Hello(index, ours))
        welcome = wire.receive_answer(self._connection)
        reads = min(welcome.address.reads, self._device.limits.reads_out)
        with self._device.lock:
            pair.connect(welcome.address, reads_out=reads, reads_in=1)
        self.owner_end = welcome.end
        if not index and not self.remote.numbers:
            known = [region for region in welcome.regions if region.number in self._begins]
            self.remote = KnownRegions([(region.number, self._begins[region.number], region.base) for region in known])
        keys = {region.number: region.key for region in welcome.regions}
        # a region that is gone by now has key 0, which opens nothing; its withdrawal is on its way to us
        self._keys[index] = np.array([keys.get(number, 0) for number in self.remote.numbers], dtype=np.uint32)

    def _probe(self) -> None:
        """See that each queue pair reaches its partner, by writing nothing to it: a GID without a way to it, or a
        filter between the two, is found now and not by the first transfer. Raises ConnectionError."""
        nothing = np.zeros(1, dtype=np.uint64)
        for pair in self._pairs:
            size = np.zeros(1, dtype=np.int64)
            self._check(pair.poster.send(self._chain.fill(WRITE, 0, nothing, 0, nothing, 0, size)))
        answered, deadline_s = 0, time.monotonic() + _PROBE_TIMEOUT_S
        while answered < len(self._pairs):
            found = self.poller.take()
            for status in found["status"].tolist():
                if status:
                    raise ConnectionError(f"its card does not answer ours, {self._device.name}: {words_for(status)}")
            answered += len(found)
            if time.monotonic() > deadline_s:
                raise ConnectionError(f"its card does not answer ours, {self._device.name}")
            if not len(found):
                time.sleep(_PROBE_ROUND_S)

    def _check(self, problem: int) -> None:
        if problem:
            raise TransportError(f"{self._device.name} takes no more work requests: {os.strerror(problem)}")


def post_ranges(poster: Poster, room: RequestChain, chain: Chain, keys: Keys) -> int:
    """Post the ranges of a chain through one queue pair, whose keys have a row for each of the peer's regions; 0 or the
    errno of a refusal."""
    move = chain.move
    assert move is not None, "a chain without ranges"
    part = slice(chain.begin, chain.end)
    first = room.fill(
        move.opcode,
        chain.number,
        move.local[part],
        move.local_keys[part],
        move.remote[part],
        keys[move.remote_rows[part]],
        move.sizes[part],
    )
    return poster.send(first)
