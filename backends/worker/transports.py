"""The transports that a worker can be told to use, by name.

Imported when asked for, as some need libraries that others do not. This module must not know what moves.
"""

from backends.transport import choose
from backends.transport.choose import TRANSPORTS
from backends.transport.port import Access, Capabilities, Transport
from backends.worker.errors import WorkerError
from kvsim.core.cluster import TransferMode

__all__ = ["TRANSPORTS", "announces_layers", "lacking_capability", "open_transport", "peers_may"]


def open_transport(kind: str, name: str, host: str, gpu_pci_address: str = "") -> Transport:
    """The transport of this kind for the worker of this name, for its GPU if it has one: see ``choose.open_transport``.
    Raises WorkerError for a kind that there is not, TransportError for one that cannot work here."""
    if kind not in TRANSPORTS:
        raise WorkerError(f"transport {kind!r} is none of {', '.join(TRANSPORTS)}")
    return choose.open_transport(kind, name, host, gpu_pci_address=gpu_pci_address)


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


def announces_layers(mode: TransferMode) -> bool:
    """Whether peers are told of layers while the rest of a prefill is computed, for them to move: what was queued on a
    GPU must be over by then."""
    return mode in ("push", "streamed", "adaptive")


def peers_may(mode: TransferMode) -> Access:
    """All that peers need of a worker's KV cache in this mode."""
    match mode:
        case "push":
            return "write"
        case "adaptive":
            return "both"
        case _:
            return "read"
