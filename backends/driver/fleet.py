"""The worker processes behind a driver: started, shaking hands, connected, serving, lost.

A worker is lost to the scheduler only when its process has ended: until then it may still write into others' memory.
So whoever is to be given up is killed first, and the exit notice of its launcher says when that has happened. That is
whoever is silent for too long, and whoever is not connected in time after its start: while it loads its model it does
not beat.

This module must not know requests, nor when anything happens: instants are given.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from backends.control.driver_channel import DriverChannel, PeerRefused, Received
from backends.control.errors import Refusal
from backends.control.heartbeat import HeartbeatWatch
from backends.control.messages import (
    DriverMessage,
    Heartbeat,
    PeerConnected,
    PeerFailed,
    Ready,
    Report,
    Stop,
    TransferFailed,
    Trouble,
    WorkerMessage,
)
from backends.control.report_checks import check_ready
from backends.control.ticket import LaunchTicket
from backends.driver.connections import Connections, Readdress
from backends.driver.driver import Driver
from backends.driver.errors import ServiceError
from backends.launch.port import ExitNotice, Launcher, WorkerHandle, WorkerLaunch
from backends.worker.settings import WorkerSettings, encode_settings
from kvsim.core.cluster import Role
from kvsim.core.messages import WorkerId

_log = logging.getLogger("kvsim.driver")

Resources: TypeAlias = tuple[tuple[str, float], ...]
"""What a launcher needs to find a place for a worker: see ``WorkerLaunch``."""

State: TypeAlias = Literal["away", "starting", "serving", "ending"]


@dataclass(slots=True)
class _Member:
    """``counted_on``: the scheduler takes it to be there. ``reason``: why it is given up, if anybody said so before it
    ended."""

    counted_on: bool
    state: State = "away"
    handle: WorkerHandle | None = None
    process: int = 0
    reason: str = ""


class Fleet:
    """Every worker that the cluster may have. The scheduler counts on those that are ``present`` from the start, so
    traffic must wait for ``complete``; before that a worker that fails is the user's problem (ServiceError), later the
    scheduler's."""

    def __init__(
        self,
        settings: WorkerSettings,
        launcher: Launcher,
        channel: DriverChannel,
        watch: HeartbeatWatch,
        secret: bytes,
        resources: Mapping[Role, Resources],
        readdress: Readdress | None = None,
        *,
        start_timeout_ns: int,
    ) -> None:
        self.connections = Connections(settings.cluster, self.send, readdress)
        self._settings = settings
        self._specs = settings.cluster.workers
        self._launcher = launcher
        self._channel = channel
        self._watch = watch
        self._starts = HeartbeatWatch(start_timeout_ns)  # its one beat is the launch; forgotten once connected
        self._secret = secret
        self._resources = resources
        self._members = [_Member(spec.present) for spec in self._specs]
        self._opened = False
        self._stopped = False

    # --- beginning and end --------------------------------------------------------------------------------------------

    def launch(self, worker: WorkerId, now_ns: int) -> None:
        """Start the process of a worker that is away. Raises ControlError if that cannot be done."""
        member, spec = self._members[worker], self._specs[worker]
        assert self.is_away(worker), f"worker {spec.name} is {member.state}"
        self._channel.expect(worker)
        ticket = LaunchTicket(
            worker,
            spec.name,
            self._channel.endpoint,
            self._channel.public_key,
            self._secret,
            encode_settings(self._settings),
        )
        threads = (("OMP_NUM_THREADS", str(self._settings.threads)),)
        resources = self._resources.get(spec.role, ())
        member.handle = self._launcher.start(WorkerLaunch(ticket, environment=threads, resources=resources))
        member.state, member.reason = "starting", ""
        self._starts.beat(worker, now_ns)

    def complete(self) -> bool:
        """Whether every worker that is present is there and connected; from then on losses are events."""
        if not self._opened and not self.waiting_for():
            self._opened = True
            for spec in self._specs:
                if spec.present:
                    self._members[spec.id].state = "serving"
                    self._starts.forget(spec.id)
        return self._opened

    def waiting_for(self) -> str:
        """The workers that are not there or not connected, for people."""
        return ", ".join(spec.name for spec in self._specs if spec.present and not self.connections.complete(spec.id))

    def stop(self) -> None:
        """Ask every worker to end. Their exits are no news from now on."""
        self._stopped = True
        for spec in self._specs:
            self._dismiss(spec.id)

    @property
    def all_away(self) -> bool:
        """Whether no process is left."""
        return all(member.state == "away" for member in self._members)

    def is_away(self, worker: WorkerId) -> bool:
        """Whether no process of this worker is left."""
        return self._members[worker].state == "away"

    def process(self, worker: WorkerId) -> int:
        """The operating system's id of a worker's process on its host; 0 if it is not there."""
        member = self._members[worker]
        return member.process if member.state == "serving" else 0

    # --- messages -----------------------------------------------------------------------------------------------------

    def send(self, worker: WorkerId, message: DriverMessage) -> None:
        """Tell a worker; one that cannot be told is given up. One that is told to stop is not counted on any more."""
        if isinstance(message, Stop):
            self._dismiss(worker)
        elif self._members[worker].state in ("starting", "serving") and not self._channel.send(worker, message):
            self.give_up(worker, "its connection to the driver is gone")

    def take(self, received: Received, driver: Driver, now_ns: int) -> None:
        """One message of a worker. What cannot be true ends the worker."""
        worker = received.worker
        if self._members[worker].state not in ("starting", "serving"):
            return
        self._watch.beat(worker, now_ns)
        try:
            self._take(worker, received.message, driver)
        except Refusal as refusal:
            self.give_up(worker, refusal.text)

    def refused(self, peer: PeerRefused) -> None:
        """The channel turned a peer away."""
        _log.warning("refused %s: %s", "a stranger" if peer.worker is None else f"worker {peer.worker}", peer.text)
        if peer.was_member and peer.worker is not None:
            self.give_up(peer.worker, peer.text)

    def give_up(self, worker: WorkerId, reason: str) -> None:
        """End a worker that is not to be relied on any more; it is lost when its process has ended."""
        member = self._members[worker]
        if member.handle is not None:
            member.state, member.reason = "ending", member.reason or reason
            self._forget(worker)
            self._launcher.kill(member.handle)

    def excuse(self, duration_ns: int, now_ns: int) -> None:
        """The driver was not there to listen for so long, up to now: the whole machine may have stood still."""
        for watch in (self._watch, self._starts):
            watch.excuse(duration_ns, now_ns)

    def give_up_late(self, now_ns: int) -> None:
        """End those that have been silent for too long, also after they were told to stop, and those that are not
        connected in time after their start."""
        for worker in self._watch.late(now_ns):
            silence_s = self._watch.silence_ns(worker, now_ns) / 1e9
            self.give_up(worker, f"it has been silent for {silence_s:.1f} s")
        for worker in self._starts.late(now_ns):
            start_s = self._starts.silence_ns(worker, now_ns) / 1e9
            why = "it hangs, or start_timeout is too short for its model"
            self.give_up(worker, f"it is not connected {start_s:.1f} s after its start: {why}")

    def deadline_ns(self) -> int | None:
        """The first instant at which ``give_up_late`` has somebody to end if nothing is heard; None if nobody."""
        deadlines_ns = [watch.deadline_ns() for watch in (self._watch, self._starts)]
        return min([at_ns for at_ns in deadlines_ns if at_ns is not None], default=None)

    def exited(self, notice: ExitNotice, driver: Driver) -> None:
        """A process has ended. Raises ServiceError if the workers were not complete yet."""
        worker = notice.handle.worker
        member = self._members[worker]
        if member.handle is None or member.handle.number != notice.handle.number:
            return
        reason = f"worker {notice.handle.name}: {member.reason}; {notice}" if member.reason else str(notice)
        member.state, member.handle = "away", None
        self._forget(worker)
        if self._stopped:
            return
        if not self._opened and member.counted_on:
            raise ServiceError(reason)
        if notice.status != 0:
            _log.warning("%s", reason)
        apart = self.connections.lost(worker)
        if member.counted_on:
            member.counted_on = False
            driver.worker_lost(worker)
        for peer in apart:
            driver.disconnected(peer, worker)

    def _take(self, worker: WorkerId, message: WorkerMessage, driver: Driver) -> None:
        match message:
            case Report():
                driver.report(worker, message)
            case TransferFailed(transfer, reason):
                driver.transfer_failed(worker, transfer, reason)
            case Ready():
                check_ready(message, self._settings.transport, self._specs[worker].kv_blocks)
                self._members[worker].process = message.process
                left = self.connections.ready(worker, message)
                if left is not None:
                    driver.disconnected(worker, left)
                self._joined(driver)
            case PeerConnected(peer):
                self.connections.reached(worker, peer)
                self._joined(driver)
            case PeerFailed(peer, reason):
                driver.severed(worker, peer)
                if not self.connections.unreachable(worker, peer):
                    self.give_up(worker, f"it does not reach worker {self._specs[peer].name}: {reason}")
            case Trouble(text):
                # if it is fatal the process ends by itself, with the text among its last lines
                _log.warning("worker %s: %s", self._specs[worker].name, text)
            case Heartbeat(transfers):
                driver.alive(worker, transfers)

    def _dismiss(self, worker: WorkerId) -> None:
        member = self._members[worker]
        if member.state in ("starting", "serving"):
            # still watched: one that hangs does not end by itself
            member.state, member.counted_on = "ending", False
            self._channel.send(worker, Stop())

    def _forget(self, worker: WorkerId) -> None:
        """Nothing more is heard of this process, and nothing expected."""
        self._channel.drop(worker)
        self._watch.forget(worker)
        self._starts.forget(worker)

    def _joined(self, driver: Driver) -> None:
        """Tell the scheduler of workers that have come back and are connected."""
        for spec in self._specs if self._opened else ():
            member = self._members[spec.id]
            if member.state == "starting" and self.connections.complete(spec.id):
                member.state, member.counted_on = "serving", True
                self._starts.forget(spec.id)
                driver.worker_joined(spec.id)
