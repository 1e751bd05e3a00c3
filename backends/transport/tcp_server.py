"""The owner's side of transport tcp: answers READs and WRITEs of one data connection.

Nothing that a peer says is believed: operation, numbers and lengths are bounded before memory is made for them, and
every range is looked up in the registered regions before a byte of it is touched.
"""

import socket

import numpy as np

from backends.transport.acceptor import shut_down
from backends.transport.address_map import OutOfRegionsError
from backends.transport.copying import receive, send
from backends.transport.registry import Registry
from backends.transport.tcp_wire import (
    GRANTED,
    READ,
    REFUSED,
    WRITE,
    Head,
    HeadReader,
    encoded_head,
    place_of,
    problem_of_request,
    receive_ranges,
)


def serve_data(connection: socket.socket, registry: Registry, timeout_ms: int) -> None:
    """Answer requests until the connection ends, which raises OSError; sleep in the kernel between them."""
    connection.settimeout(timeout_ms / 1000)
    heads = HeadReader(connection)
    while True:
        head = heads.read()
        problem = problem_of_request(head)
        if problem:
            raise ConnectionAbortedError(f"a request with a senseless {problem}: {head}")
        _answer(connection, registry, head, timeout_ms)


def _answer(connection: socket.socket, registry: Registry, head: Head, timeout_ms: int) -> None:
    operation, ranges, size_bytes = head
    addresses, sizes = receive_ranges(connection, ranges, timeout_ms)
    try:
        located, use = registry.use(
            addresses,
            sizes,
            stop=_finish_first,
            cut=lambda: shut_down(connection),
            peer_would="write" if operation == WRITE else "read",
        )
    except OutOfRegionsError:
        if operation == WRITE:  # the bytes are on their way already
            waste = np.empty(size_bytes, dtype=np.uint8)
            receive(connection, *place_of(waste), timeout_ms)
        connection.sendall(encoded_head(REFUSED))
        return
    try:
        # ranges within regions are below 2**44 bytes each, and at most RANGES_MAX of them: no overflow
        if int(sizes.sum()) != size_bytes:
            raise ConnectionAbortedError(f"ranges of {sizes.sum()} bytes in a request of {size_bytes}")
        if operation == READ:
            connection.sendall(encoded_head(GRANTED, size_bytes), socket.MSG_MORE)
            send(connection, located, sizes, timeout_ms)
        else:
            receive(connection, located, sizes, timeout_ms)
    finally:
        registry.release(use)
    if operation == WRITE:
        connection.sendall(encoded_head(GRANTED))


def _finish_first() -> None:
    """A request that has begun is short; who takes back its region may wait for its end."""
