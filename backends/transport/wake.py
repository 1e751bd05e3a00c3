"""A file descriptor that one thread makes readable and another one sleeps on. It must not know what is waited for."""

import os
import select
import weakref
from contextlib import suppress


class Waker:
    """A latch with a file descriptor: ``set`` makes it readable until ``clear``. ``set`` may come from any thread."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # closed with the object, not by a call: a late ``set`` must not hit a descriptor that is somebody else's by now
        weakref.finalize(self, os.close, self._fd).atexit = False

    def fileno(self) -> int:
        """The descriptor to sleep on."""
        return self._fd

    def set(self) -> None:
        """Make it readable."""
        with suppress(BlockingIOError):  # a counter at its end is readable already
            os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Make it unreadable again."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until it is readable, at most this long; whether it is."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout_s) * 1000))
