"""Worker processes as the driver sees them: who is connected with whom, who is given up, and when that is a loss."""

from dataclasses import dataclass, field
from typing import cast

import pytest
from hash_model import VOCABULARY
from real_worlds import Outputs, real_cluster

from backends.control.driver_channel import DriverChannel, PeerRefused, Received
from backends.control.errors import Refusal
from backends.control.heartbeat import HeartbeatWatch
from backends.control.messages import (
    ConnectPeer,
    DisconnectPeer,
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
from backends.driver.connections import ATTEMPTS_MAX, Connections
from backends.driver.driver import Driver
from backends.driver.errors import ServiceError
from backends.driver.fleet import Fleet
from backends.launch.port import ExitNotice, Launcher, WorkerHandle, WorkerLaunch
from backends.worker.descriptions import encode_descriptions
from backends.worker.model_source import ModelSource
from backends.worker.settings import WorkerSettings, decode_settings
from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import DecodeAdvanced, RunId, TransferId, WorkerId

P0, D1, D2 = WorkerId(0), WorkerId(1), WorkerId(2)
CLUSTER = real_cluster("pull", prefill=1, decode=2)
NAMES = ("prefill0", "decode1", "decode2")
LATE_NS = 1_000
START_NS = 50_000


def ready(worker: WorkerId, version: int = 1, blocks: int = 64, transport: str = "shm") -> Ready:
    """Descriptions that say who made them, for whom and which time."""
    content = {name: f"{NAMES[worker]} for {name} {version}".encode() for name in NAMES if name != NAMES[worker]}
    return Ready(transport, encode_descriptions(content), ("read",), blocks, 77, "here")


# --- connections ---------------------------------------------------------------------------------------------------


class Told:
    """What workers were told, in order."""

    def __init__(self) -> None:
        self.sent: list[tuple[WorkerId, DriverMessage]] = []

    def __call__(self, worker: WorkerId, message: DriverMessage) -> None:
        self.sent.append((worker, message))

    def take(self) -> list[tuple[WorkerId, DriverMessage]]:
        sent, self.sent = self.sent, []
        return sent


def test_both_sides_of_a_pair_get_the_description_made_for_them_once_both_are_there() -> None:
    told = Told()
    connections = Connections(CLUSTER, told)
    connections.ready(P0, ready(P0))
    assert told.take() == []
    connections.ready(D2, ready(D2))
    assert told.take() == [
        (D2, ConnectPeer(P0, b"prefill0 for decode2 1")),
        (P0, ConnectPeer(D2, b"decode2 for prefill0 1")),
    ]
    assert not connections.complete(D2)
    connections.reached(P0, D2)
    connections.reached(D2, P0)
    assert connections.complete(D2)
    assert connections.complete(P0), "with everybody who is there"
    assert not connections.complete(D1)


def test_decode_workers_are_strangers_to_each_other() -> None:
    told = Told()
    connections = Connections(CLUSTER, told)
    connections.ready(D1, ready(D1))
    connections.ready(D2, ready(D2))
    assert told.take() == []


def test_two_workers_that_lost_each_other_get_fresh_descriptions_when_both_have_disconnected() -> None:
    told = Told()
    connections = Connections(CLUSTER, told)
    connections.ready(P0, ready(P0))
    connections.ready(D1, ready(D1))
    told.take()
    assert connections.unreachable(P0, D1)
    assert told.take() == [(P0, DisconnectPeer(D1)), (D1, DisconnectPeer(P0))]
    assert connections.unreachable(D1, P0), "the other side notices as well: nothing new"
    assert told.take() == []
    assert connections.ready(P0, ready(P0, 2)) == D1
    assert told.take() == [], "the other side has not made a new one yet"
    assert connections.ready(D1, ready(D1, 2)) == P0
    assert told.take() == [
        (D1, ConnectPeer(P0, b"prefill0 for decode1 2")),
        (P0, ConnectPeer(D1, b"decode1 for prefill0 2")),
    ]


def test_workers_that_never_reach_each_other_are_not_tried_for_ever() -> None:
    connections = Connections(CLUSTER, Told())
    connections.ready(P0, ready(P0))
    connections.ready(D1, ready(D1))
    for attempt in range(1, ATTEMPTS_MAX + 1):
        assert connections.unreachable(P0, D1) == (attempt < ATTEMPTS_MAX)
        connections.ready(P0, ready(P0))
        connections.ready(D1, ready(D1))


def test_when_a_worker_is_lost_its_partners_disconnect_and_the_next_one_connects_anew() -> None:
    told = Told()
    connections = Connections(CLUSTER, told)
    for worker in (P0, D1, D2):
        connections.ready(worker, ready(worker))
    told.take()
    assert connections.lost(D1) == ()
    assert told.take() == [(P0, DisconnectPeer(D1))]
    connections.ready(D1, ready(D1, 2))
    assert told.take() == [], "its partner has still the descriptions of before"
    assert connections.ready(P0, ready(P0, 2)) == D1
    assert told.take() == [
        (P0, ConnectPeer(D1, b"decode1 for prefill0 2")),
        (D1, ConnectPeer(P0, b"prefill0 for decode1 2")),
    ]


def test_partners_that_were_never_connected_are_apart_at_once() -> None:
    connections = Connections(CLUSTER, Told())
    connections.ready(D1, ready(D1))
    assert connections.lost(D1) == (P0,)


def test_descriptions_that_are_missing_or_none_are_refused() -> None:
    connections = Connections(CLUSTER, Told())
    with pytest.raises(Refusal, match="worker 0 does not describe itself to decode1, decode2"):
        connections.ready(P0, Ready("shm", encode_descriptions({}), (), 64, 1, "here"))
    with pytest.raises(Refusal, match="cannot be read"):
        connections.ready(P0, Ready("shm", b"\xc1", (), 64, 1, "here"))


# --- the fleet -----------------------------------------------------------------------------------------------------


@dataclass
class FakeChannel:
    """Takes every message, unless the worker is in ``broken``."""

    endpoint: str = "tcp://127.0.0.1:1"
    public_key: str = "k" * 40
    expected: set[int] = field(default_factory=set)
    broken: set[int] = field(default_factory=set)
    told: Told = field(default_factory=Told)

    def expect(self, worker: WorkerId) -> None:
        self.expected.add(worker)

    def drop(self, worker: WorkerId) -> None:
        self.expected.discard(worker)

    def send(self, worker: WorkerId, message: DriverMessage) -> bool:
        self.told(worker, message)
        return worker not in self.broken


@dataclass
class FakeLauncher:
    """Starts nothing; a kill is noted, its exit notice comes when the test says so."""

    launches: list[WorkerLaunch] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)

    def start(self, launch: WorkerLaunch) -> WorkerHandle:
        self.launches.append(launch)
        return WorkerHandle(len(self.launches) - 1, launch.ticket.worker, launch.ticket.name)

    def kill(self, handle: WorkerHandle) -> None:
        self.killed.append(handle.worker)

    def exits(self) -> list[ExitNotice]:
        return []

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


