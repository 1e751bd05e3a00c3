"""The channel over real sockets: who gets in, what is dropped, and that nothing a peer sends stops the driver."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
import zmq
from control_world import (
    COMPATIBILITY,
    KV,
    OTHER_SECRET,
    PATIENCE_S,
    SECRET,
    listen,
    listen_for,
    make_driver,
    make_ticket,
    until,
)
from msgspec.structs import replace as replace_field

from backends.control.compatibility import Compatibility
from backends.control.driver_channel import DriverChannel, Incoming, PeerRefused, Received
from backends.control.errors import ControlError, DriverGoneError, Refusal
from backends.control.frames import HANDSHAKE_BYTES_MAX, MESSAGE_BYTES_MAX, Proof, encode_handshake
from backends.control.handshake import WorkerHandshake
from backends.control.messages import ConnectPeer, DriverMessage, Heartbeat, Stop, Trouble
from backends.control.session import Session
from backends.control.ticket import LaunchTicket
from backends.control.worker_channel import WorkerChannel
from kvsim.core.messages import WorkerId

W = WorkerId(0)


@pytest.fixture
def driver() -> Iterator[DriverChannel]:
    with make_driver() as channel:
        channel.expect(W)
        yield channel


def attempt(
    driver: DriverChannel, ticket: LaunchTicket, compatibility: Compatibility = COMPATIBILITY, version: int = 1
) -> tuple[WorkerChannel | ControlError, list[Incoming]]:
    """What a worker gets that knocks with this ticket, and what the driver hears meanwhile."""
    outcome: list[WorkerChannel | ControlError] = []

    def knock() -> None:
        try:
            outcome.append(WorkerChannel(ticket, compatibility, PATIENCE_S, version))
        except ControlError as error:
            outcome.append(error)

    worker = threading.Thread(target=knock)
    worker.start()
    heard: list[Incoming] = []
    until(lambda: not worker.is_alive(), lambda: heard.extend(driver.receive(0.01)))
    heard.extend(driver.receive(0))
    return outcome[0], heard


@contextmanager
def joined(driver: DriverChannel, worker: int = 0) -> Iterator[WorkerChannel]:
    """A worker that has joined."""
    channel, heard = attempt(driver, make_ticket(driver, worker))
    assert isinstance(channel, WorkerChannel), channel
    assert heard == []
    with channel:
        yield channel


@contextmanager
def stranger(driver: DriverChannel, identity: bytes = b"") -> "Iterator[zmq.Socket[bytes]]":
    """A socket that knows the driver's key, but has proved nothing."""
    context = zmq.Context()
    try:
        dealer: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
        dealer.curve_serverkey = driver.public_key.encode()
        if identity:
            dealer.routing_id = identity
        dealer.connect(driver.endpoint)
        yield dealer
    finally:
        context.destroy(linger=0)


def receive_until(worker: WorkerChannel, count: int) -> list[DriverMessage]:
    messages: list[DriverMessage] = []
    until(lambda: len(messages) >= count, lambda: messages.extend(worker.receive(0.05)))
    return messages


# --- joining -----------------------------------------------------------------------------------------------------


def test_a_worker_with_the_secret_joins_and_messages_go_both_ways_in_order(driver: DriverChannel) -> None:
    with joined(driver) as worker:
        assert driver.members == (W,)
        assert worker.heartbeat_interval_ns == 50_000_000
        told: list[DriverMessage] = [ConnectPeer(WorkerId(number), b"x" * number) for number in range(1, 100)]
        assert all(driver.send(W, message) for message in told)
        assert receive_until(worker, 99) == told
        for number in range(99):
            worker.send(Trouble(str(number)))
        assert listen(driver, 99) == [Received(W, Trouble(str(number))) for number in range(99)]
        assert not driver.dropped
        assert worker.dropped == 0


def other_secret(ticket: LaunchTicket) -> LaunchTicket:
    return replace(ticket, secret=OTHER_SECRET)


def not_expected(ticket: LaunchTicket) -> LaunchTicket:
    return replace(ticket, worker=WorkerId(9))


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (other_secret, "secret", "worker 0 does not know this run's secret"),
        (not_expected, "identity", "worker 9 is not expected in this run"),
    ],
)
def test_a_worker_that_is_refused_and_the_driver_are_both_told_why(
    driver: DriverChannel, change: Callable[[LaunchTicket], LaunchTicket], kind: str, text: str
) -> None:
    ticket = change(make_ticket(driver))
    error, heard = attempt(driver, ticket)
    assert isinstance(error, Refusal)
    assert (error.kind, error.text[: len(text)]) == (kind, text)
    [refused] = heard
    assert isinstance(refused, PeerRefused)
    assert (refused.worker, refused.kind, refused.was_member) == (ticket.worker, kind, False)
    assert refused.text == error.text
    assert driver.dropped == {kind: 1}
    assert driver.members == ()


