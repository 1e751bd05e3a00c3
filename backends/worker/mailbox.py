"""Values from any thread on their way to one thread that sleeps on file descriptors.

Used by workers for what they have to say and by the driver for what clients ask. It must not know what it carries.
"""

import os
import queue
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Mailbox(Generic[_Item]):
    """Any thread may ``put``; one takes. ``fileno`` is readable while there may be something."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._flag = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def put(self, item: _Item) -> None:
        """Add an item and wake the taker."""
        self._items.put(item)
        os.eventfd_write(self._flag, 1)

    def take(self) -> list[_Item]:
        """Every item so far, in order. Does not wait."""
        try:
            os.eventfd_read(self._flag)
        except BlockingIOError:
            return []
        items = []
        while True:
            try:
                items.append(self._items.get_nowait())
            except queue.Empty:
                return items

    def fileno(self) -> int:
        """For a poller."""
        return self._flag

    def __del__(self) -> None:
        # not in a close(): late items may be put after the taker has ended
        os.close(self._flag)
