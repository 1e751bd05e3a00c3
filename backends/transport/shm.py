"""Transfers between processes of one host through shared memory: the initiator copies, the owner runs nothing.

Pools lie in memory files (memfd): they have no name in any file system and are gone with the last process that has
them, however it ends. A peer that has proven its token gets the file descriptors over an abstract unix socket and maps
them; from then on it needs the owner's process no more. The socket stays open for notifications, and its end tells of
the owner's.

A peer gets the whole allocation in which a region lies, for reading and writing, and what it has mapped cannot be taken
back from it (``revocable`` is False): use this between processes that trust each other with their memory. The files are
sealed against truncation, so that no peer can pull memory from under another's copy.
"""

import fcntl
import mmap
import os
import secrets
import socket
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from backends.transport.address_map import Addresses, AddressMap, OutOfRegionsError, Piece
from backends.transport.copier import Copier
from backends.transport.copying import copy
from backends.transport.jobs import Job
from backends.transport.link import Link
from backends.transport.memory import Memory, populate
from backends.transport.port import Capabilities, TransportError
from backends.transport.socket_transport import SocketTransport

CAPABILITIES = Capabilities(
    name="shm",
    read=True,
    write=True,
    two_sided=False,
    owner_runs_code=False,
    same_host=True,
    any_memory=False,
    device_memory=False,
    revocable=False,
    access_enforced=False,
)

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_SOCKET_PREFIX = b"\0kvsim-"
_SOCKET_NAME_BYTES_MAX = 100
_COUNT = struct.Struct("!I")
_PLACE = struct.Struct("!IQQ")  # region number, offset in its file, size
_GREETING_TIMEOUT_S = 5.0
_AT_ONCE_BYTES = 64 * 1024
"""A copy of this size takes less than waking a thread for it, so the caller does it."""


class _Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    socket_name: bytes


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    """A memory file of ours and where it is mapped."""

    fd: int
    address: int
    size_bytes: int


