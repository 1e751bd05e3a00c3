"""What transports of one host have in common whose initiator copies and whose owner runs nothing: ``shm``, and
``cuda_ipc``, which adds memory of GPUs.

A peer that has proven its token gets the regions' memory files over an abstract unix socket and maps them; from then on
it needs the owner's process no more. The socket stays open for notifications, and its end tells of the owner's.
"""

import os
import secrets
import socket
import threading
from pathlib import Path

import msgspec
import numpy as np

from backends.transport.address_map import Addresses, AddressMap, OutOfRegionsError, Piece
from backends.transport.copier import Copier
from backends.transport.copying import copy
from backends.transport.jobs import Job
from backends.transport.link import Link
from backends.transport.memory import Memory
from backends.transport.memory_files import MappedFiles, MemoryFile, MemoryFiles
from backends.transport.port import Capabilities, Region, TransportError
from backends.transport.socket_transport import SocketTransport

_SOCKET_PREFIX = b"\0kvsim-"
_SOCKET_NAME_BYTES_MAX = 100
_GREETING_TIMEOUT_S = 5.0
_AT_ONCE_BYTES = 64 * 1024
"""A copy of this size takes less than waking a thread for it, so the caller does it."""


class _Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    socket_name: bytes


class SharedMemoryTransport(SocketTransport):
    """Subclasses must call ``_start`` when they are made."""

    def __init__(self, name: str, capabilities: Capabilities) -> None:
        self._socket_name = _SOCKET_PREFIX + secrets.token_hex(16).encode()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(self._socket_name)
        super().__init__(name, capabilities, listening, _host())
        self._files = MemoryFiles()
        self._copier = Copier()
        self._copier.start()

    def allocate(self, size_bytes: int) -> memoryview:
        """See ``Transport.allocate``."""
        return self._files.allocate(size_bytes)

    def close(self) -> None:
        """See ``Transport.close``."""
        super().close()
        self._copier.close()
        self._files.close()

    def _endpoint(self) -> bytes:
        return msgspec.msgpack.encode(_Endpoint(self._socket_name))

    def _address(self, endpoint: bytes) -> bytes:
        socket_name = msgspec.msgpack.decode(endpoint, type=_Endpoint).socket_name
        if not socket_name.startswith(_SOCKET_PREFIX) or len(socket_name) > _SOCKET_NAME_BYTES_MAX:
            raise ValueError(f"socket {socket_name[:40]!r}")
        return socket_name

    def _new_socket(self) -> socket.socket:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def _new_carrier(self, link: Link) -> "MappingCarrier":
        return MappingCarrier(link, self._copier)

    def _check_memory(self, memory: Memory) -> None:
        self._file_of(memory)

    def _file_of(self, memory: Memory) -> MemoryFile:
        file = self._files.file_of(memory)
        if file is None:
            raise TransportError(f"transport {self._capabilities.name} registers memory of its own allocate() only")
        return file

    def _greet(self, peer_name: str, connection: socket.socket) -> None:
        del peer_name
        connection.settimeout(_GREETING_TIMEOUT_S)
        self._send_regions(connection, self._registry.regions())

    def _send_regions(self, connection: socket.socket, regions: list[tuple[Region, Memory]]) -> None:
        """What ``MappingCarrier._receive_regions`` expects."""
        self._files.send(connection, [(region.number, memory) for region, memory in regions])


class MappingCarrier:
    """Maps the peer's memory and copies."""

    def __init__(self, link: Link, copier: Copier) -> None:
        self._link = link
        self._copier = copier
        self._mapped = AddressMap(())
        self._shifts: dict[int, np.uint64] = {}  # of the mapped regions, by number
        self._files = MappedFiles()
        self._closed = False
        self._at_once = threading.Lock()  # held by a caller that copies by itself or hands a copy on

    def open(self, control: socket.socket) -> None:
        """Map all regions that were described and are still there."""
        control.settimeout(_GREETING_TIMEOUT_S)
        described = {piece.number: piece for piece in self._link.regions.pieces}
        found = self._receive_regions(control, described)
        self._mapped = AddressMap(list(found.values()))
        for number, piece in found.items():
            self._shifts[number] = np.uint64((piece.memory_address - piece.begin) % 2**64)
        for number in sorted(described.keys() - found.keys()):
            self._link.withdraw(number)

    def start(self, job: Job) -> None:
        """Copy at once what is short, and queue the rest."""
        try:
            remote = self._located(job)
        except OutOfRegionsError as error:
            self._link.finish(job, "failed", str(error))
            return
        targets, sources = (job.local, remote) if job.kind == "read" else (remote, job.local)
        self._copy(job, targets, sources)

    def cancel(self, job: Job) -> None:
        """The copier sees ``job.stopped``."""
        del job
        self._copier.look_again()

    def abort(self) -> None:
        """Nothing here waits for the peer."""

    def on_frame(self, kind: int, payload: bytes) -> str:
        """Owners send nothing more."""
        del payload
        return f"it sent a message of kind {kind}"

    def close(self) -> None:
        """Stop copying and let go of the peer's memory."""
        self._closed = True
        with self._at_once:
            self._copier.forget(self._link.owns)
        self._files.clear()

    def _receive_regions(self, control: socket.socket, described: dict[int, Piece]) -> dict[int, Piece]:
        """Where the peer's regions lie in this process. Raises OSError or TransportError."""
        return self._files.receive(control, described)

    def _copy(self, job: Job, targets: Addresses, sources: Addresses) -> None:
        if job.size_bytes > _AT_ONCE_BYTES:
            self._queue(self._copier, job, targets, sources)
            return
        with self._at_once:
            if self._closed:
                return
            if not job.stopped:
                copy(targets, sources, job.sizes)
        self._copied(job)

    def _queue(self, copier: Copier, job: Job, targets: Addresses, sources: Addresses) -> None:
        with self._at_once:  # or it would be added behind the back of ``close``, which has it forgotten
            if not self._closed:
                copier.add(job, targets, sources, job.sizes, self._copied)

    def _located(self, job: Job) -> Addresses:
        """Where the peer's ranges lie in this process. Job ranges have been checked, so one region needs no look-up."""
        if len(job.remote_regions) == 1 and job.remote_regions[0] in self._shifts:
            return job.remote + self._shifts[job.remote_regions[0]]
        return self._mapped.locate(job.remote, job.sizes)[0]

    def _copied(self, job: Job) -> None:
        self._link.finish(job, *(job.stopped or ("done", "")))


def _host() -> str:
    """Names what abstract unix sockets can reach: this boot of this machine, in this network namespace."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot_id}/{os.stat('/proc/self/ns/net').st_ino}"
