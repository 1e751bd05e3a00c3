"""Real workers of this machine with a relay before every port: the scene on which mishaps take place.

The relays carry what workers say to the scheduler and, where the transport is ``tcp``, the KV cache itself. Both ends
prove who they are through a relay as they would without one. This module must not know when what happens.
"""

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import msgspec

from backends.chaos.relay import LOOPBACK, Relays
from backends.control.compatibility import Compatibility
from backends.control.errors import ControlError, Refusal
from backends.control.ticket import LaunchTicket, new_secret
from backends.control.worker_channel import WorkerChannel
from backends.driver.driver import Observer
from backends.driver.service import Service, ServiceLimits
from backends.launch.local import LocalLauncher
from backends.launch.port import WorkerHandle, WorkerLaunch
from backends.transport.description import PeerDescription
from backends.transport.tcp_address import TcpEndpoint, checked_address
from backends.worker.settings import WorkerSettings
from kvsim.core.messages import WorkerId

STRANGER_TIMEOUT_S = 10.0


class RelayedLauncher(LocalLauncher):
    """Starts workers that reach their driver through a relay each."""

    def __init__(self, relays: Relays) -> None:
        super().__init__()
        self.tickets: dict[WorkerId, LaunchTicket] = {}
        self._relays = relays

    def start(self, launch: WorkerLaunch) -> WorkerHandle:
        """As any launcher, with another address in the ticket."""
        address = urlsplit(launch.ticket.endpoint)
        assert address.port is not None, launch.ticket.endpoint
        self.tickets[launch.ticket.worker] = launch.ticket
        port = self._relays.open(control_relay(launch.ticket.name), LOOPBACK, address.port)
        return super().start(replace(launch, ticket=replace(launch.ticket, endpoint=f"tcp://{LOOPBACK}:{port}")))


class Scene:
    """``service`` runs while the scene is entered, in a thread of its own."""

    def __init__(self, settings: WorkerSettings, observers: Sequence[Observer], limits: ServiceLimits) -> None:
        self.settings = settings
        self.relays = Relays()
        self.launcher = RelayedLauncher(self.relays)
        readdress = self._readdress if settings.transport == "tcp" else None
        self.service = Service(settings, self.launcher, observers, limits=limits, readdress=readdress)

    def __enter__(self) -> Self:
        try:
            self.service.start()
        except BaseException:
            self._close()
            raise
        self.service.start_thread()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def present(self) -> list[WorkerId]:
        """The workers that serve, by id."""
        return [spec.id for spec in self.settings.cluster.workers if self.service.process(spec.id)]

    def end(self, worker: WorkerId, number: signal.Signals) -> None:
        """Send a worker a signal."""
        process = self.service.process(worker)
        if process:
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def control_relays(self) -> list[str]:
        """Relays to the scheduler, by name, of the workers that serve."""
        return [control_relay(self.settings.cluster.workers[worker].name) for worker in self.present()]

    def data_relays(self) -> list[str]:
        """Relays between two workers, by name."""
        return [name for name in self.relays.names() if name.startswith(_DATA)]

    def throw_garbage(self, content: bytes) -> int:
        """Send bytes that mean nothing to the driver and to every worker that listens. Returns to how many ports."""
        driver = urlsplit(next(iter(self.launcher.tickets.values())).endpoint).port
        assert driver is not None
        ports = [driver, *(self.relays.port(name) for name in self.data_relays())]
        for port in ports:
            with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1.0) as connection:
                connection.sendall(content)
        return len(ports)

    def send_stranger(self, worker: WorkerId) -> str:
        """Ask to be this worker without knowing the secret. Returns how that was answered; AssertionError if it was
        believed."""
        ticket = replace(self.launcher.tickets[worker], secret=new_secret())
        model = self.settings.model
        compatibility = Compatibility(model.fingerprint(), model.dtype, self.settings.cluster.kv)
        try:
            channel = WorkerChannel(ticket, compatibility, timeout_s=STRANGER_TIMEOUT_S)
        except (Refusal, ControlError) as refusal:
            return str(refusal)
        channel.close()
        raise AssertionError(f"a stranger was taken for worker {ticket.name}")

    def _readdress(self, owner: str, peer: str, description: bytes) -> bytes:
        decoded = msgspec.msgpack.decode(description, type=PeerDescription)
        host, port = checked_address(decoded.endpoint)
        endpoint = TcpEndpoint(LOOPBACK, self.relays.open(f"{_DATA}{peer} to {owner}", host, port))
        return msgspec.msgpack.encode(msgspec.structs.replace(decoded, endpoint=msgspec.msgpack.encode(endpoint)))

    def _close(self) -> None:
        try:
            self.service.close()
        finally:
            self.relays.close()


_DATA = "KV of "


def control_relay(worker: str) -> str:
    """The name of the relay between this worker and the scheduler."""
    return f"words of {worker}"
