"""What the transports of this package have in common: regions, tokens, control connections, events.

``shm``, ``cuda_ipc``, ``tcp``, ``message`` and ``verbs`` derive from it and say how the bytes move. Others need not:
the port is what counts.
"""

import socket
from abc import ABC, abstractmethod

from backends.transport.acceptor import Acceptor
from backends.transport.address_map import AddressMap, OutOfRegionsError, Piece, arrays_of
from backends.transport.description import DESCRIPTION_VERSION, problem_of_description, tensors_of
from backends.transport.frames import FrameChannel
from backends.transport.handshake import Tickets
from backends.transport.jobs import Carrier, Job, JobKind
from backends.transport.ledger import Ledger
from backends.transport.link import CONTROL, NOTIFY, REGION_NUMBER, WITHDRAWN, Link, SocketAddress
from backends.transport.memory import Memory, memory_of
from backends.transport.port import (
    NOTIFICATION_BYTES_MAX,
    Access,
    Capabilities,
    Notification,
    Peer,
    PeerDescription,
    Region,
    TensorMemory,
    TransferHandle,
    TransportError,
    TransportEvent,
)
from backends.transport.registry import Registry
from kvsim.core.descriptors import Ranges
from kvsim.core.kv_tensor import KvTensor


class SocketTransport(ABC):
    """A ``Transport`` whose control connections are sockets. Subclasses must call ``_start`` when they are made."""

    def __init__(self, name: str, capabilities: Capabilities, listening: socket.socket, host: str) -> None:
        self._name = name
        self._capabilities = capabilities
        self._host = host
        self._registry = Registry()
        self._tickets = Tickets()
        self._ledger = Ledger()
        self._links: dict[str, Link] = {}
        self._uses: dict[TransferHandle, int] = {}
        self._served: dict[FrameChannel, None] = {}
        self._closed = False
        self._acceptor = Acceptor(listening, self._tickets, self._serve)

    # --- what subclasses say ---------------------------------------------------------------------------------------

    @abstractmethod
    def allocate(self, size_bytes: int) -> memoryview:
        """See ``Transport.allocate``."""

    @abstractmethod
    def _endpoint(self) -> bytes:
        """What goes into our descriptions: where we listen."""

    @abstractmethod
    def _address(self, endpoint: bytes) -> SocketAddress:
        """Where the owner of this endpoint listens. Raises ValueError."""

    @abstractmethod
    def _new_socket(self) -> socket.socket:
        """A socket to dial with."""

    @abstractmethod
    def _new_carrier(self, link: Link) -> Carrier:
        """What moves the bytes of this link."""

    def _place_of(self, memory: memoryview | TensorMemory) -> Memory:
        """Where this memory lies. Raises TransportError if it cannot be a region."""
        return memory_of(memory)

    def _check_memory(self, memory: Memory) -> None:  # noqa: B027 - most take any memory
        """Raise TransportError if this memory cannot be a region."""

    def _greet(self, peer_name: str, connection: socket.socket) -> None:  # noqa: B027 - most send nothing
        """First words to a peer that has dialled, before any frame."""

    def _serve_further(self, peer_name: str, purpose: int, connection: socket.socket) -> None:
        """Serve a connection of another purpose than CONTROL until it ends."""
        raise ConnectionRefusedError(f"{peer_name} asks for a connection of purpose {purpose}: {connection}")

    def _on_frame(self, peer_name: str, kind: int, payload: bytes) -> str:
        """A peer that has dialled sent a message; what is wrong with it, or an empty text."""
        if kind != NOTIFY:
            return f"it sent a message of kind {kind}"
        self._ledger.post(Notification(peer_name, payload))
        return ""

    # --- the port --------------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """See ``Transport.capabilities``."""
        return self._capabilities

    @property
    def name(self) -> str:
        """See ``Transport.name``."""
        return self._name

    def register(self, memory: memoryview | TensorMemory, tensor: KvTensor, peers_may: Access = "both") -> Region:
        """See ``Transport.register``."""
        self._assert_open()
        place = self._place_of(memory)
        self._check_memory(place)
        return self._registry.register(place, tensor, peers_may)

    def unregister(self, region: Region) -> None:
        """See ``Transport.unregister``."""
        self._registry.unregister(region)
        for channel in list(self._served):
            channel.send(WITHDRAWN, REGION_NUMBER.pack(region.number))

    def describe(self, audience: str) -> PeerDescription:
        """See ``Transport.describe``."""
        self._assert_open()
        return PeerDescription(
            transport=self._capabilities.name,
            version=DESCRIPTION_VERSION,
            owner=self._name,
            audience=audience,
            host=self._host,
            regions=self._registry.describe(),
            token=self._tickets.issue(audience),
            endpoint=self._endpoint(),
        )

    def connect(self, description: PeerDescription) -> Peer:
        """See ``Transport.connect``."""
        self._assert_open()
        address = self._checked_address(description)
        old = self._links.get(description.owner)
        if old is not None and not old.ended:
            raise TransportError(f"there is a connection to {description.owner!r} already: disconnect first")
        peer = Peer(description.owner, tensors_of(description))
        regions = AddressMap(
            [Piece(region.number, region.address, region.size_bytes, region.address) for region in description.regions]
        )
        link = Link(
            self._name,
            peer,
            description,
            regions,
            self._ledger,
            dial=lambda: (self._new_socket(), address),
            finished=self._release,
        )
        self._links[peer.name] = link
        link.begin(self._new_carrier(link))
        return peer

    def disconnect(self, peer_name: str) -> None:
        """See ``Transport.disconnect``."""
        self._tickets.withdraw(peer_name)
        link = self._links.pop(peer_name, None)
        if link is not None:
            link.end("failed", "disconnected", quiet=True)
            link.join()
        self._acceptor.drop(peer_name)

    def read(self, peer: Peer, ranges: Ranges, notification: bytes = b"") -> TransferHandle:
        """See ``Transport.read``."""
        return self._transfer("read", self._capabilities.read, peer, ranges, notification, 0)

    def write(self, peer: Peer, ranges: Ranges, notification: bytes = b"") -> TransferHandle:
        """See ``Transport.write``."""
        return self._transfer("write", self._capabilities.write, peer, ranges, notification, 0)

    def send(self, peer: Peer, ranges: Ranges, tag: int) -> TransferHandle:
        """See ``Transport.send``."""
        return self._transfer("send", self._capabilities.two_sided, peer, ranges, b"", tag)

    def receive(self, peer: Peer, ranges: Ranges, tag: int) -> TransferHandle:
        """See ``Transport.receive``."""
        return self._transfer("receive", self._capabilities.two_sided, peer, ranges, b"", tag)

    def cancel(self, handle: TransferHandle) -> None:
        """See ``Transport.cancel``."""
        for link in list(self._links.values()):
            link.cancel(handle)

    def notify(self, peer: Peer, payload: bytes) -> None:
        """See ``Transport.notify``."""
        _check_payload(payload)
        link = self._links.get(peer.name)
        if link is not None:
            link.send(NOTIFY, payload)

    def poll(self) -> list[TransportEvent]:
        """See ``Transport.poll``."""
        return self._ledger.take()

    def wait(self, timeout_s: float) -> bool:
        """See ``Transport.wait``."""
        return self._ledger.wait(timeout_s)

    def fileno(self) -> int:
        """See ``Transport.fileno``."""
        return self._ledger.fileno()

    def close(self) -> None:
        """See ``Transport.close``."""
        self._closed = True
        links = list(self._links.values())
        for link in links:
            link.end("cancelled", "the transport was closed", quiet=True)
        for link in links:
            link.join()
        self._acceptor.close()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._acceptor.start()

    def _assert_open(self) -> None:
        if self._closed:
            raise TransportError("the transport is closed")

    def _checked_address(self, description: PeerDescription) -> SocketAddress:
        problem = problem_of_description(description, self._capabilities.name, self._name)
        if not problem and self._capabilities.same_host and description.host != self._host:
            problem = (
                f"it is on another host, or in another network namespace (containers: --network=host), which "
                f"{self._capabilities.name} cannot reach"
            )
        if problem:
            raise TransportError(f"the description of {description.owner[:40]!r} cannot be used: {problem}")
        try:
            return self._address(description.endpoint)
        except ValueError as error:
            raise TransportError(f"the endpoint of {description.owner!r} cannot be used: {error}") from None

    def _transfer(
        self, kind: JobKind, possible: bool, peer: Peer, ranges: Ranges, notification: bytes, tag: int
    ) -> TransferHandle:
        self._assert_open()
        if not possible:
            raise TransportError(f"transport {self._capabilities.name} has no {kind}")
        _check_payload(notification)
        if not 0 <= tag < 2**31:
            raise TransportError(f"tag {tag} is not in 0 .. 2**31 - 1")
        link = self._links.get(peer.name)
        if link is None:
            raise TransportError(f"not connected to {peer.name!r}")
        handle = self._ledger.new_handle()
        job = self._checked_job(handle, kind, link, ranges, notification, tag)
        link.submit(job)
        return handle

    def _checked_job(
        self, handle: TransferHandle, kind: JobKind, link: Link, ranges: Ranges, notification: bytes, tag: int
    ) -> Job:
        try:
            source, target, sizes = arrays_of(ranges)
            ours, theirs = (source, target) if kind in ("write", "send") else (target, source)
            remote_regions = link.regions.locate(theirs, sizes)[1] if kind in ("read", "write") else ()
        except ValueError as error:
            raise TransportError(f"{kind} with {link.peer.name!r}, on its side: {error}") from None
        try:
            local, use = self._registry.use(
                ours,
                sizes,
                stop=lambda: link.cancel(handle, "cancelled", "its region was unregistered"),
                cut=lambda: link.end("failed", "it hung while a region was unregistered"),
            )
        except OutOfRegionsError as error:
            raise TransportError(f"{kind} with {link.peer.name!r}, on our side: {error}") from None
        self._uses[handle] = use
        return Job(handle, kind, local, theirs, remote_regions, sizes, notification, tag, own=ours)

    def _release(self, job: Job) -> None:
        self._registry.release(self._uses.pop(job.handle))

    def _serve(self, peer_name: str, purpose: int, connection: socket.socket) -> None:
        if purpose != CONTROL:
            self._serve_further(peer_name, purpose, connection)
            return
        self._greet(peer_name, connection)
        channel = FrameChannel(connection)
        self._served[channel] = None
        for number in self._registry.withdrawn():  # its description may be older than that
            channel.send(WITHDRAWN, REGION_NUMBER.pack(number))
        channel.run(lambda kind, payload: self._on_frame(peer_name, kind, payload))
        del self._served[channel]


def _check_payload(payload: bytes) -> None:
    if len(payload) > NOTIFICATION_BYTES_MAX:
        raise TransportError(f"a notification of {len(payload)} bytes, expected at most {NOTIFICATION_BYTES_MAX}")
