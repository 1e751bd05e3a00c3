"""Our side of one connected peer: dials it, keeps its transfers, notices when it goes.

A thread of the link does everything that may wait for the peer; it sleeps while nothing happens. How bytes move is the
carrier's business, which this module must not know.
"""

import socket
import struct
import threading
from collections.abc import Callable
from typing import TypeAlias

from backends.transport.acceptor import shut_down
from backends.transport.address_map import AddressMap
from backends.transport.frames import FrameChannel
from backends.transport.handshake import prove_to_owner
from backends.transport.jobs import Carrier, Job
from backends.transport.ledger import Ledger
from backends.transport.port import Outcome, Peer, PeerDescription, PeerLost, PeerReady, TransferHandle, TransportError

CONTROL = 0
"""Purpose of the connection that a link keeps; transports number further ones from 1."""

NOTIFY = 0
"""Kind of the frames from a dialler that carry notifications."""

WITHDRAWN = 1
"""Kind of the frames from an owner that name a region that it has unregistered. Transports number theirs from 2."""

REGION_NUMBER = struct.Struct("!I")


SocketAddress: TypeAlias = tuple[str, int] | bytes

_CONNECT_TIMEOUT_S = 5.0
_WITHDRAWN_REASON = "the peer has unregistered the region"


class Link:
    """One call of ``connect``. It ends once, by itself or by ``end``, and cannot be revived.

    ``dial`` makes a socket and says where to connect it; ``finished`` is told of each job before its completion is.
    """

    def __init__(
        self,
        own_name: str,
        peer: Peer,
        description: PeerDescription,
        regions: AddressMap,
        ledger: Ledger,
        dial: Callable[[], tuple[socket.socket, SocketAddress]],
        finished: Callable[[Job], None],
    ) -> None:
        self.peer = peer
        self.description = description
        self.regions = regions
        self._own_name = own_name
        self._ledger = ledger
        self._dial = dial
        self._finished = finished
        self._lock = threading.Lock()
        self._jobs: dict[TransferHandle, Job] = {}
        self._waiting: list[Job] = []
        self._connections: list[socket.socket] = []
        self._channel: FrameChannel | None = None
        self._unsent: list[tuple[int, bytes]] = []
        self._ready = False
        self._ending: tuple[Outcome, str] | None = None
        self._quiet = False
        self._ended = False
        self._withdrawn: set[int] = set()
        self._carrier: Carrier
        self._thread = threading.Thread(target=self._run, name=f"transport-link-{peer.name}", daemon=True)

    def begin(self, carrier: Carrier) -> None:
        """Start to connect."""
        self._carrier = carrier
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether it is over: its last event has been posted."""
        return self._ended

    # --- transfers -------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Take on a transfer: started when the link is ready, finished in any case."""
        with self._lock:
            self._jobs[job.handle] = job
            if not len(job.sizes):
                job.stopped = ("done", "")
            elif not self._withdrawn.isdisjoint(job.remote_regions):
                job.stopped = ("failed", _WITHDRAWN_REASON)
            elif not self._ready and not self._ended:
                self._waiting.append(job)
                return
        if self._ended:
            self.finish(job, "failed", "the peer is lost")
        elif job.stopped:
            self.finish(job, *job.stopped)
        else:
            self._carrier.start(job)

    def cancel(self, handle: TransferHandle, outcome: Outcome = "cancelled", reason: str = "cancelled") -> None:
        """End this transfer early, if it is one of ours and not finished."""
        with self._lock:
            job = self._jobs.get(handle)
            if job is None:
                return
            job.stopped = job.stopped or (outcome, reason)
            waits = job in self._waiting
            if waits:
                self._waiting.remove(job)
        if waits:
            self.finish(job, *job.stopped)
        else:
            self._carrier.cancel(job)

    def finish(self, job: Job, outcome: Outcome, reason: str = "") -> None:
        """Report the end of a transfer, unless it has been reported."""
        with self._lock:
            if self._jobs.pop(job.handle, None) is None:
                return
        if outcome == "done" and job.notification:
            self.send(NOTIFY, job.notification)
        self._finished(job)
        self._ledger.post(job.completion(outcome, reason))

    def owns(self, job: Job) -> bool:
        """Whether this is one of our transfers that are not finished."""
        with self._lock:
            return job.handle in self._jobs

    def withdraw(self, region: int) -> None:
        """The owner has unregistered this region: what touches it fails, now and later."""
        with self._lock:
            self._withdrawn.add(region)
            handles = [handle for handle, job in self._jobs.items() if region in job.remote_regions]
        for handle in handles:
            self.cancel(handle, "failed", _WITHDRAWN_REASON)

    # --- the connection --------------------------------------------------------------------------------------------

    def send(self, kind: int, payload: bytes) -> None:
        """Send a message over the control connection, now or as soon as it stands; dropped after the end."""
        with self._lock:
            if self._channel is None:
                if not self._ended:
                    self._unsent.append((kind, payload))
                return
        self._channel.send(kind, payload)

    def connect(self, purpose: int) -> socket.socket:
        """A new connection to the owner, on which our token is proven; ``end`` interrupts it. Raises OSError."""
        connection, address = self._dial()
        with self._lock:
            self._connections.append(connection)
            if self._ending:
                raise ConnectionAbortedError(self._ending[1])
        connection.settimeout(_CONNECT_TIMEOUT_S)
        connection.connect(address)
        prove_to_owner(connection, self.description.token, self._own_name, purpose)
        return connection

    def end(self, outcome: Outcome, reason: str, *, quiet: bool = False) -> None:
        """Let go of the peer: transfers end with this outcome. ``quiet``: the caller knows, so PeerLost is not told."""
        with self._lock:
            self._ending = self._ending or (outcome, reason)
            self._quiet = self._quiet or quiet
            for connection in self._connections:
                shut_down(connection)
            channel = self._channel
        if channel is not None:
            channel.end(reason)
        self._carrier.abort()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _run(self) -> None:
        reason = self._live()
        self.end("failed", reason)  # wakes the carrier's threads; does nothing where end was called before
        self._carrier.close()
        with self._lock:
            self._ended = True
            outcome, why = self._ending or ("failed", reason)
            jobs = list(self._jobs.values())
            self._waiting.clear()
        for job in jobs:
            self.finish(job, outcome, why)
        for connection in self._connections:
            connection.close()
        if not self._quiet:
            self._ledger.post(PeerLost(self.peer.name, why))

    def _live(self) -> str:
        """Connect and stay until the end; why it came."""
        try:
            connection = self.connect(CONTROL)
            self._carrier.open(connection)
            channel = FrameChannel(connection)
        except (OSError, ValueError, TransportError) as error:  # ValueError: a host's name that is none
            return f"it cannot be reached: {error}"
        with self._lock:
            if self._ending:
                return self._ending[1]
            self._channel = channel
            unsent, self._unsent = self._unsent, []
            for kind, payload in unsent:
                channel.send(kind, payload)
            self._ready = True
            waiting, self._waiting = self._waiting, []
            self._ledger.post(PeerReady(self.peer.name))
        for job in waiting:
            self._carrier.start(job)
        return channel.run(self._on_frame)

    def _on_frame(self, kind: int, payload: bytes) -> str:
        if kind != WITHDRAWN:
            return self._carrier.on_frame(kind, payload)
        if len(payload) != REGION_NUMBER.size:
            return f"it withdraws a region in {len(payload)} bytes"
        self.withdraw(*REGION_NUMBER.unpack(payload))
        return ""
