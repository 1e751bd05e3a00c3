"""Memory files (memfd): memory of this process that peers map, and the files of a peer that are mapped here.

They have no name in any file system and are gone with the last process that has them, however it ends. Their
descriptors travel over a unix socket. This module must not know transfers.
"""

import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from backends.transport.address_map import Piece
from backends.transport.memory import Memory, populate
from backends.transport.port import TransportError

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_COUNT = struct.Struct("!I")
PLACE = struct.Struct("!IQQ")
"""Region number, offset in its file, size: what goes with each descriptor."""


@dataclass(frozen=True, slots=True, eq=False)
class MemoryFile:
    """A memory file of ours and where it is mapped."""

    fd: int
    address: int
    size_bytes: int


class MemoryFiles:
    """Those of one transport. They are sealed against truncation, so that no peer can pull memory from under another's
    copy."""

    def __init__(self) -> None:
        self._files: list[MemoryFile] = []

    def allocate(self, size_bytes: int) -> memoryview:
        """See ``Transport.allocate``."""
        if size_bytes < 1:
            raise TransportError(f"cannot allocate {size_bytes} bytes")
        fd = os.memfd_create("kvsim-pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        mapping = mmap.mmap(fd, size_bytes, flags=mmap.MAP_SHARED)
        self._files.append(MemoryFile(fd, np.frombuffer(mapping, dtype=np.uint8).ctypes.data, size_bytes))
        return memoryview(mapping)

    def file_of(self, memory: Memory) -> MemoryFile | None:
        """The file in which this memory lies, or None."""
        for file in self._files:
            if file.address <= memory.address and memory.address + memory.size_bytes <= file.address + file.size_bytes:
                return file
        return None

    def send(self, control: socket.socket, places: Iterable[tuple[int, Memory]]) -> None:
        """Give a peer these regions: a count, then for each its place and its file. Raises OSError."""
        found = [(number, memory, self.file_of(memory)) for number, memory in places]
        control.sendall(_COUNT.pack(len(found)))
        for number, memory, file in found:
            assert file is not None, f"region {number} lies in no memory file"
            place = PLACE.pack(number, memory.address - file.address, memory.size_bytes)
            socket.send_fds(control, [place], [file.fd])

    def close(self) -> None:
        """Close the descriptors; what is mapped stays."""
        for file in self._files:
            os.close(file.fd)
        self._files.clear()


class MappedFiles:
    """Regions of one peer, mapped into this process."""

    def __init__(self) -> None:
        self._mappings: list[mmap.mmap] = []

    def receive(self, control: socket.socket, described: Mapping[int, Piece]) -> dict[int, Piece]:
        """Take and map what ``MemoryFiles.send`` gives, as far as it was described; where it lies. Raises OSError."""
        (count,) = _COUNT.unpack(receive(control, _COUNT.size)[0])
        found = {}
        for _ in range(count):
            data, fds = receive(control, PLACE.size)
            try:
                number, offset, size_bytes = PLACE.unpack(data)
                piece = described.get(number)
                if piece is not None and piece.size_bytes == size_bytes and len(fds) == 1:
                    found[number] = Piece(number, piece.begin, size_bytes, self._map(fds[0], offset, size_bytes))
            finally:
                for fd in fds:
                    os.close(fd)
        return found

    def clear(self) -> None:
        """Let go; unmapped with the last reference."""
        self._mappings.clear()

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


def receive(control: socket.socket, size_bytes: int) -> tuple[bytes, list[int]]:
    """Exactly this many bytes, and the descriptors that came with them. Raises OSError."""
    data, fds = b"", []
    while len(data) < size_bytes:
        piece, new_fds, _, _ = socket.recv_fds(control, size_bytes - len(data), 4)
        fds += new_fds
        if not piece:
            raise ConnectionResetError("it has closed while it described its memory")
        data += piece
    return data, fds
