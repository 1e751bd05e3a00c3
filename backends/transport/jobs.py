"""One transfer on its way through a transport, and what carries it. Internal to this package."""

import socket
import time
from typing import Literal, Protocol, TypeAlias

from backends.transport.address_map import Addresses, Sizes
from backends.transport.port import Completion, Outcome, TransferHandle

JobKind: TypeAlias = Literal["read", "write", "send", "receive"]


class Job:
    """A transfer whose ranges have been checked on our side and against what the peer described.

    ``local`` are addresses of this process and ``own`` the same ones as our regions name them (as the caller gave
    them); ``remote`` those of the peer's regions, which have the numbers ``remote_regions``; of a two-sided transfer
    they mean nothing.
    ``stopped`` is set by the one who wants it to end early: ``(outcome, reason)``.
    """

    __slots__ = (
        "_began_ns",
        "handle",
        "kind",
        "local",
        "notification",
        "own",
        "remote",
        "remote_regions",
        "size_bytes",
        "sizes",
        "stopped",
        "tag",
    )

    def __init__(
        self,
        handle: TransferHandle,
        kind: JobKind,
        local: Addresses,
        remote: Addresses,
        remote_regions: tuple[int, ...],
        sizes: Sizes,
        notification: bytes = b"",
        tag: int = 0,
        *,
        own: Addresses | None = None,
    ) -> None:
        self.handle = handle
        self.kind = kind
        self.local = local
        self.own = local if own is None else own
        self.remote = remote
        self.remote_regions = remote_regions
        self.sizes = sizes
        self.size_bytes = int(sizes.sum())
        self.notification = notification
        self.tag = tag
        self.stopped: tuple[Outcome, str] | None = None
        self._began_ns = time.monotonic_ns()

    def completion(self, outcome: Outcome, reason: str) -> Completion:
        """Its end, now."""
        duration_ns = time.monotonic_ns() - self._began_ns
        return Completion(self.handle, outcome, reason, self.size_bytes, duration_ns)


class Carrier(Protocol):
    """What moves the bytes of one peer's transfers. ``open`` and ``close`` are called by the link's thread, the others
    by any; each job that was started and not closed away must be handed to ``Link.finish`` once."""

    def open(self, control: socket.socket) -> None:
        """Get ready, once the control connection stands; bounded. Raises OSError or TransportError.

        Until it returns the connection is the carrier's: blocking, and nobody else reads or writes it.
        """
        ...

    def start(self, job: Job) -> None:
        """Move the bytes of this job soon. Ignored after ``close``."""
        ...

    def cancel(self, job: Job) -> None:
        """``job.stopped`` has been set: finish it with that as soon as its memory is not touched any more."""
        ...

    def on_frame(self, kind: int, payload: bytes) -> str:
        """The owner has sent a message that is the carrier's own; what is wrong with it, or an empty text."""
        ...

    def abort(self) -> None:
        """The link ends: wake whatever waits for the peer. Any thread, at any time, more than once."""
        ...

    def close(self) -> None:
        """Touch no memory of any job any more, and return when that is so. Comes once, also if ``open`` failed."""
        ...
