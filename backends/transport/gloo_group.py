"""A torch process group of two over gloo, made for one pair of peers: packed buffers from one to the other.

There is no world: each pair has a store and a group of its own, which live and die with the pair. torch is imported
when the first group is made. This module must not know pools or transfers.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_JOIN_TIMEOUT = timedelta(seconds=10)
_PIECE_BYTES = 4 * 2**20
_AT_ONCE = timedelta(milliseconds=1)
_POISON_TAG = 2**31 - 1


@dataclass(slots=True, eq=False)
class GlooStore:
    """The rendezvous of one pair, at the host of rank 0. ``port`` is 0 on the side that has not opened it."""

    store: Any  # a TCPStore
    port: int


def host_store(host: str) -> GlooStore:
    """Open a store on a free port of this address. Raises RuntimeError."""
    store = _distributed().TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_JOIN_TIMEOUT)
    return GlooStore(store, store.port)


def reach_store(host: str, port: int) -> GlooStore:
    """Connect to the store of rank 0. Raises RuntimeError."""
    return GlooStore(_distributed().TCPStore(host, port, is_master=False, timeout=_JOIN_TIMEOUT), 0)


class GlooPair:
    """A group of two. ``send`` and ``receive`` wait for the other side and may be called by several threads.

    gloo fails an operation that has not begun when the other side goes, or when ``break_off`` is called, but one that
    is half way through is forgotten and waits for its timeout. So long buffers go in pieces, and who waits for the end
    of such a thread must be ready to leave it to its timeout.
    """

    def __init__(self, store: GlooStore, secret: str, rank: int, host: str, timeout_ms: int) -> None:
        """Join; returns when both sides have. Keys of the store begin with ``secret``. Raises RuntimeError."""
        dist = _distributed()
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
        options._timeout = _JOIN_TIMEOUT
        self._store = store
        self._group = dist.ProcessGroupGloo(dist.PrefixStore(secret, store.store), rank, 2, options)
        self._other = 1 - rank
        self._timeout = timedelta(milliseconds=timeout_ms)
        self._broken_off = False

    def send(self, buffer: "torch.Tensor", tag: int) -> None:
        """Send all of a tensor of bytes. Raises RuntimeError when the other side has gone or makes no progress."""
        for piece in self._pieces(buffer):
            self._group.send([piece], self._other, tag).wait(self._timeout)

    def receive(self, buffer: "torch.Tensor", tag: int) -> None:
        """Fill a tensor of bytes. Errors as in ``send``."""
        for piece in self._pieces(buffer):
            self._group.recv([piece], self._other, tag).wait(self._timeout)

    def stop(self) -> None:
        """Begin no further piece: ``send`` and ``receive`` raise after the one that they are at."""
        self._broken_off = True

    def break_off(self) -> None:
        """Fail operations that wait for the other side to begin.

        gloo has no call for that, but an operation that times out breaks all connections of its group.
        """
        import torch  # noqa: PLC0415

        self._broken_off = True
        with suppress(RuntimeError):  # the timeout that is wanted, or broken already
            self._group.recv([torch.zeros(1, dtype=torch.uint8)], self._other, _POISON_TAG).wait(_AT_ONCE)

    def _pieces(self, buffer: "torch.Tensor") -> "Iterator[torch.Tensor]":
        for begin in range(0, len(buffer), _PIECE_BYTES):
            if self._broken_off:
                raise RuntimeError("given up")
            yield buffer[begin : begin + _PIECE_BYTES]


def _distributed() -> ModuleType:
    return import_module("torch.distributed")  # as a plain module: its stubs lack what is used of it here
