"""Transfers between the GPU memory of processes of one host: the initiator's GPU copies, the owner runs nothing.

Tensors on a GPU are reached by CUDA IPC handles, memory of ``allocate`` by memory files as in ``shm``; a transfer may
touch both. Handles and files are given to a peer that has proven its token, over a unix socket whose end tells of the
owner's. A copy is queued on a stream of ours that waits for no other one, and is done when the GPU says so: the owner
must have finished writing before it lets anybody know that there is something to read. (Workers do: ``LanguageModel``
waits for its GPU before it reports a step, or a layer.)

A handle opens all of the allocation in which a region lies (and the 2 MiB that small ones share), to every process of
this host that learns it, for reading and writing, until that process closes it (``key_scope``, ``revocable``,
``access_enforced``): use this between processes that trust each other with their memory. What each region is for is
told to peers, whose own end refuses the rest: that stops mistakes, not malice. The owner must not free memory that a
connected peer has open, which CUDA leaves undefined: disconnect first.
"""

import logging
import socket

from backends.transport.address_map import Addresses, Piece
from backends.transport.copier import Copier
from backends.transport.cuda_ipc.driver import CudaError, Driver
from backends.transport.cuda_ipc.gpu import TURN_BYTES, Gpu
from backends.transport.cuda_ipc.greeting import (
    Export,
    Greeting,
    is_own_process,
    receive_greeting,
    send_greeting,
)
from backends.transport.jobs import Job
from backends.transport.link import Link
from backends.transport.memory import Memory, memory_anywhere, tensor_memory_of
from backends.transport.port import Access, Capabilities, Region, TensorMemory, TransportError
from backends.transport.shared_memory import MappingCarrier, SharedMemoryTransport
from kvsim.core.kv_tensor import KvTensor

_log = logging.getLogger("kvsim.transport")

CAPABILITIES = Capabilities(
    name="cuda_ipc",
    read=True,
    write=True,
    two_sided=False,
    owner_runs_code=False,
    same_host=True,
    any_memory=False,
    device_memory=True,
    revocable=False,
    access_enforced=False,
    key_scope="allocation",
)


class CudaIpcTransport(SharedMemoryTransport):
    """The ``Transport`` named ``cuda_ipc``: tensors of one GPU, the one at ``gpu_pci_address`` or the first that this
    process sees, and memory of ``allocate``. Raises TransportError that says what is missing where there is no GPU."""

    def __init__(self, name: str, *, gpu_pci_address: str = "", driver: Driver | None = None) -> None:
        self._gpu = Gpu(Driver() if driver is None else driver, gpu_pci_address)
        self._exports: dict[tuple[int, int], Export] = {}  # by address and size of the memory
        super().__init__(name, CAPABILITIES)
        self._gpu_copier = Copier(self._gpu.copy, TURN_BYTES)
        self._gpu_copier.start()
        self._start()

    def register(self, memory: memoryview | TensorMemory, tensor: KvTensor, peers_may: Access = "both") -> Region:
        """See ``Transport.register``. Raises TransportError too for memory of another GPU, and for what has no handle:
        expandable segments, for one."""
        if isinstance(memory, memoryview) or not memory.is_cuda:
            return super().register(memory, tensor, peers_may)
        self._assert_open()
        place = tensor_memory_of(memory)
        key = (place.address, place.size_bytes)
        self._exports[key] = self._gpu.export(place)  # first, since peers may dial at any time
        self._gpu.spans.add(*key)
        try:
            return super().register(memory, tensor, peers_may)
        except TransportError:
            self._gpu.spans.remove(*key)
            raise

    def unregister(self, region: Region) -> None:
        """See ``Transport.unregister``."""
        places = {known.number: memory for known, memory in self._registry.regions()}
        super().unregister(region)
        memory = places.get(region.number)
        if memory is not None and (memory.address, memory.size_bytes) in self._exports:
            self._gpu.spans.remove(memory.address, memory.size_bytes)

    def close(self) -> None:
        """See ``Transport.close``."""
        already = self._closed
        super().close()
        if not already:
            self._gpu_copier.close()
            try:
                self._gpu.close()
            except CudaError as error:  # of a GPU that has failed; there is nothing left to let go of
                _log.warning("%s: %s", self._gpu.name, error)

    def _place_of(self, memory: memoryview | TensorMemory) -> Memory:
        return memory_anywhere(memory)

    def _check_memory(self, memory: Memory) -> None:
        if (memory.address, memory.size_bytes) not in self._exports:
            super()._check_memory(memory)

    def _new_carrier(self, link: Link) -> "CudaIpcCarrier":
        return CudaIpcCarrier(link, self._copier, self._gpu_copier, self._gpu)

    def _send_regions(self, connection: socket.socket, regions: list[tuple[Region, Memory]]) -> None:
        exports, others = {}, []
        for region, memory in regions:
            export = self._exports.get((memory.address, memory.size_bytes))
            if export is None:
                others.append((region, memory))
            else:
                exports[region.number] = export
        rights = {region.number: region.peers_may for region, _ in regions}
        send_greeting(connection, Greeting(self._gpu.identity, exports, rights))
        super()._send_regions(connection, others)


