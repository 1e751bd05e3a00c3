"""The owner's end of one peer's queue pairs: it connects them, hands out keys, and believes a COMPLETE only with its
receipt.

It runs nothing while bytes move. What it does is done by the threads of the peer's two connections: one serves the
connection on which queue pairs are made, the other takes in COMPLETE and waits for the receipt that was sent through
the queue pair behind the bytes. This module must not know where connections come from.
"""

import os
import socket
import threading
import time
from typing import Any

import numpy as np

from backends.transport.port import TransportError
from backends.transport.verbs import wire
from backends.transport.verbs.device import Device
from backends.transport.verbs.native import Poller, poller_of
from backends.transport.verbs.queue_pairs import QueuePair, Windows, make_owner
from backends.transport.verbs.regions import Regions, RegisteredMemory
from backends.transport.verbs.requests import ReceiveChain

RECEIPTS = 64
"""Receipts that may wait here for each peer's queue pair."""

_UNANNOUNCED_MAX = 128
_RECEIPT_TIMEOUT_S = 10.0
_LOOKS_AT_ONCE = 50
_LOOK_ROUND_S = 0.0005


class Owner:
    """One peer's connection. Close it when that ends: then the peer cannot reach any memory any more."""

    def __init__(self, number: int, device: Device, regions: Regions) -> None:
        self.number = number
        self._device = device
        self._regions = regions
        self._lock = threading.Lock()
        self._partners: dict[int, _Partner] = {}
        self._received: dict[int, int] = {}
        self._last = 0
        self._closed = False

    def serve(self, connection: socket.socket) -> None:
        """Answer each ``Hello`` until the connection ends. Raises OSError."""
        while (hello := wire.receive_hello(connection)) is not None:
            try:
                answer: wire.Answer = self._welcome(hello)
            except (TransportError, ConnectionError, self._device.library.error) as error:
                answer = wire.Refusal(str(error)[:1000])
            wire.send(connection, answer)

    def complete(self, transfer: int, size_bytes: int) -> str:
        """The peer says that this transfer is done: wait for its receipt; what is wrong, or an empty text."""
        deadline_s = time.monotonic() + _RECEIPT_TIMEOUT_S
        looks = 0
        while True:
            with self._lock:
                self._take_receipts()
                found = self._received.pop(transfer, None)
                if found is None and (self._closed or transfer <= self._last):
                    return f"it announces transfer {transfer} after transfer {self._last}"
                if found is not None:
                    self._last = transfer
            if found is not None:
                return "" if found == size_bytes else f"it announces {size_bytes} bytes, its receipt says {found}"
            if time.monotonic() > deadline_s:
                return f"it announces transfer {transfer}, but no receipt came through its queue pair"
            looks += 1
            time.sleep(0 if looks < _LOOKS_AT_ONCE else _LOOK_ROUND_S)

    def withdraw(self, region: int) -> None:
        """The keys for this region are worth nothing any more."""
        with self._lock, self._device.lock:
            for partner in self._partners.values():
                partner.withdraw(region)

    def close(self) -> None:
        """Close all queue pairs. Idempotent."""
        with self._lock:
            self._closed = True
            partners, self._partners = self._partners, {}
            for partner in partners.values():
                partner.close()

    def _welcome(self, hello: wire.Hello) -> wire.Welcome:
        # the device's lock: a region that is in the list must not be closed before it has its window
        with self._lock, self._device.lock:
            if self._closed:
                raise TransportError("the connection is closed")
            old = self._partners.pop(hello.index, None)
            if old is not None:
                self._take_receipts_of(old)
                old.close()
            partner = _Partner(self._device, self._regions.all())
            self._partners[hello.index] = partner
            reads = min(hello.address.reads, self._device.limits.reads_in)
            address, keys = partner.connect(hello.address, reads)
            return wire.Welcome(address, keys, self.number, RECEIPTS)

    def _take_receipts(self) -> None:
        for partner in self._partners.values():
            self._take_receipts_of(partner)

    def _take_receipts_of(self, partner: "_Partner") -> None:
        # what is not taken here stays in the queue pair's places, and holds the peer up when they are full
        for transfer, size_bytes in partner.receipts(_UNANNOUNCED_MAX - len(self._received)):
            if transfer > self._last:  # a receipt that was sent again on a new queue pair may come twice
                self._received[transfer] = size_bytes


class _Partner:
    """The owner's queue pair for one of the initiator's, with its windows and its places for receipts."""

    def __init__(self, device: Device, regions: list[RegisteredMemory]) -> None:
        self._device = device
        self._all = regions
        self._slots = np.zeros((RECEIPTS, wire.RECEIPT.size), dtype=np.uint8)
        self._made: list[Any] = []
        self._windows: Windows | None = None
        try:
            self._make(len(regions) if device.limits.windows else 0)
        except TransportError:
            self.close()
            raise

    def _make(self, windows: int) -> None:
        device, library = self._device, self._device.library
        with device.calling("makes no queue pair for a peer"):
            access = library.constant("IBV_ACCESS_LOCAL_WRITE")
            at = self._slots.ctypes.data
            memory = library.mr(device.domain, self._slots.nbytes, access, address=at)
            self._made.append(memory)
            self._places = ReceiveChain(RECEIPTS, at, wire.RECEIPT.size, int(memory.lkey))
            self._made.append(send_cq := library.cq(device.context, max(1, windows)))
            self._made.append(receive_cq := library.cq(device.context, RECEIPTS))
            self._pair: QueuePair = make_owner(device, send_cq, receive_cq, RECEIPTS, windows)
            self._made.append(self._pair)
            self._completions: Poller = poller_of(self._pair.qp, receive=True)
            if windows:
                self._windows = Windows(device, self._pair, poller_of(self._pair.qp, receive=False))

    def connect(
        self, initiator: wire.QueuePairAddress, reads: int
    ) -> tuple[wire.QueuePairAddress, tuple[wire.RegionKey, ...]]:
        """Connect; our address and the keys that hold on this queue pair."""
        with self._device.lock:
            address = self._pair.address(reads)
            self._pair.connect(initiator, reads_out=1, reads_in=reads)
            for slot in range(RECEIPTS):
                self._post(slot)
            return address, tuple(self._key_of(region) for region in self._all)

    def receipts(self, count_max: int) -> list[tuple[int, int]]:
        """Those that have come since the last call, but no more than so many: transfer and bytes."""
        found: list[tuple[int, int]] = []
        while len(found) < count_max and len(completions := self._completions.take(1)):
            if not completions["status"][0]:
                slot = int(completions["number"][0])
                found.append(wire.RECEIPT.unpack(self._slots[slot].tobytes()))
                self._post(slot)
        return found

    def withdraw(self, region: int) -> None:
        """Under the device's lock."""
        if self._windows is not None:
            self._windows.close(region)

    def close(self) -> None:
        """Nobody reaches memory through this queue pair any more."""
        with self._device.lock:
            if self._windows is not None:
                self._windows.close_all()
            for resource in reversed(self._made):
                resource.close()

    def _key_of(self, region: RegisteredMemory) -> wire.RegionKey:
        if self._windows is not None:
            return self._windows.bind(region)
        return wire.RegionKey(region.number, region.base, int(region.region.rkey))

    def _post(self, slot: int) -> None:
        problem = self._pair.poster.receive(self._places.one(slot))
        if problem:
            raise TransportError(f"a place for receipts cannot be offered: {os.strerror(problem)}")
