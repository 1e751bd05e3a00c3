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

Where orders and reports take a while, the order comes first (that of the initiator, for a message the slower one), and
done and released come later by what the report of the target and of the source takes.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import assert_never

from kvsim.core.messages import StartTransfer, TransferId
from kvsim.sim.clock import Clock, Wake
from kvsim.sim.device import SharedDevice
from kvsim.sim.hardware import Hardware
from kvsim.sim.network import NO_FLOW, Network


class TransferEngine:
    """Carries out ``StartTransfer`` commands. Each calls ``done`` and ``released`` once, in the order of the table.

    While bytes flow, the initiator keeps its one of ``devices`` busy if that one copies them. Transfers can be aborted
    only if they are ``abortable``: keeping track of their flows has its cost.
    """

    def __init__(
        self,
        clock: Clock,
        network: Network,
        hardware: Hardware,
        devices: Mapping[str, SharedDevice] | None = None,
        *,
        abortable: bool = False,
    ) -> None:
        self._clock = clock
        self._network = network
        self._abortable = abortable
        self._flows: dict[TransferId, tuple[int, SharedDevice | None]] = {}  # of abortable transfers
        self._aborted: dict[TransferId, None] = {}
        self._workers = hardware.workers
        self._order_ns = [worker.order_ns for worker in hardware.workers]
        self._report_ns = [worker.report_ns for worker in hardware.workers]
        self._message = hardware.message
        self._copying = {device.name: (devices or {})[device.name] for device in hardware.devices if device.copies}

    def start(
        self, command: StartTransfer, done: Callable[[TransferId], None], released: Callable[[TransferId], None]
    ) -> None:
        """Begin this transfer now. Returns at once; the callbacks come from the event loop."""
        order_ns = self._order_takes_ns(command)
        if order_ns:
            self._clock.call_after(order_ns, lambda: self._begin(command, done, released))
        else:
            self._begin(command, done, released)

    def abort(self, transfer: TransferId) -> None:
        """Its bytes stop here. What had left already may still be reported: whoever aborts must not listen any more."""
        assert self._abortable, f"transfer {transfer} cannot be aborted"
        self._aborted[transfer] = None
        flow, device = self._flows.pop(transfer, (NO_FLOW, None))
        self._network.cancel(flow)
        if device is not None:
            device.vacate()

    def _begin(
        self, command: StartTransfer, done: Callable[[TransferId], None], released: Callable[[TransferId], None]
    ) -> None:
        match command.kind:
            case "pull":
                request = _OneSided(self, command, done, released)
                self._clock.wake_after(self.latency_ns(command), request)
            case "push":
                _OneSided(self, command, done, released).act()
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
        if hardware.pack_bytes_per_s is not None:
            rate_bytes_per_s = hardware.pack_bytes_per_s
        else:
            assert hardware.gpu is not None, f"worker {worker} with neither a measured rate nor a GPU"
            rate_bytes_per_s = self._message.pack_efficiency * hardware.gpu.memory_bytes_per_s / 2
        return ceil(share_bytes * 1e9 / rate_bytes_per_s)

    def _message_exchange(
        self, command: StartTransfer, done: Callable[[TransferId], None], released: Callable[[TransferId], None]
    ) -> None:
        """Rendezvous, gather, send, scatter: one after the other, as a packed buffer forces it."""
        latency_ns = self.latency_ns(command)
        rendezvous_ns = self._message.handshakes * 2 * latency_ns + self._message.handshake_ns
        gather_ns = self.pack_ns(command.source, command.size_bytes)
        scatter_ns = self.pack_ns(command.target, command.size_bytes)

        released_ns = 2 * latency_ns + self._report_ns[command.source]
        done_ns = latency_ns + scatter_ns + self._report_ns[command.target]

        def sent() -> None:
            self._clock.wake_after(released_ns, _Fact(released, command.transfer))
            self._clock.wake_after(done_ns, _Fact(done, command.transfer))

        self._clock.call_after(rendezvous_ns + gather_ns, lambda: self.flow(command, sent))

    def flow(self, command: StartTransfer, finished: Callable[[], None]) -> None:
        """Let the bytes flow from now on, then call ``finished``; not if the transfer was aborted before."""
        if self._aborted and command.transfer in self._aborted:
            return
        device = self._copying_device(command) if self._copying else None
        if device is not None:
            device.occupy()
        if device is not None or self._abortable:
            finished = self._ending(command.transfer, device, finished)
        flow = self._network.start(
            command.source,
            command.target,
            size_bytes=command.size_bytes,
            operations=command.operations,
            kind=command.kind,
            finished=finished,
        )
        if self._abortable:
            self._flows[command.transfer] = flow, device

    def arrive(
        self, command: StartTransfer, done: Callable[[TransferId], None], released: Callable[[TransferId], None]
    ) -> None:
        """One-sided kinds, when the last byte has left: it travels to the target, and word of it travels back."""
        transfer, source, target = command.transfer, command.source, command.target
        latency_ns = self._network.latency_ns(source, target)
        self._clock.wake_after(latency_ns + self._report_ns[target], _Fact(done, transfer))
        self._clock.wake_after(2 * latency_ns + self._report_ns[source], _Fact(released, transfer))

    def _copying_device(self, command: StartTransfer) -> SharedDevice | None:
        """What the bytes of this transfer keep busy: the initiator's device, if that one copies them."""
        initiator = command.target if command.kind == "pull" else command.source
        return self._copying.get(self._workers[initiator].device or "")

    def _ending(
        self, transfer: TransferId, device: SharedDevice | None, finished: Callable[[], None]
    ) -> Callable[[], None]:
        """What the end of the flow also ends."""

        def end() -> None:
            if self._abortable and self._flows.pop(transfer, None) is None:
                return  # one without bytes, aborted at the instant at which it began
            if device is not None:
                device.vacate()
            finished()

        return end

    def _order_takes_ns(self, command: StartTransfer) -> int:
        source_ns, target_ns = self._order_ns[command.source], self._order_ns[command.target]
        if command.kind == "message":
            return max(source_ns, target_ns)
        return target_ns if command.kind == "pull" else source_ns

    def latency_ns(self, command: StartTransfer) -> int:
        """From one end to the other, at this instant."""
        return self._network.latency_ns(command.source, command.target)


class _OneSided(Wake):
    """A transfer of a one-sided kind: it acts when its bytes may flow, and ``sent`` is called when they have left."""

    def __init__(
        self,
        engine: TransferEngine,
        command: StartTransfer,
        done: Callable[[TransferId], None],
        released: Callable[[TransferId], None],
    ) -> None:
        self._engine = engine
        self._command = command
        self._done = done
        self._released = released

    def act(self) -> None:
        self._engine.flow(self._command, self.sent)

    def sent(self) -> None:
        self._engine.arrive(self._command, self._done, self._released)


class _Fact(Wake):
    """A fact about a transfer, when whoever is to know it does."""

    def __init__(self, tell: Callable[[TransferId], None], transfer: TransferId) -> None:
        self._tell = tell
        self._transfer = transfer

    def act(self) -> None:
        self._tell(self._transfer)
