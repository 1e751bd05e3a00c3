"""Transfers through an RDMA card: the initiator's card reads and writes the owner's memory, whose processor has no part
in it.

A TCP connection to each peer proves its token, carries notifications and tells of its end; a second one connects queue
pairs. A peer reaches the regions that it was described, with keys that hold on its own queue pairs only where the
device has memory windows of type 2, and that die with its connection or with the region. Where it has none the keys are
the regions' own, and hold for every peer that is connected: see ``Capabilities.key_scope``. Either way the card refuses
what ``register`` did not allow peers to do.

Keys per request are not made. A window covers one range of addresses on one queue pair, so a request whose blocks lie
in n places would take n windows for each of a peer's queue pairs, bound by the owner once it knows the peer, which with
late binding is after the transfer was ordered: one message more before the first byte of each pull.
"""

import itertools
import socket
import threading
from dataclasses import replace

from backends.transport.link import NOTIFY, Link
from backends.transport.memory import Memory, memory_anywhere
from backends.transport.port import Access, Capabilities, KeyScope, Region, TensorMemory, TransportError
from backends.transport.tcp_based import TcpBasedTransport
from backends.transport.verbs import wire
from backends.transport.verbs.device import Device
from backends.transport.verbs.mover import Mover
from backends.transport.verbs.owner import Owner
from backends.transport.verbs.regions import Regions
from kvsim.core.kv_tensor import KvTensor

CAPABILITIES = Capabilities(
    name="verbs",
    read=True,
    write=True,
    two_sided=False,
    owner_runs_code=False,
    same_host=False,
    any_memory=True,
    device_memory=True,
    revocable=True,
    access_enforced=True,
)


class VerbsTransport(TcpBasedTransport):
    """The ``Transport`` named ``verbs``.

    ``host`` and ``advertised_host`` as for tcp: the address of the connections that go with the queue pairs, not the
    card's. ``device`` names the RDMA device; else it is the usable one nearest to the GPU with ``gpu_pci_address``, or
    the first one. ``queue_pairs`` are connected to each peer; READs of small blocks need several, since each has only
    a few in flight. Raises TransportError that says what is missing where there is no device.
    """

    def __init__(
        self,
        name: str,
        host: str = "127.0.0.1",
        *,
        advertised_host: str = "",
        device: str = "",
        gpu_pci_address: str = "",
        queue_pairs: int = 4,
        stall_timeout_s: float = 10.0,
    ) -> None:
        self._device = Device(device, gpu_pci_address)
        self._memory = Regions(self._device)
        self._queue_pairs = queue_pairs
        self._stall_timeout_s = stall_timeout_s
        self._owners_lock = threading.Lock()
        self._owners: dict[int, tuple[str, Owner]] = {}
        self._owner_numbers = itertools.count(1)
        scope: KeyScope = "peer" if self._device.limits.windows else "region"
        super().__init__(name, replace(CAPABILITIES, key_scope=scope), host, advertised_host, stall_timeout_s)
        self._start()

    @property
    def device(self) -> Device:
        """The device that moves the bytes."""
        return self._device

    def register(self, memory: memoryview | TensorMemory, tensor: KvTensor, peers_may: Access = "both") -> Region:
        """See ``Transport.register``. Raises TransportError too where the device cannot reach the memory, with what
        helps: a higher limit of locked memory, or a driver's module for GPU memory."""
        region = super().register(memory, tensor, peers_may)
        on_gpu = not isinstance(memory, memoryview) and memory.is_cuda
        try:
            self._memory.register(region.number, region.address, self._place_of(memory), peers_may, on_gpu=on_gpu)
        except TransportError:
            super().unregister(region)
            raise
        return region

    def unregister(self, region: Region) -> None:
        """See ``Transport.unregister``."""
        super().unregister(region)
        found = self._memory.take_out(region.number)
        if found is not None:
            for owner in self._all_owners():
                owner.withdraw(region.number)
            self._memory.release(found)

    def close(self) -> None:
        """See ``Transport.close``."""
        already = self._closed
        super().close()
        if not already:
            for region in self._memory.all():
                self._memory.take_out(region.number)
                self._memory.release(region)
            self._device.close()

    # --- what SocketTransport asks for -----------------------------------------------------------------------------

    def _place_of(self, memory: memoryview | TensorMemory) -> Memory:
        return memory_anywhere(memory)

    def _new_carrier(self, link: Link) -> Mover:
        return Mover(link, self._device, self._memory, self._queue_pairs, self._stall_timeout_s)

    def _serve_further(self, peer_name: str, purpose: int, connection: socket.socket) -> None:
        if purpose != wire.QUEUES:
            super()._serve_further(peer_name, purpose, connection)
        number = next(self._owner_numbers)
        owner = Owner(number, self._device, self._memory)
        with self._owners_lock:
            self._owners[number] = (peer_name, owner)
        try:
            owner.serve(connection)
        finally:
            owner.close()
            with self._owners_lock:
                del self._owners[number]

    def _on_frame(self, peer_name: str, kind: int, payload: bytes) -> str:
        if kind == NOTIFY:
            return super()._on_frame(peer_name, kind, payload)
        if kind != wire.COMPLETE or len(payload) != wire.ANNOUNCEMENT.size:
            return f"it sent {len(payload)} bytes as a message of kind {kind}"
        number, transfer, size_bytes = wire.ANNOUNCEMENT.unpack(payload)
        with self._owners_lock:
            name, owner = self._owners.get(number, ("", None))
        if owner is None or name != peer_name:
            return f"it announces transfer {transfer} for queue pairs that are not its own"
        return owner.complete(transfer, size_bytes)

    def _all_owners(self) -> list[Owner]:
        with self._owners_lock:
            return [owner for _, owner in self._owners.values()]
