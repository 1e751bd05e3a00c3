"""A file descriptor that one thread makes readable and another one sleeps on. It must not know what is waited for."""

import os
import select
import weakref
from contextlib import suppress


class Waker:
    """A latch with a file descriptor: ``set`` makes it readable until ``clear``. ``set`` may come from any thread."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        # closed with the object, not by a call: a late ``set`` must not hit a descriptor that is somebody else's by now
        for fd in (self._read_fd, self._write_fd):
            weakref.finalize(self, os.close, fd).atexit = False

    def fileno(self) -> int:
        """The descriptor to sleep on."""
        return self._read_fd

    def set(self) -> None:
        """Make it readable."""
        with suppress(BlockingIOError):  # a full pipe is readable already
            os.write(self._write_fd, b"\0")

    def clear(self) -> None:
        """Make it unreadable again."""
        with suppress(BlockingIOError):
            while os.read(self._read_fd, 512):
                pass

    def wait(self, timeout_s: float) -> bool:
        """Sleep until it is readable, at most this long; whether it is."""
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout_s) * 1000))
