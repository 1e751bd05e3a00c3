"""The wire protocol of each kind of transfer, as a sequence of waits around one flow of bytes.

It reports two facts: the target may read the blocks (done), and nobody reads the source blocks any more (released). It
must not know requests, blocks or scheduling.

Below, L is the one-way latency, and flow stands for the time that the bytes take at the shared rate:

======= ==================================================== ===================== ====================================
kind    before the flow                                      done                  released
======= ==================================================== ===================== ====================================
pull    L: the READ request travels to the source            flow + L              done + L: COMPLETE travels back
push    nothing                                              flow + L: WRITE with  done + L: the acknowledgement travels
                                                             immediate             back
message handshakes x 2 L + their software, gather on the     flow + L + scatter    flow + 2 L: the acknowledgement of
        source GPUs                                                                the send, before the scatter ends
======= ==================================================== ===================== ====================================
"""

from collections.abc import Callable
from math import ceil
from typing import assert_never

import simpy

from kvsim.core.messages import StartTransfer, TransferId
from kvsim.sim.hardware import Hardware
from kvsim.sim.network import Network
from kvsim.sim.timer import call_after


class TransferEngine:
    """Carries out ``StartTransfer`` commands. Each calls ``done`` and ``released`` once, in the order of the table."""

    def __init__(self, env: simpy.Environment, network: Network, hardware: Hardware) -> None:
        self._env = env
        self._network = network
        self._workers = hardware.workers
        self._message = hardware.message

    def start(
        self, command: StartTransfer, done: Callable[[TransferId], None], released: Callable[[TransferId], None]
    ) -> None:
        """Begin this transfer now. Returns at once; the callbacks come from the event loop."""
        match command.kind:
            case "pull":
                self._pull(command, done, released)
            case "push":
                self._flow(command, lambda: self._arrive(command, done, released))
            case "message":
                self._message_exchange(command, done, released)
            case unknown:
                assert_never(unknown)

    def pack_ns(self, worker: int, size_bytes: int) -> int:
        """Gather or scatter on the GPUs of a worker, rounded up to whole nanoseconds.

        Each GPU handles its share of the bytes; each byte is read and written once, hence half the memory bandwidth.
        """
        hardware = self._workers[worker]
        share_bytes = size_bytes / hardware.tensor_parallel
        rate_bytes_per_s = self._message.pack_efficiency * hardware.gpu.memory_bytes_per_s / 2
        return ceil(share_bytes * 1e9 / rate_bytes_per_s)

    def _pull(
        self, command: StartTransfer, done: Callable[[TransferId], None], released: Callable[[TransferId], None]
    ) -> None:
        request_ns = self._latency_ns(command)
        call_after(self._env, request_ns, lambda: self._flow(command, lambda: self._arrive(command, done, released)))

    def _message_exchange(
        self, command: StartTransfer, done: Callable[[TransferId], None], released: Callable[[TransferId], None]
    ) -> None:
        """Rendezvous, gather, send, scatter: one after the other, as a packed buffer forces it."""
        latency_ns = self._latency_ns(command)
        rendezvous_ns = self._message.handshakes * 2 * latency_ns + self._message.handshake_ns
        gather_ns = self.pack_ns(command.source, command.size_bytes)
        scatter_ns = self.pack_ns(command.target, command.size_bytes)

        def sent() -> None:
            call_after(self._env, 2 * latency_ns, lambda: released(command.transfer))
            call_after(self._env, latency_ns + scatter_ns, lambda: done(command.transfer))

        call_after(self._env, rendezvous_ns + gather_ns, lambda: self._flow(command, sent))

    def _flow(self, command: StartTransfer, finished: Callable[[], None]) -> None:
        self._network.start(
            command.source,
            command.target,
            size_bytes=command.size_bytes,
            operations=command.operations,
            kind=command.kind,
            finished=finished,
        )

    def _arrive(
        self, command: StartTransfer, done: Callable[[TransferId], None], released: Callable[[TransferId], None]
    ) -> None:
        """One-sided kinds, when the last byte has left: it travels to the target, and word of it travels back."""
        latency_ns = self._latency_ns(command)
        call_after(self._env, latency_ns, lambda: done(command.transfer))
        call_after(self._env, 2 * latency_ns, lambda: released(command.transfer))

    def _latency_ns(self, command: StartTransfer) -> int:
        return self._network.latency_ns(command.source, command.target)
