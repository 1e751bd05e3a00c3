"""Trouble for real workers: schedules by seed, relays that misbehave, and a round in which everything goes wrong but
the answers."""

import socket
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("zmq", reason="pyzmq is not installed: real workers are NOT tested; pip install 'kvsim[engine]'")

from backends.chaos.conduct import Blow, Trouble
from backends.chaos.mishaps import KINDS, Kind, draw_mishaps
from backends.chaos.relay import LOOPBACK, Relays
from backends.chaos.run import CRASH_NOTICED_NS, measured, run_chaos
from backends.chaos.watch import LeaseOver, Lost, Recovered, TroubleWatch
from kvsim.core.messages import (
    AssignBlocks,
    Chunk,
    DecodeAdvanced,
    PrefillDone,
    ReleaseBlocks,
    RequestId,
    RunDecode,
    RunId,
    RunPrefill,
    WorkerId,
    WorkerLost,
)


def test_a_schedule_follows_from_its_seed_and_leaves_no_kind_out() -> None:
    mishaps = draw_mishaps(7, 3, len(KINDS))
    assert mishaps == draw_mishaps(7, 3, len(KINDS))
    assert mishaps != draw_mishaps(7, 4, len(KINDS))
    assert sorted(mishap.kind for mishap in mishaps) == sorted(KINDS)
    assert [mishap.kind for mishap in draw_mishaps(1, 0, 5, ("kill",))] == ["kill"] * 5


# --- relays ---


