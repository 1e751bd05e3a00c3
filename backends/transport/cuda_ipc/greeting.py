"""What an owner says to a peer that has proven its token, before its memory files: which GPU it has, and how to reach
its regions there.

This is where handles travel, and nowhere else: over a unix socket between two processes of one host. What comes in is
checked before it is believed. This module must not know the CUDA driver.
"""

import os
import socket
import struct
from typing import Annotated

import msgspec

from backends.transport.cuda_ipc.driver import HANDLE_BYTES, UUID_BYTES
from backends.transport.description import ADDRESS_MAX
from backends.transport.memory_files import receive
from backends.transport.port import Access

_LENGTH = struct.Struct("!I")
_BYTES_MAX = 64 * 1024
_CREDENTIALS = struct.Struct("3i")  # struct ucred of Linux: process, user, group

_Below63Bits = Annotated[int, msgspec.Meta(ge=0, le=ADDRESS_MAX - 1)]


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names a GPU in all processes of a machine. Instances of one GPU in MIG mode have its address and a UUID each."""

    uuid: Annotated[bytes, msgspec.Meta(min_length=UUID_BYTES, max_length=UUID_BYTES)]
    pci_address: Annotated[str, msgspec.Meta(max_length=32)]


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[offset, offset + size_bytes)`` of the allocation that ``handle`` opens in another process: all of it. In the
    owner's own process it lies at ``address``."""

    handle: Annotated[bytes, msgspec.Meta(min_length=HANDLE_BYTES, max_length=HANDLE_BYTES)]
    offset: _Below63Bits
    size_bytes: _Below63Bits
    address: _Below63Bits


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``exports``: regions on the GPU by number; ``rights``: what peers may do with each region, these and others."""

    gpu: Identity
    exports: dict[int, Export]
    rights: dict[int, Access]


def send_greeting(control: socket.socket, greeting: Greeting) -> None:
    """The owner's half. Raises OSError."""
    content = msgspec.msgpack.encode(greeting)
    control.sendall(_LENGTH.pack(len(content)) + content)


def receive_greeting(control: socket.socket) -> Greeting:
    """The peer's half. Raises OSError, and ValueError for what is none."""
    (length,) = _LENGTH.unpack(receive(control, _LENGTH.size)[0])
    if length > _BYTES_MAX:
        raise ConnectionRefusedError(f"it describes its GPU in {length} bytes, expected at most {_BYTES_MAX}")
    return msgspec.msgpack.decode(receive(control, length)[0], type=Greeting)


def is_own_process(control: socket.socket) -> bool:
    """Whether the owner at the other end is this very process, as the kernel says, not the owner."""
    credentials = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0]) == os.getpid()
