"""What transport verbs is held against: chains of work requests, made before the clock starts, posted through one queue
pair and awaited by looking.

That is what perftest does, in the process and on the memory that the transport uses, so that both can be timed in turn.
There are no threads, no books and no rights here: what is missing to its speed is what the transport costs. It must not
know what is measured.
"""

import json
import os
import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.transport.bench_side import Blocks, Operation, Side
from backends.transport.memory import allocate_private
from backends.transport.port import TransportError
from backends.transport.verbs.device import Device
from backends.transport.verbs.faults import words_for
from backends.transport.verbs.native import poller_of, yield_processor
from backends.transport.verbs.queue_pairs import make_initiator
from backends.transport.verbs.requests import ELEMENT, READ, REQUEST, SIGNALED, WRITE
from backends.transport.verbs.wire import QueuePairAddress

QUEUE_REQUESTS = 128
"""Work requests on their way: perftest's --tx-depth."""

CHAIN_REQUESTS = 32
"""With a completion for the last of each chain, as perftest asks for one now and then (--cq-mod)."""

_WAIT_S = 60.0


class ChainSide(Side):
    """A ``bench_side.Side`` over bare verbs. The owner does nothing."""

    def __init__(self, name: str, pool_bytes: int) -> None:
        del name
        self.needs_owner = False
        self._device = Device()
        library = self._device.library
        self._memory = allocate_private(pool_bytes)
        self.pool = np.frombuffer(self._memory, dtype=np.uint8)
        self.pool[:] = 0
        self._base = self.pool.ctypes.data
        access = library.flags("IBV_ACCESS_LOCAL_WRITE", "IBV_ACCESS_REMOTE_READ", "IBV_ACCESS_REMOTE_WRITE")
        with self._device.calling("cannot serve the benchmark"):
            self._region = library.mr(self._device.domain, pool_bytes, access, address=self._base)
            self._queue = library.cq(self._device.context, QUEUE_REQUESTS + 1)
        self._pair = make_initiator(self._device, self._queue, QUEUE_REQUESTS)
        self._poller = poller_of(self._pair.qp, receive=False)
        self._there, self._key = 0, 0
        self._made: dict[tuple[Operation, Blocks], tuple[NDArray[np.void], NDArray[np.void]]] = {}

    def describe(self) -> str:
        """See ``Side``."""
        address = msgspec.msgpack.encode(self._pair.address(self._device.limits.reads_in)).hex()
        return json.dumps([address, self._base, int(self._region.rkey)])

    def meet(self, description: str) -> None:
        """See ``Side``."""
        address, self._there, self._key = json.loads(description)
        partner = msgspec.msgpack.decode(bytes.fromhex(address), type=QueuePairAddress)
        reads_out = min(self._device.limits.reads_out, partner.reads)
        self._pair.connect(partner, reads_out=reads_out, reads_in=self._device.limits.reads_in)

    def move(self, operation: Operation, blocks: Blocks) -> None:
        """See ``Side``. The chains are made by the first move of the same blocks."""
        if (operation, blocks) not in self._made:
            self._made[operation, blocks] = self._make(operation, blocks)
        count, posted, done = len(blocks.initiator), 0, 0
        first, deadline_s = int(self._made[operation, blocks][0].ctypes.data), time.monotonic() + _WAIT_S
        while done < count:
            while posted < count and posted - done <= QUEUE_REQUESTS - CHAIN_REQUESTS:
                problem = self._pair.poster.send(first + posted * REQUEST.itemsize)
                if problem:
                    raise TransportError(f"the benchmark's chain is refused: {os.strerror(problem)}")
                posted = min(posted + CHAIN_REQUESTS, count)
            found = self._poller.take()
            if not len(found):
                yield_processor()  # software that carries RDMA out may want it
                if time.monotonic() > deadline_s:
                    raise TransportError(f"the benchmark's chain did not end within {_WAIT_S:g} s")
                continue
            for status in found["status"].tolist():
                if status:
                    raise TransportError(f"the benchmark's chain failed: {words_for(status)}")
            done = int(found["number"][-1])

    def assist(self, operation: Operation, blocks: Blocks) -> None:
        """Nothing: one-sided."""

    def close(self) -> None:
        """See ``Side``."""
        with self._device.lock:
            self._pair.close()
            self._queue.close()
            self._region.close()
            self._device.close()

    def _make(self, operation: Operation, blocks: Blocks) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """All requests of a move, and their scatter/gather elements. Each bears the number of those that are done with
        it; each chain ends with one that is signalled."""
        count, size_bytes = len(blocks.initiator), np.uint64(blocks.block_bytes)
        requests, elements = np.zeros(count, dtype=REQUEST), np.zeros(count, dtype=ELEMENT)
        steps = np.arange(count, dtype=np.uint64)
        elements["address"] = np.uint64(self._base) + blocks.initiator.astype(np.uint64) * size_bytes
        elements["size_bytes"] = blocks.block_bytes
        elements["key"] = int(self._region.lkey)
        requests["number"] = steps + np.uint64(1)
        requests["next"] = np.uint64(requests.ctypes.data) + (steps + np.uint64(1)) * np.uint64(REQUEST.itemsize)
        requests["elements"] = np.uint64(elements.ctypes.data) + steps * np.uint64(ELEMENT.itemsize)
        requests["element_count"] = 1
        requests["opcode"] = READ if operation == "read" else WRITE
        requests["remote"] = np.uint64(self._there) + blocks.owner.astype(np.uint64) * size_bytes
        requests["key"] = self._key
        for ends in (slice(CHAIN_REQUESTS - 1, None, CHAIN_REQUESTS), slice(count - 1, None)):
            requests["next"][ends] = 0
            requests["flags"][ends] = SIGNALED
        return requests, elements