@pytest.fixture
def echo_port() -> Iterator[int]:
    """Somebody who sends back what he is sent, a connection at a time."""
    listening = socket.create_server((LOOPBACK, 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                try:
                    while piece := connection.recv(4096):
                        connection.sendall(piece)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(5.0)


def received(connection: socket.socket, size_bytes: int) -> bytes:
    content = b""
    while len(content) < size_bytes and (piece := connection.recv(size_bytes - len(content))):
        content += piece
    return content


def has_ended(connection: socket.socket) -> bool:
    """Whether nothing more comes, politely or not; TimeoutError if neither."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def dial(port: int) -> socket.socket:
    return socket.create_connection((LOOPBACK, port), timeout=5.0)


def test_a_relay_passes_on_holds_back_halves_damages_and_drops(echo_port: int) -> None:
    with Relays() as relays:
        port = relays.open("echo", LOOPBACK, echo_port)
        assert relays.open("echo", LOOPBACK, echo_port) == port, "one that leads there already is kept"
        with dial(port) as connection:
            connection.sendall(b"hello")
            assert received(connection, 5) == b"hello"
            relays.damage("echo")
            connection.sendall(b"\x00\x00\x00")
            assert received(connection, 3) == b"\x00\x01\x00"
            relays.hold("echo", halve=True)
            connection.sendall(b"half")
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(4)
            connection.settimeout(5.0)
            relays.let_go("echo")
            assert received(connection, 4) == b"half"
            assert relays.drop("echo") == 1
            assert has_ended(connection)
        with dial(port) as connection:
            connection.sendall(b"again")
            assert received(connection, 5) == b"again"


def test_whoever_dials_a_relay_to_nobody_is_turned_away() -> None:
    with socket.create_server((LOOPBACK, 0)) as gone:
        nobody = gone.getsockname()[1]
    with Relays() as relays, dial(relays.open("nobody", LOOPBACK, nobody)) as connection:
        assert connection.recv(1) == b""


def test_relays_end_with_connections_open(echo_port: int) -> None:
    relays = Relays()
    with dial(relays.open("echo", LOOPBACK, echo_port)) as connection:
        connection.sendall(b"x")
        assert received(connection, 1) == b"x"
        relays.close()
        relays.close()


# --- times ---


def test_recovery_is_from_the_loss_to_the_next_token_of_those_who_had_blocks_there() -> None:
    instants = iter([0, 100, 250, 400, 900])
    watch = TroubleWatch(lambda: next(instants))
    blocks = ((0, 2),)
    decode, prefill = WorkerId(1), WorkerId(0)
    run = RunDecode(decode, RunId(1), (RequestId(0), RequestId(1)), 8)
    assigned = [AssignBlocks(decode, RequestId(index), blocks) for index in range(3)]
    watch.observe(0, [], [*assigned, run])
    watch.observe(1, [DecodeAdvanced(decode, RunId(1), 1, 1, 0, ended=False)], [ReleaseBlocks(decode, RequestId(2))])
    again = RunPrefill(prefill, RunId(2), (Chunk(RequestId(0), 0, 9),), (RequestId(0),))
    watch.observe(2, [WorkerLost(decode)], [])
    watch.observe(3, [], [again])
    watch.observe(4, [PrefillDone(prefill, RunId(2))], [])
    assert watch.lost == [Lost(decode, 250)]
    assert watch.recovered == [Recovered(RequestId(0), 650, 500)]


def test_a_blow_is_noticed_with_the_first_loss_of_that_worker_after_it() -> None:
    blows = [Blow("kill", WorkerId(1), 1000), Blow("hang", WorkerId(1), 5000), Blow("kill", WorkerId(2), 9000)]
    lost = [Lost(WorkerId(0), 1010), Lost(WorkerId(1), 1200), Lost(WorkerId(1), 7000)]
    recovered = [Recovered(RequestId(0), 600, 400)]
    trouble = Trouble(blows=blows, lost=lost, recovered=recovered)
    assert trouble.detections_ns("kill") == [200]
    assert trouble.detections_ns("hang") == [2000]
    rows = {row.what.split(":")[0].split(" ")[0]: row for row in measured(trouble)}
    assert (rows["SIGKILL"].median_ns, rows["SIGKILL"].within, rows["SIGKILL"].aim_ns) == (200, 1, CRASH_NOTICED_NS)
    assert rows["next"].durations_ns == (200,)


# --- the whole ---


@pytest.mark.timeout(400)
def test_nothing_that_befalls_real_workers_changes_a_token() -> None:
    """A kill in the midst of a WRITE, broken and slow connections, flipped bits, nonsense, a stranger: all at once."""
    pytest.importorskip("torch", reason="torch is not installed: real workers are NOT tested")
    kinds: tuple[Kind, ...] = ("half_write", "drop", "delay", "damage", "garbage", "stranger")
    trouble = run_chaos("push", kinds=kinds, requests=6, output_tokens=60)
    assert trouble.wrong == []
    assert trouble.mishaps == dict.fromkeys(kinds, 1)
    assert (trouble.requests, len(trouble.blows)) == (6, 2)
    for blow in trouble.blows:
        assert [lost.worker for lost in trouble.lost if lost.at_ns > blow.at_ns][:1] == [blow.worker]
    assert len(trouble.lost) == 2, "mishaps that are not fatal cost no worker"


@pytest.mark.timeout(400)
def test_a_reader_that_outsleeps_its_lease_is_not_lost_and_what_it_reads_late_is_used_by_nobody() -> None:
    pytest.importorskip("torch", reason="torch is not installed: real workers are NOT tested")
    trouble = run_chaos("pull", kinds=("lease",), requests=3, output_tokens=20)
    assert trouble.wrong == []
    assert (trouble.requests, trouble.lost) == (4, [])
    (detected_ns,) = trouble.detections_ns("lease")
    assert detected_ns > 0
    assert next(row.what for row in measured(trouble)) == f"{KINDS['lease']}: noticed"


def test_a_lease_is_over_with_the_first_that_ends_after_the_blow() -> None:
    request = RequestId(0)
    blows = [Blow("lease", WorkerId(1), 1000)]
    leases = [LeaseOver(request, 900), LeaseOver(request, 1600), LeaseOver(request, 2000)]
    assert Trouble(blows=blows, leases=leases).detections_ns("lease") == [600]
