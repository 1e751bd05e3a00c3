"""What a launcher hands a new worker process, secret included, so that it can reach its driver.

The ticket travels through a pipe that the child inherits, never in arguments or the environment, which other users of
the machine can read or which end up in logs. The environment only names the file descriptor.

``settings`` are the worker's own (model folder, device, pool size, ...): bytes that only ``backends.worker`` reads.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

import msgspec

from backends.control.errors import ControlError
from kvsim.core.messages import WorkerId

TICKET_FD_VARIABLE = "KVSIM_TICKET_FD"
SECRET_BYTES = 32
SECRET_BYTES_MIN = 16
"""Shorter secrets could be guessed from one recorded proof."""
TICKET_BYTES_MAX = 60_000
"""A ticket fits the buffer of a pipe (64 KiB on Linux, pipe(7)): it is written before the child exists."""


@dataclass(frozen=True, slots=True)
class LaunchTicket:
    """Where the driver is, how to recognise it, and what proves to it that this worker was invited.

    ``driver_key`` is the driver's public CURVE key (40 characters of Z85); whoever answers at ``endpoint`` without the
    private key that belongs to it cannot even be talked to. ``secret`` must not be logged.
    """

    worker: WorkerId
    name: str
    endpoint: str
    driver_key: str
    secret: bytes = field(repr=False)
    settings: bytes = field(repr=False)


def new_secret() -> bytes:
    """A fresh shared secret of ``SECRET_BYTES`` random bytes; one for each run of a driver."""
    return os.urandom(SECRET_BYTES)


def open_ticket(ticket: LaunchTicket) -> int:
    """The reading end of a pipe that holds the ticket: pass it to the child, then close it here.

    Raises ControlError if the ticket is too large.
    """
    content = msgspec.msgpack.encode(ticket)
    if len(content) > TICKET_BYTES_MAX:
        raise ControlError(
            f"worker {ticket.name}: its settings have {len(ticket.settings)} bytes, at most about {TICKET_BYTES_MAX} "
            "can be handed over; put large parts into a file and name it in the settings"
        )
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with open(writer, "wb") as pipe:
        pipe.write(content)
    return reader


def read_ticket(environment: Mapping[str, str]) -> LaunchTicket:
    """The ticket of this process, read once; the descriptor is closed after that.

    Raises ControlError if this process was not started by a launcher.
    """
    number = environment.get(TICKET_FD_VARIABLE, "")
    not_launched = ControlError(
        f"{TICKET_FD_VARIABLE} names no readable ticket: a worker is started by a launcher, not by hand"
    )
    if not number.isdecimal():
        raise not_launched
    try:
        with open(int(number), "rb") as pipe:
            return _read(pipe)
    except (OSError, msgspec.DecodeError) as error:
        raise not_launched from error


def _read(pipe: BinaryIO) -> LaunchTicket:
    return msgspec.msgpack.decode(pipe.read(TICKET_BYTES_MAX + 1), type=LaunchTicket)
