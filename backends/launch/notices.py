"""Exit notices on their way from whatever thread notices them to the driver's, with a file descriptor that wakes it."""

import os
from collections import deque

from backends.launch.port import ExitNotice


class NoticeBox:
    """Any thread may ``put``; one thread takes."""

    def __init__(self) -> None:
        self._notices: deque[ExitNotice] = deque()
        self._flag = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def put(self, notice: ExitNotice) -> None:
        """Add a notice and wake the taker."""
        self._notices.append(notice)
        os.eventfd_write(self._flag, 1)

    def take(self) -> list[ExitNotice]:
        """Every notice so far. The descriptor is readable again only after the next ``put``."""
        try:
            os.eventfd_read(self._flag)
        except BlockingIOError:
            return []
        return [self._notices.popleft() for _ in range(len(self._notices))]

    def fileno(self) -> int:
        """Readable while there may be notices."""
        return self._flag

    def __del__(self) -> None:
        # not in a close(): notices may come and be asked for after their launcher has been closed
        os.close(self._flag)
