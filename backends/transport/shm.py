"""Transfers between processes of one host through shared memory: the initiator copies, the owner runs nothing.

A peer gets the whole allocation in which a region lies, for reading and writing, and what it has mapped cannot be taken
back from it (``revocable`` is False): use this between processes that trust each other with their memory.
"""

from backends.transport.port import Capabilities
from backends.transport.shared_memory import SharedMemoryTransport

CAPABILITIES = Capabilities(
    name="shm",
    read=True,
    write=True,
    two_sided=False,
    owner_runs_code=False,
    same_host=True,
    any_memory=False,
    device_memory=False,
    revocable=False,
    access_enforced=False,
)


class ShmTransport(SharedMemoryTransport):
    """The ``Transport`` named ``shm``. Only memory of ``allocate`` can be registered."""

    def __init__(self, name: str) -> None:
        super().__init__(name, CAPABILITIES)
        self._start()
