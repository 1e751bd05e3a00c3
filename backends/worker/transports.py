"""The transports that a worker can be told to use, by name.

Imported when asked for, as some need libraries that others do not. This module must not know what moves.
"""

from backends.transport.port import Capabilities, Transport
from backends.worker.errors import WorkerError
from kvsim.core.cluster import TransferMode

TRANSPORTS = ("shm", "tcp", "message")


def open_transport(kind: str, name: str, host: str) -> Transport:
    """The transport of this kind for the worker of this name. Raises WorkerError for a kind that there is not."""
    match kind:
        case "shm":
            from backends.transport.shm import ShmTransport  # noqa: PLC0415

            return ShmTransport(name)
        case "tcp":
            from backends.transport.tcp import TcpTransport  # noqa: PLC0415

            return TcpTransport(name, host)
        case "message":
            from backends.transport.message import MessageTransport  # noqa: PLC0415

            return MessageTransport(name, host)
        case _:
            raise WorkerError(f"transport {kind!r} is none of {', '.join(TRANSPORTS)}")


def lacking_capability(mode: TransferMode, capabilities: Capabilities) -> str:
    """What a transfer mode needs and a transport cannot do; empty if it can do everything."""
    match mode:
        case "push" if not capabilities.write:
            return "write into a peer's memory (mode push)"
        case "pull" | "streamed" if not capabilities.read:
            return f"read a peer's memory (mode {mode})"
        case "message" if not capabilities.two_sided:
            return "send and receive (mode message)"
        case _:
            return ""