class FakeDriver(Driver):
    """Notes losses and joins instead of telling a scheduler."""

    def __init__(self, fleet: Fleet, cluster: ClusterSpec = CLUSTER) -> None:
        super().__init__(cluster, VOCABULARY, fleet.send, Outputs())
        self.news: list[tuple[str, WorkerId]] = []

    def worker_lost(self, worker: WorkerId) -> None:
        self.news.append(("lost", worker))

    def worker_joined(self, worker: WorkerId) -> None:
        self.news.append(("joined", worker))

    def disconnected(self, survivor: WorkerId, lost: WorkerId) -> None:
        del lost
        self.news.append(("apart", survivor))


class Bench:
    def __init__(self, launcher: Launcher | None = None) -> None:
        self.channel, self.launcher = FakeChannel(), FakeLauncher()
        self.watch = HeartbeatWatch(LATE_NS)
        settings = WorkerSettings(CLUSTER, ModelSource("tiny"), "shm")
        channel = cast("DriverChannel", self.channel)
        self.fleet = Fleet(
            settings, launcher or self.launcher, channel, self.watch, b"s" * 32, {}, start_timeout_ns=START_NS
        )
        self.driver = FakeDriver(self.fleet)
        for spec in CLUSTER.workers:
            self.fleet.launch(spec.id, 0)

    def says(self, worker: WorkerId, *messages: WorkerMessage, now_ns: int = 0) -> None:
        for message in messages:
            self.fleet.take(Received(worker, message), self.driver, now_ns)

    def exits(self, worker: WorkerId, status: int | None = -9, number: int | None = None) -> None:
        handle = WorkerHandle(worker if number is None else number, worker, NAMES[worker])
        self.fleet.exited(ExitNotice(handle, status, ("boom",)), self.driver)

    def connect_all(self) -> None:
        for worker in (P0, D1, D2):
            self.says(worker, ready(worker))
        for decode in (D1, D2):
            self.says(P0, PeerConnected(decode))
            self.says(decode, PeerConnected(P0))
        assert self.fleet.complete()
        self.channel.told.take()