def test_a_worker_of_another_version_is_refused_in_words(driver: DriverChannel) -> None:
    error, heard = attempt(driver, make_ticket(driver), version=2)
    assert str(error) == "the peer speaks control protocol 1, this side 2; install the same kvsim"
    assert [each.kind for each in heard if isinstance(each, PeerRefused)] == ["version"]


def test_a_worker_with_another_block_size_is_refused_in_words(driver: DriverChannel) -> None:
    other = replace_field(COMPATIBILITY, kv=replace_field(KV, block_tokens=32))
    error, _ = attempt(driver, make_ticket(driver), other)
    assert str(error) == "worker 0 holds another KV cache: tokens of a block: driver 16, worker 32"


def test_one_worker_cannot_be_there_twice_but_may_come_back_after_it_was_dropped(driver: DriverChannel) -> None:
    with joined(driver) as first:
        error, _ = attempt(driver, make_ticket(driver))
        assert str(error) == "worker 0 is connected already"
        first.send(Heartbeat())
        assert listen_for(driver, Heartbeat).worker == W
        driver.drop(W)
        driver.expect(W)
        with joined(driver) as second:
            second.send(Heartbeat())
            assert listen(driver, 1) == [Received(W, Heartbeat())]


def test_a_worker_that_was_given_up_is_told_and_its_words_count_no_more(driver: DriverChannel) -> None:
    with joined(driver) as worker:
        driver.drop(W)
        assert not driver.send(W, Stop())
        worker.send(Heartbeat())
        with pytest.raises(DriverGoneError, match="session of worker 0 is over"):
            until(lambda: False, lambda: (driver.receive(0.01), worker.receive(0.01)))
        assert driver.receive(0) == []
        assert driver.dropped == {"identity": 1}


def test_a_worker_whose_driver_ends_notices(driver: DriverChannel) -> None:
    with joined(driver) as worker:
        driver.send(W, Stop())
        driver.close()
        assert receive_until(worker, 1) == [Stop()]
        with pytest.raises(DriverGoneError, match="is gone: the connection was closed"):
            until(lambda: False, lambda: worker.receive(0.05))


def test_orders_for_a_worker_that_has_gone_fail_instead_of_vanishing(driver: DriverChannel) -> None:
    with joined(driver):
        pass
    until(lambda: not driver.send(W, Stop()))
    assert driver.members == ()