class ShmTransport(SocketTransport):
    """The ``Transport`` named ``shm``. Only memory of ``allocate`` can be registered."""

    def __init__(self, name: str) -> None:
        self._socket_name = _SOCKET_PREFIX + secrets.token_hex(16).encode()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(self._socket_name)
        super().__init__(name, CAPABILITIES, listening, _host())
        self._files: list[_File] = []
        self._copier = Copier()
        self._copier.start()
        self._start()

    def allocate(self, size_bytes: int) -> memoryview:
        """See ``Transport.allocate``."""
        if size_bytes < 1:
            raise TransportError(f"cannot allocate {size_bytes} bytes")
        fd = os.memfd_create("kvsim-pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        mapping = mmap.mmap(fd, size_bytes, flags=mmap.MAP_SHARED)
        self._files.append(_File(fd, np.frombuffer(mapping, dtype=np.uint8).ctypes.data, size_bytes))
        return memoryview(mapping)

    def close(self) -> None:
        """See ``Transport.close``."""
        super().close()
        self._copier.close()
        for file in self._files:
            os.close(file.fd)
        self._files.clear()

    def _endpoint(self) -> bytes:
        return msgspec.msgpack.encode(_Endpoint(self._socket_name))

    def _address(self, endpoint: bytes) -> bytes:
        socket_name = msgspec.msgpack.decode(endpoint, type=_Endpoint).socket_name
        if not socket_name.startswith(_SOCKET_PREFIX) or len(socket_name) > _SOCKET_NAME_BYTES_MAX:
            raise ValueError(f"socket {socket_name[:40]!r}")
        return socket_name

    def _new_socket(self) -> socket.socket:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def _new_carrier(self, link: Link) -> "_ShmCarrier":
        return _ShmCarrier(link, self._copier)

    def _check_memory(self, memory: Memory) -> None:
        self._file_of(memory)

    def _file_of(self, memory: Memory) -> _File:
        for file in self._files:
            if file.address <= memory.address and memory.address + memory.size_bytes <= file.address + file.size_bytes:
                return file
        raise TransportError("transport shm registers memory of its own allocate() only")

    def _greet(self, peer_name: str, connection: socket.socket) -> None:
        """Send the files: a count, then for each region its place and its descriptor."""
        del peer_name
        regions = self._registry.regions()
        connection.settimeout(_GREETING_TIMEOUT_S)
        connection.sendall(_COUNT.pack(len(regions)))
        for region, memory in regions:
            file = self._file_of(memory)
            place = _PLACE.pack(region.number, memory.address - file.address, memory.size_bytes)
            socket.send_fds(connection, [place], [file.fd])


class _ShmCarrier:
    """Maps the peer's files and copies."""

    def __init__(self, link: Link, copier: Copier) -> None:
        self._link = link
        self._copier = copier
        self._mapped = AddressMap(())
        self._shifts: dict[int, np.uint64] = {}  # of the mapped regions, by number
        self._mappings: list[mmap.mmap] = []
        self._closed = False
        self._at_once = threading.Lock()  # held by a caller that copies by itself

    def open(self, control: socket.socket) -> None:
        """Receive and map the files of all regions that were described and are still there."""
        control.settimeout(_GREETING_TIMEOUT_S)
        (count,) = _COUNT.unpack(_receive(control, _COUNT.size)[0])
        described = {piece.number: piece for piece in self._link.regions.pieces}
        found = {}
        for _ in range(count):
            data, fds = _receive(control, _PLACE.size)
            try:
                number, offset, size_bytes = _PLACE.unpack(data)
                piece = described.get(number)
                if piece is not None and piece.size_bytes == size_bytes and len(fds) == 1:
                    address = self._map(fds[0], offset, size_bytes)
                    found[number] = Piece(number, piece.begin, size_bytes, address)
            finally:
                for fd in fds:
                    os.close(fd)
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
        if job.size_bytes > _AT_ONCE_BYTES:
            if not self._closed:
                self._copier.add(job, targets, sources, job.sizes, self._copied)
            return
        with self._at_once:
            if self._closed:
                return
            if not job.stopped:
                copy(targets, sources, job.sizes)
        self._copied(job)

    def cancel(self, job: Job) -> None:
        """The copier sees ``job.stopped``."""
        del job
        self._copier.look_again()

    def abort(self) -> None:
        """Nothing here waits for the peer."""

    def on_frame(self, kind: int, payload: bytes) -> str:
        """Owners of shm send nothing more."""
        del payload
        return f"it sent a message of kind {kind}"

    def close(self) -> None:
        """Stop copying and let go of the peer's memory."""
        self._closed = True
        with self._at_once:
            self._copier.forget(self._link.owns)
        self._mappings.clear()  # unmapped with the last reference

    def _located(self, job: Job) -> Addresses:
        """Where the peer's ranges lie in this process. Job ranges have been checked, so one region needs no look-up."""
        if len(job.remote_regions) == 1 and job.remote_regions[0] in self._shifts:
            return job.remote + self._shifts[job.remote_regions[0]]
        return self._mapped.locate(job.remote, job.sizes)[0]

    def _copied(self, job: Job) -> None:
        self._link.finish(job, *(job.stopped or ("done", "")))

    def _map(self, fd: int, offset: int, size_bytes: int) -> int:
        """Map a file as far as the region reaches; the address of the region in it. Raises OSError.

        An unsealed or short file would let its owner end this process with SIGBUS, so it is refused.
        """
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ConnectionRefusedError("its memory file is not sealed")
        if os.fstat(fd).st_size < offset + size_bytes:
            raise ConnectionRefusedError("its memory file is shorter than its region")
        mapping = mmap.mmap(fd, offset + size_bytes, flags=mmap.MAP_SHARED)
        populate(mapping)
        self._mappings.append(mapping)
        return np.frombuffer(mapping, dtype=np.uint8).ctypes.data + offset


def _receive(control: socket.socket, size_bytes: int) -> tuple[bytes, list[int]]:
    """Exactly this many bytes, and the descriptors that came with them."""
    data, fds = b"", []
    while len(data) < size_bytes:
        piece, new_fds, _, _ = socket.recv_fds(control, size_bytes - len(data), 4)
        fds += new_fds
        if not piece:
            raise ConnectionResetError("it has closed while it sent its memory files")
        data += piece
    return data, fds


def _host() -> str:
    """Names what abstract unix sockets can reach: this boot of this machine, in this network namespace."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot_id}/{os.stat('/proc/self/ns/net').st_ino}"
