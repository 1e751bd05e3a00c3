"""Two-sided transfers of packed buffers through torch gloo: the baseline that one-sided transports are held against.

Both callers do their half: the source gathers its ranges into a buffer and sends it, the target receives it into a
buffer of its own and scatters. Small control messages say who is ready for which tag (``rendezvous``). Each pair of
peers has a process group of two, made when both have connected, so peers come and go as they like.

gloo authenticates nobody: its ports are found over our authenticated connections and keys hold a secret, but a
stranger who can reach them can disturb. For trusted networks.
"""

import socket
import threading
from importlib.util import find_spec

from backends.transport.link import NOTIFY, Link
from backends.transport.message_carrier import MessageCarrier
from backends.transport.port import Capabilities, TransportError
from backends.transport.tcp_address import checked_address
from backends.transport.tcp_based import TcpBasedTransport

_EARLY_MAX = 16
"""Messages of a peer that are kept until our caller connects to it."""

CAPABILITIES = Capabilities(
    name="message",
    read=False,
    write=False,
    two_sided=True,
    owner_runs_code=True,
    same_host=False,
    any_memory=True,
    device_memory=False,
    revocable=True,
    access_enforced=True,
)


class MessageTransport(TcpBasedTransport):
    """The ``Transport`` named ``message``. ``host`` and ``advertised_host`` as for tcp. Needs torch."""

    def __init__(
        self, name: str, host: str = "127.0.0.1", *, advertised_host: str = "", stall_timeout_s: float = 10.0
    ) -> None:
        if find_spec("torch") is None:
            raise TransportError("transport message needs torch, which is not installed: pip install 'kvsim[engine]'")
        super().__init__(name, CAPABILITIES, host, advertised_host, stall_timeout_s)
        self._lock = threading.Lock()
        self._carriers: dict[str, MessageCarrier] = {}
        self._early: dict[str, list[tuple[int, bytes]]] = {}
        self._start()

    def disconnect(self, peer_name: str) -> None:
        """See ``Transport.disconnect``."""
        super().disconnect(peer_name)
        with self._lock:
            self._carriers.pop(peer_name, None)
            self._early.pop(peer_name, None)

    def _new_carrier(self, link: Link) -> MessageCarrier:
        rank = 0 if self._name < link.peer.name else 1
        peer_host = checked_address(link.description.endpoint)[0]
        carrier = MessageCarrier(link, rank, self._where.host, peer_host, self._timeout_ms)
        with self._lock:
            early = self._early.pop(link.peer.name, None)
            carrier.greeted = early is not None
            self._carriers[link.peer.name] = carrier
        for kind, payload in early or ():
            carrier.on_peer_frame(kind, payload)
        return carrier

    def _greet(self, peer_name: str, connection: socket.socket) -> None:
        """A carrier belongs to one connection of the peer to us, as it does to one of ours to the peer."""
        del connection
        with self._lock:
            carrier = self._carriers.get(peer_name)
            if carrier is not None and not carrier.greeted:
                carrier.greeted = True
                return
            self._carriers.pop(peer_name, None)
            self._early[peer_name] = []
        if carrier is not None:
            carrier.replace()

    def _on_frame(self, peer_name: str, kind: int, payload: bytes) -> str:
        if kind == NOTIFY:
            return super()._on_frame(peer_name, kind, payload)
        with self._lock:
            carrier = self._carriers.get(peer_name)
            if carrier is None:
                early = self._early.setdefault(peer_name, [])
                early.append((kind, payload))
                return "" if len(early) <= _EARLY_MAX else "it speaks before it was connected to"
        return carrier.on_peer_frame(kind, payload)