# --- addresses ---------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_told_with_a_remedy(driver: DriverChannel) -> None:
    with pytest.raises(ControlError, match=f"{driver.endpoint}: another program listens there .* or 0 for any free"):
        DriverChannel(driver.endpoint, SECRET, COMPATIBILITY)


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("tcp://192.0.2.1:0", "no address of this machine"),  # TEST-NET-1, RFC 5737
        ("tcp://*:0", "no address"),
        ("tcp://127.0.0.1:70000", "no address"),
        ("127.0.0.1:0", "give tcp://HOST:PORT"),
        ("ipc:///tmp/x", "give tcp://HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_bound_is_told_with_a_remedy(address: str, remedy: str) -> None:
    with pytest.raises(ControlError, match=remedy):
        DriverChannel(address, SECRET, COMPATIBILITY)


def test_a_driver_listens_on_the_given_address_only(driver: DriverChannel) -> None:
    port = int(driver.endpoint.rpartition(":")[2])
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.2", port))  # would be in use if the driver listened on all addresses


def test_a_worker_without_a_driver_gives_up_with_the_address() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        ticket = replace(
            make_ticket(None),
            endpoint=f"tcp://127.0.0.1:{reserved.getsockname()[1]}",
            driver_key=zmq.curve_keypair()[0].decode(),
        )
        with pytest.raises(ControlError, match=f"{ticket.endpoint}: nothing listens there; is the driver"):
            WorkerChannel(ticket, COMPATIBILITY, PATIENCE_S)


def test_a_worker_whose_driver_never_answers_gives_up_in_time(driver: DriverChannel) -> None:
    with pytest.raises(ControlError, match="no Challenge came in time"):
        WorkerChannel(make_ticket(driver), COMPATIBILITY, timeout_s=0.2)


def test_a_worker_does_not_talk_to_whoever_took_the_drivers_place(driver: DriverChannel) -> None:
    ticket = replace(make_ticket(driver), driver_key=zmq.curve_keypair()[0].decode())
    with pytest.raises(ControlError, match="does not hold the driver's key"):
        WorkerChannel(ticket, COMPATIBILITY, PATIENCE_S)
    assert driver.receive(0.05) == []


def test_a_key_that_is_none_is_told(driver: DriverChannel) -> None:
    with pytest.raises(ControlError, match="no CURVE key"):
        WorkerChannel(replace(make_ticket(driver), driver_key="?"), COMPATIBILITY)


# --- peers that misbehave ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [b"", b"x", b"kvsim", bytes(1000), os.urandom(100)], ids=len)
def test_garbage_before_the_handshake_is_refused_and_counted(driver: DriverChannel, frame: bytes) -> None:
    with stranger(driver) as dealer:
        dealer.send(frame)
        [refused] = listen(driver, 1)
        assert isinstance(refused, PeerRefused)
        assert (refused.worker, refused.kind) == (None, "garbage")
    with joined(driver):
        assert driver.dropped == {"garbage": 1}


def test_a_large_frame_before_the_handshake_is_refused(driver: DriverChannel) -> None:
    with stranger(driver) as dealer:
        dealer.send(bytes(HANDSHAKE_BYTES_MAX + 1))
        [refused] = listen(driver, 1)
        assert isinstance(refused, PeerRefused)
        assert refused.kind == "size"


def test_a_message_larger_than_any_never_arrives_and_others_do(driver: DriverChannel) -> None:
    with joined(driver) as worker, stranger(driver) as dealer:
        dealer.send(bytes(MESSAGE_BYTES_MAX + 1))
        worker.send(Heartbeat())
        assert listen(driver, 1) == [Received(W, Heartbeat())]
        assert driver.receive(0.2) == []


def test_frames_in_many_parts_are_counted_and_dropped(driver: DriverChannel) -> None:
    with stranger(driver) as dealer:
        dealer.send_multipart([b"a", b"b", b"c"])
        until(lambda: driver.dropped == {"garbage": 1}, lambda: driver.receive(0.01))


def test_somebody_who_talks_plain_tcp_disturbs_nobody(driver: DriverChannel) -> None:
    host, port = driver.endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
        with joined(driver) as worker:
            worker.send(Heartbeat())
            assert listen(driver, 1) == [Received(W, Heartbeat())]
    assert not driver.dropped


def test_a_proof_without_a_challenge_and_a_hello_sent_twice_are_refused(driver: DriverChannel) -> None:
    with stranger(driver) as dealer:
        dealer.send(encode_handshake(Proof(bytes(32))))
        handshake = WorkerHandshake(W, SECRET, COMPATIBILITY, driver.public_key.encode(), b"n" * 32)
        hello = handshake.hello()
        dealer.send(hello)
        dealer.send(hello)
        kinds = [each.kind for each in listen(driver, 2) if isinstance(each, PeerRefused)]
        assert kinds == ["garbage", "garbage"]


def test_handshakes_that_nobody_finishes_are_forgotten_oldest_first(
    driver: DriverChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.control.driver_channel.HALF_OPEN_MAX", 2)
    handshakes = [
        WorkerHandshake(W, SECRET, COMPATIBILITY, driver.public_key.encode(), bytes([n] * 32)) for n in (1, 2, 3)
    ]
    with stranger(driver) as first, stranger(driver) as second, stranger(driver) as third:
        proofs = []
        for dealer, handshake in zip((first, second, third), handshakes, strict=True):
            dealer.send(handshake.hello())
            proofs.append(handshake.prove(answer_to(dealer, driver)))
        first.send(proofs[0])
        [refused] = listen(driver, 1)
        assert isinstance(refused, PeerRefused)
        assert refused.text == "a Proof instead of a Hello"
        third.send(proofs[2])
        until(lambda: driver.members == (W,), lambda: driver.receive(0.01))


@contextmanager
def bare_member(driver: DriverChannel, identity: bytes) -> "Iterator[tuple[zmq.Socket[bytes], Session]]":
    """A member of which the test holds socket and session, so that it can misbehave."""
    with stranger(driver, identity) as dealer:
        handshake = WorkerHandshake(W, SECRET, COMPATIBILITY, driver.public_key.encode(), b"n" * 32)
        dealer.send(handshake.hello())
        dealer.send(handshake.prove(answer_to(dealer, driver)))
        yield dealer, handshake.confirm(answer_to(dealer, driver))[1]


def answer_to(dealer: "zmq.Socket[bytes]", driver: DriverChannel) -> bytes:
    """What the driver, given its turns, answers."""
    until(lambda: bool(dealer.poll(0)), lambda: driver.receive(0.01))
    return dealer.recv()


def test_a_member_that_repeats_a_message_is_heard_once(driver: DriverChannel) -> None:
    with bare_member(driver, b"member") as (dealer, session):
        frame = session.seal(b"\x81\xa4type\xa9Heartbeat")
        for copy in (frame, frame, b"garbage", session.seal(b"\x81\xa4type\xa9Heartbeat")):
            dealer.send(copy)
        assert listen(driver, 2) == [Received(W, Heartbeat()), Received(W, Heartbeat())]
        assert driver.receive(0.05) == []
        assert driver.dropped == {"unauthenticated": 2}
        assert driver.members == (W,)


def test_a_stranger_who_takes_up_the_connection_name_of_a_member_that_left_gets_nothing(driver: DriverChannel) -> None:
    with bare_member(driver, b"member"):
        pass

    def knock() -> None:
        """In vain as long as the driver's side of the old connection has not gone; then in vain too."""
        with stranger(driver, b"member") as dealer:
            dealer.send(b"x")
            assert driver.receive(0.1) == []
            assert not dealer.poll(0)

    until(lambda: driver.dropped["unauthenticated"] > 0, knock)
    assert driver.members == (W,)


def test_a_member_that_talks_nonsense_is_turned_out_with_a_reason(driver: DriverChannel) -> None:
    with bare_member(driver, b"member") as (dealer, session):
        dealer.send(session.seal(b"nonsense"))
        [refused] = listen(driver, 1)
        assert isinstance(refused, PeerRefused)
        assert (refused.worker, refused.kind, refused.was_member) == (W, "garbage", True)
        assert driver.members == ()
        assert dealer.poll(round(PATIENCE_S * 1000))
        assert b"no message of a worker" in dealer.recv()


def test_what_travels_cannot_be_read_on_the_way(driver: DriverChannel) -> None:
    seen = bytearray()
    with relay(driver.endpoint, seen) as endpoint:
        channel, _ = attempt(driver, replace(make_ticket(driver), endpoint=endpoint))
        assert isinstance(channel, WorkerChannel), channel
        with channel:
            driver.send(W, ConnectPeer(WorkerId(1), b"region key 0123456789"))
            assert receive_until(channel, 1) == [ConnectPeer(WorkerId(1), b"region key 0123456789")]
    assert len(seen) > 500
    assert b"region key" not in seen
    assert b"ConnectPeer" not in seen
    assert b"Hello" not in seen


@contextmanager
def relay(endpoint: str, seen: bytearray) -> Iterator[str]:
    """An address that passes one connection on to the endpoint and writes down what it sees."""
    host, port = endpoint.removeprefix("tcp://").split(":")
    with socket.create_server(("127.0.0.1", 0)) as server:
        sockets: list[socket.socket] = []

        def copy(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):  # either side may have closed already
                while chunk := source.recv(65536):
                    seen.extend(chunk)
                    target.sendall(chunk)
                target.shutdown(socket.SHUT_WR)

        def accept() -> None:
            sockets.append(server.accept()[0])
            sockets.append(socket.create_connection((host, int(port)), timeout=PATIENCE_S))
            back = threading.Thread(target=copy, args=(sockets[1], sockets[0]))
            back.start()
            copy(sockets[0], sockets[1])
            back.join()

        passing = threading.Thread(target=accept)
        server.settimeout(PATIENCE_S)
        passing.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        passing.join(PATIENCE_S)
        for each in sockets:
            each.close()


# --- waking ------------------------------------------------------------------------------------------------------


def test_an_inbox_wakes_the_driver_and_a_transport_wakes_the_worker(driver: DriverChannel) -> None:
    with joined(driver) as worker:
        for channel in (driver, worker):
            flag = os.eventfd(1)
            try:
                channel.wake_on(flag)
                assert channel.receive(timeout_s=1000.0) == []  # the test's own limit is shorter
            finally:
                os.close(flag)