class CudaIpcCarrier(MappingCarrier):
    """Opens the peer's allocations and copies, with the GPU where memory of one is touched."""

    def __init__(self, link: Link, copier: Copier, gpu_copier: Copier, gpu: Gpu) -> None:
        super().__init__(link, copier)
        self._gpu_copier = gpu_copier
        self._gpu = gpu
        self._opened: dict[bytes, int] = {}  # by handle, where its allocation begins here
        self._spans: list[tuple[int, int]] = []
        self._rights: dict[int, Access] = {}

    def start(self, job: Job) -> None:
        """Copy, or refuse what the regions are not for."""
        for number in job.remote_regions:
            if self._rights.get(number, "both") not in ("both", job.kind):
                self._link.finish(job, "failed", f"region {number} is not for peers to {job.kind}")
                return
        super().start(job)

    def cancel(self, job: Job) -> None:
        """The copiers see ``job.stopped``."""
        super().cancel(job)
        self._gpu_copier.look_again()

    def close(self) -> None:
        """Stop copying and let go of the peer's memory."""
        super().close()
        self._gpu_copier.forget(self._link.owns)
        for span in self._spans:
            self._gpu.spans.remove(*span)
        for begin in self._opened.values():
            try:
                self._gpu.close_allocation(begin)
            except CudaError as error:  # of a GPU that has failed; there is nothing left to let go of
                _log.warning("memory of %s stays mapped: %s", self._link.peer.name, error)

    def _receive_regions(self, control: socket.socket, described: dict[int, Piece]) -> dict[int, Piece]:
        greeting = receive_greeting(control)
        found = super()._receive_regions(control, described)
        self._rights = greeting.rights
        ours = is_own_process(control)
        if greeting.exports and not ours:
            self._gpu.refuse_unreachable(greeting.gpu)
        for number, export in greeting.exports.items():
            piece = described.get(number)
            if piece is not None and piece.size_bytes == export.size_bytes:
                address = export.address if ours else self._begin_of(export) + export.offset
                found[number] = Piece(number, piece.begin, piece.size_bytes, address)
                self._spans.append((address, piece.size_bytes))
                self._gpu.spans.add(*self._spans[-1])
        return found

    def _begin_of(self, export: Export) -> int:
        """Where the allocation of a region begins here; regions of one allocation share it."""
        begin = self._opened.get(export.handle)
        if begin is None:
            begin = self._gpu.open(export.handle, export.offset + export.size_bytes)
            self._opened[export.handle] = begin
        return begin

    def _copy(self, job: Job, targets: Addresses, sources: Addresses) -> None:
        if self._gpu.spans.touch(targets) or self._gpu.spans.touch(sources):
            self._queue(self._gpu_copier, job, targets, sources)
        else:
            super()._copy(job, targets, sources)