def test_a_launch_carries_everything_a_worker_needs() -> None:
    bench = Bench()
    ticket = bench.launcher.launches[1].ticket
    assert (ticket.worker, ticket.name, ticket.endpoint) == (D1, "decode1", "tcp://127.0.0.1:1")
    assert decode_settings(ticket.settings).cluster == CLUSTER
    assert bench.channel.expected == {0, 1, 2}


def test_the_fleet_is_complete_when_all_pairs_reach_each_other() -> None:
    bench = Bench()
    for worker in (P0, D1, D2):
        bench.says(worker, ready(worker))
    assert not bench.fleet.complete()
    assert bench.fleet.waiting_for() == "prefill0, decode1, decode2"
    bench.says(P0, PeerConnected(D1), PeerConnected(D2))
    bench.says(D1, PeerConnected(P0))
    assert bench.fleet.waiting_for() == "prefill0, decode2"
    bench.says(D2, PeerConnected(P0))
    assert bench.fleet.complete()


def test_a_worker_that_ends_before_all_are_there_is_the_users_problem() -> None:
    with pytest.raises(ServiceError, match="worker decode1 ended with exit status 1; its last lines:\n    boom"):
        Bench().exits(D1, 1)


def test_later_it_is_a_loss_and_may_be_started_again() -> None:
    bench = Bench()
    bench.connect_all()
    bench.exits(D1)
    assert bench.driver.news == [("lost", D1)]
    assert bench.channel.told.take() == [(P0, DisconnectPeer(D1))]
    bench.fleet.launch(D1, 0)
    bench.says(D1, ready(D1, 2))
    bench.says(P0, ready(P0, 2))
    bench.says(P0, PeerConnected(D1))
    assert ("joined", D1) not in bench.driver.news
    bench.says(D1, PeerConnected(P0))
    assert bench.driver.news == [("lost", D1), ("apart", P0), ("joined", D1)]
    bench.exits(D1, number=1)
    assert len(bench.driver.news) == 3, "the notice of a process that has been replaced"


@pytest.mark.parametrize(
    "message",
    [
        Report(DecodeAdvanced(D1, RunId(5), 1, 0, 0, False)),
        TransferFailed(TransferId(0), "never ordered but harmless"),
        ready(D1, blocks=3),
        ready(D1, transport="tcp"),
    ],
)
def test_a_worker_that_says_what_cannot_be_is_killed_and_lost_when_it_has_ended(message: WorkerMessage) -> None:
    bench = Bench()
    bench.connect_all()
    bench.says(D1, message)
    if isinstance(message, TransferFailed):
        assert bench.launcher.killed == [], "late words come to nothing"
        return
    assert bench.launcher.killed == [D1]
    assert bench.driver.news == [], "it may still write into the memory of others"
    bench.exits(D1)
    assert bench.driver.news == [("lost", D1)]


def test_silence_a_broken_connection_and_a_refused_session_end_a_worker() -> None:
    bench = Bench()
    bench.connect_all()
    bench.says(P0, Heartbeat(), now_ns=LATE_NS - 1)
    bench.says(D2, Heartbeat(), now_ns=LATE_NS - 1)
    bench.fleet.give_up_late(LATE_NS)
    assert bench.launcher.killed == [D1]
    bench.channel.broken.add(D2)
    bench.fleet.send(D2, DisconnectPeer(P0))
    bench.fleet.refused(PeerRefused(P0, "garbage", "no message", was_member=True))
    bench.fleet.refused(PeerRefused(P0, "secret", "a stranger's guess", was_member=False))
    assert bench.launcher.killed == [D1, D2, P0]


def test_workers_that_cannot_be_connected_end_the_one_that_says_so() -> None:
    bench = Bench()
    bench.connect_all()
    for attempt in range(ATTEMPTS_MAX):
        assert bench.launcher.killed == [], f"attempt {attempt}"
        bench.says(P0, PeerFailed(D1, "no route"))
        bench.says(P0, ready(P0))
        bench.says(D1, ready(D1))
    assert bench.launcher.killed == [P0]


def test_a_worker_that_is_told_to_stop_and_ends_is_no_loss() -> None:
    bench = Bench()
    bench.connect_all()
    bench.fleet.send(D1, Stop())
    bench.exits(D1, 0)
    assert ("lost", D1) not in bench.driver.news
    bench.fleet.stop()
    assert [worker for worker, message in bench.channel.told.take() if isinstance(message, Stop)] == [D1, P0, D2]
    bench.exits(P0, 0)
    assert not bench.fleet.all_away
    bench.exits(D2, 1)
    assert bench.fleet.all_away
    assert ("lost", D2) not in bench.driver.news


def test_what_a_worker_complains_of_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.says(D2, Trouble("peer decode1 sent a notification that is none"))
    assert "worker decode2: peer decode1 sent a notification" in caplog.text
