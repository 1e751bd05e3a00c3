"""Scattered copies, and scatter/gather on stream sockets, between addresses of this process.

In C where the extension ``_copy`` was built, else in Python at about half the speed for small blocks. Both release the
interpreter lock while bytes move. Addresses must have been checked: nothing here can.
"""

import ctypes
import errno
import select
import socket
from itertools import islice

from backends.transport.address_map import Addresses, Sizes

try:
    from backends.transport import _copy
except ImportError:  # installed where there was no compiler
    NATIVE = False
else:
    NATIVE = True

_PIECES_MAX = 1024  # entries of one sendmsg or recvmsg: UIO_MAXIOV of Linux


def copy(targets: Addresses, sources: Addresses, sizes_bytes: Sizes, stop: bytearray | None = None) -> int:
    """Copy each range, one after the other; how many were copied. Sources and targets must not overlap.

    Another thread can end it between two ranges by setting the first byte of ``stop``.
    """
    call = _copy.copy if NATIVE else copy_in_python
    return call(targets, sources, sizes_bytes, bytearray(1) if stop is None else stop)


def send(connection: socket.socket, addresses: Addresses, sizes_bytes: Sizes, timeout_ms: int) -> None:
    """Send all ranges, one after the other.

    Raises OSError where the stream ends or fails, TimeoutError after ``timeout_ms`` without any progress.
    """
    if NATIVE:
        _copy.send(connection.fileno(), addresses, sizes_bytes, timeout_ms)
    else:
        send_in_python(connection, addresses, sizes_bytes, timeout_ms)


def receive(connection: socket.socket, addresses: Addresses, sizes_bytes: Sizes, timeout_ms: int) -> None:
    """Fill all ranges, one after the other, from the stream. Errors as in ``send``."""
    if NATIVE:
        _copy.receive(connection.fileno(), addresses, sizes_bytes, timeout_ms)
    else:
        receive_in_python(connection, addresses, sizes_bytes, timeout_ms)


def copy_in_python(targets: Addresses, sources: Addresses, sizes_bytes: Sizes, stop: bytearray) -> int:
    """``copy`` without the extension."""
    memmove, copied = ctypes.memmove, 0
    for target, source, size_bytes in zip(targets.tolist(), sources.tolist(), sizes_bytes.tolist(), strict=True):
        if stop[0]:
            break
        memmove(target, source, size_bytes)
        copied += 1
    return copied


def send_in_python(connection: socket.socket, addresses: Addresses, sizes_bytes: Sizes, timeout_ms: int) -> None:
    """``send`` without the extension."""
    views = _views(addresses, sizes_bytes)
    while views:
        try:
            moved = connection.sendmsg(list(islice(views, _PIECES_MAX)), (), _flags())
        except BlockingIOError:
            _await(connection, select.POLLOUT, timeout_ms)
        else:
            views = _rest(views, moved)


def receive_in_python(connection: socket.socket, addresses: Addresses, sizes_bytes: Sizes, timeout_ms: int) -> None:
    """``receive`` without the extension."""
    views = _views(addresses, sizes_bytes)
    while views:
        try:
            moved = connection.recvmsg_into(list(islice(views, _PIECES_MAX)), 0, socket.MSG_DONTWAIT)[0]
        except BlockingIOError:
            _await(connection, select.POLLIN, timeout_ms)
        else:
            if not moved:
                raise ConnectionResetError(errno.ECONNRESET, "the other side has ended the stream")
            views = _rest(views, moved)


def _flags() -> int:
    return socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


def _views(addresses: Addresses, sizes_bytes: Sizes) -> list[memoryview]:
    return [
        memoryview((ctypes.c_ubyte * size_bytes).from_address(address))
        for address, size_bytes in zip(addresses.tolist(), sizes_bytes.tolist(), strict=True)
        if size_bytes
    ]


def _rest(views: list[memoryview], moved_bytes: int) -> list[memoryview]:
    """What is left of the views after their first ``moved_bytes`` bytes."""
    for at, view in enumerate(views):
        if moved_bytes < len(view):
            return [view[moved_bytes:], *views[at + 1 :]]
        moved_bytes -= len(view)
    return []


def _await(connection: socket.socket, event: int, timeout_ms: int) -> None:
    poll = select.poll()
    poll.register(connection, event)
    if not poll.poll(timeout_ms):
        raise TimeoutError(errno.ETIMEDOUT, f"no progress for {timeout_ms} ms")
