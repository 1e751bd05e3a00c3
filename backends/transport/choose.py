"""Transports by name. Each module is imported when its transport is wanted, so that none of them is a dependency."""

from collections.abc import Callable

from backends.transport.port import Transport, TransportError


def _shm(name: str, host: str, gpu_pci_address: str) -> Transport:
    from backends.transport.shm import ShmTransport  # noqa: PLC0415

    del host, gpu_pci_address  # of one host by nature
    return ShmTransport(name)


def _tcp(name: str, host: str, gpu_pci_address: str) -> Transport:
    from backends.transport.tcp import TcpTransport  # noqa: PLC0415

    del gpu_pci_address
    return TcpTransport(name, host)


def _message(name: str, host: str, gpu_pci_address: str) -> Transport:
    from backends.transport.message import MessageTransport  # noqa: PLC0415

    del gpu_pci_address
    return MessageTransport(name, host)


def _verbs(name: str, host: str, gpu_pci_address: str) -> Transport:
    from backends.transport.verbs.transport import VerbsTransport  # noqa: PLC0415

    return VerbsTransport(name, host, gpu_pci_address=gpu_pci_address)


def _cuda_ipc(name: str, host: str, gpu_pci_address: str) -> Transport:
    from backends.transport.cuda_ipc.transport import CudaIpcTransport  # noqa: PLC0415

    del host  # of one host by nature
    return CudaIpcTransport(name, gpu_pci_address=gpu_pci_address)


_MAKERS: dict[str, Callable[[str, str, str], Transport]] = {
    "shm": _shm,
    "tcp": _tcp,
    "message": _message,
    "verbs": _verbs,
    "cuda_ipc": _cuda_ipc,
}

TRANSPORTS = tuple(_MAKERS)
"""Names of all transports."""


def open_transport(transport: str, name: str, host: str = "127.0.0.1", *, gpu_pci_address: str = "") -> Transport:
    """A new transport of this kind for the process that peers call ``name``; ``host`` is the address to listen on. With
    the address of a GPU, like "0000:3b:00.0", verbs takes the network card nearest to it, cuda_ipc moves its memory.

    Raises TransportError for an unknown kind, and where it cannot work here.
    """
    maker = _MAKERS.get(transport)
    if maker is None:
        raise TransportError(f"unknown transport {transport!r}, expected one of {', '.join(TRANSPORTS)}")
    return maker(name, host, gpu_pci_address)
