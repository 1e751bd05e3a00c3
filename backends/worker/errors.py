"""What can go wrong on a worker that is not an event: the driver and the worker have lost agreement."""

from kvsim.errors import KvsimError


class WorkerError(KvsimError):
    """A worker cannot be started as its settings say; the message says what to change."""


class OrderError(Exception):
    """An order that this worker cannot carry out. It ends the worker: its blocks are not what the driver believes."""
