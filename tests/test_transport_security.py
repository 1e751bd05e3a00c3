"""What a transport does with connections and requests of those who do not play by the rules."""

import os
import socket
import time
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from transport_world import TIMEOUT_S, End, make_end

from backends.transport.frames import encoded
from backends.transport.handshake import HandshakeError, Tickets, prove_to_dialler, prove_to_owner
from backends.transport.link import CONTROL, NOTIFY
from backends.transport.memory_files import PLACE
from backends.transport.shm import ShmTransport
from backends.transport.tcp import TcpTransport
from backends.transport.tcp_address import TcpEndpoint
from backends.transport.tcp_wire import BYTES_MAX, DATA, GRANTED, RANGES_MAX, READ, REFUSED, WRITE


@pytest.fixture
def owner() -> Iterator[End]:
    """An owner over tcp with a pool of known bytes."""
    end = make_end("tcp", "owner", 1 << 20, seed=3)
    yield end
    end.transport.close()


def dial(owner: End, purpose: int, token: bytes | None = None) -> socket.socket:
    """A raw connection that has proven a token, if it is right."""
    description = owner.transport.describe("stranger")
    where = msgspec.msgpack.decode(description.endpoint, type=TcpEndpoint)
    connection = socket.create_connection((where.host, where.port), timeout=TIMEOUT_S)
    try:
        prove_to_owner(connection, description.token if token is None else token, "stranger", purpose)
    except OSError:
        connection.close()
        raise
    connection.settimeout(TIMEOUT_S)
    return connection


def request(operation: int, ranges: list[tuple[int, int]], size_bytes: int, count: int | None = None) -> bytes:
    """A request as it goes over the wire, consistent or not."""
    head = np.array([operation, len(ranges) if count is None else count, size_bytes], dtype="<u8")
    addresses = np.array([address for address, _ in ranges], dtype="<u8")
    sizes = np.array([size for _, size in ranges], dtype="<i8")
    return head.tobytes() + addresses.tobytes() + sizes.tobytes()


def answer(connection: socket.socket) -> list[int]:
    """The head of the next answer, or nothing if the owner has hung up."""
    data = b""
    while len(data) < 24:
        try:
            piece = connection.recv(24 - len(data))
        except ConnectionResetError:
            piece = b""
        if not piece:
            return []
        data += piece
    return [int(field) for field in np.frombuffer(data, dtype="<u8")]


def hung_up(connection: socket.socket) -> bool:
    """Whether the owner has closed the connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


# --- tokens --------------------------------------------------------------------------------------------------------


def test_a_connection_with_a_wrong_token_is_closed_without_a_proof(owner: End) -> None:
    with pytest.raises(HandshakeError, match="wrong or withdrawn token"):
        dial(owner, DATA, bytes(32))


def test_an_owner_that_does_not_hold_the_token_is_found_out() -> None:
    """It can complete the handshake only by guessing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"kvsimtr1" + bytes(32) + bytes(32))
        with pytest.raises(HandshakeError, match="does not hold the token"):
            prove_to_owner(ours, b"t" * 32, "a", CONTROL)


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request" + bytes(40), b"kvsimtr0" + bytes(40)])
def test_a_dialler_does_not_talk_to_another_protocol(greeting: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(greeting)
        with pytest.raises(HandshakeError, match="does not speak"):
            prove_to_owner(ours, b"t" * 32, "a", CONTROL)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"kvsimtr1\x00\xff\xff", bytes(200)])
def test_an_owner_hangs_up_on_another_protocol(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(said)
        with pytest.raises(HandshakeError, match="does not speak"):
            prove_to_dialler(ours, Tickets())


def test_the_token_itself_is_not_sent(owner: End) -> None:
    token = owner.transport.describe("listener").token
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"kvsimtr1" + bytes(32) + bytes(32))
        with pytest.raises(HandshakeError):
            prove_to_owner(ours, token, "listener", DATA)
        assert token not in theirs.recv(4096)


def test_strangers_that_say_nothing_do_not_keep_others_out(owner: End) -> None:
    where = msgspec.msgpack.decode(owner.transport.describe("stranger").endpoint, type=TcpEndpoint)
    silent = [socket.create_connection((where.host, where.port)) for _ in range(20)]
    try:
        with dial(owner, DATA) as connection:
            connection.sendall(request(READ, [(owner.region.address, 8)], 8))
            assert answer(connection) == [GRANTED, 8, 0]
    finally:
        for connection in silent:
            connection.close()


# --- requests over tcp ---------------------------------------------------------------------------------------------


def test_a_read_outside_the_regions_is_refused_and_the_connection_goes_on(owner: End) -> None:
    with dial(owner, DATA) as connection:
        for address, size_bytes in ((0, 10), (owner.region.address + (1 << 20) - 5, 10), (2**64 - 4, 8)):
            connection.sendall(request(READ, [(owner.region.address, 1), (address, size_bytes)], size_bytes + 1))
            assert answer(connection) == [REFUSED, 0, 0]
        connection.sendall(request(READ, [(owner.region.address + 3, 4)], 4))
        assert answer(connection) == [GRANTED, 4, 0]
        assert connection.recv(4, socket.MSG_WAITALL) == owner.pool[3:7].tobytes()


def test_a_write_outside_the_regions_is_drained_and_refused(owner: End) -> None:
    before = owner.pool.copy()
    with dial(owner, DATA) as connection:
        connection.sendall(request(WRITE, [(owner.region.address, 4), (5, 4)], 8) + b"overflow")
        assert answer(connection) == [REFUSED, 0, 0]
        assert np.array_equal(owner.pool, before)
        connection.sendall(request(WRITE, [(owner.region.address, 4)], 4) + b"good")
        assert answer(connection) == [GRANTED, 0, 0]
        assert owner.pool[:4].tobytes() == b"good"


@pytest.mark.parametrize(
    ("operation", "count", "size_bytes"),
    [
        (3, 1, 8),
        (READ, 0, 8),
        (READ, RANGES_MAX + 1, 8),
        (READ, 2**64 - 1, 8),
        (WRITE, 1, 0),
        (WRITE, 1, BYTES_MAX + 1),
        (READ, 1, 2**63),
    ],
)
def test_a_senseless_request_ends_the_connection(owner: End, operation: int, count: int, size_bytes: int) -> None:
    with dial(owner, DATA) as connection:
        connection.sendall(request(operation, [(owner.region.address, 8)], size_bytes, count))
        assert hung_up(connection)


@pytest.mark.parametrize("size", [-8, 0, 7, 9])
def test_a_request_whose_sizes_do_not_add_up_moves_nothing(owner: End, size: int) -> None:
    before = owner.pool.copy()
    with dial(owner, DATA) as connection:
        connection.sendall(request(WRITE, [(owner.region.address, size)], 8) + b"12345678")
        assert answer(connection) in ([REFUSED, 0, 0], [])
    assert np.array_equal(owner.pool, before)


def test_a_connection_for_an_unknown_purpose_is_closed(owner: End) -> None:
    with dial(owner, 77) as connection:
        assert hung_up(connection)


@pytest.mark.parametrize("frame", [encoded(NOTIFY + 99, b""), b"\x00\xff\xff\xff\xff"], ids=["kind", "length"])
def test_a_control_message_that_makes_no_sense_ends_the_connection(owner: End, frame: bytes) -> None:
    with dial(owner, CONTROL) as connection:
        connection.sendall(frame)
        assert hung_up(connection)


def test_a_disconnected_peer_cannot_reach_the_memory_any_more(owner: End) -> None:
    with dial(owner, DATA) as connection:
        connection.sendall(request(READ, [(owner.region.address, 1)], 1))
        assert answer(connection)[0] == GRANTED
        connection.recv(1)
        owner.transport.disconnect("stranger")
        assert hung_up(connection)


def test_a_peer_that_hangs_in_a_write_cannot_keep_a_region(owner: End) -> None:
    """It announces bytes and never sends them; taking the region back cuts it off after a time of grace."""
    with dial(owner, DATA) as connection:
        connection.sendall(request(WRITE, [(owner.region.address, 8)], 8) + b"half")
        while owner.pool[:4].tobytes() != b"half":
            time.sleep(0.001)
        owner.transport.unregister(owner.region)
        assert hung_up(connection)


# --- shared memory -------------------------------------------------------------------------------------------------


class _UnsealedOwner(ShmTransport):
    """Hands out a file that it could shorten under its peers, or one that is too short."""

    shorter_bytes = 0

    def _greet(self, peer_name: str, connection: socket.socket) -> None:
        del peer_name
        region, memory = self._registry.regions()[0]
        fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, memory.size_bytes)
        connection.sendall((1).to_bytes(4, "big"))
        socket.send_fds(connection, [PLACE.pack(region.number, 0, memory.size_bytes)], [fd])
        os.close(fd)


class _OverstatingOwner(ShmTransport):
    """Says that its region begins far behind the end of its file."""

    def _greet(self, peer_name: str, connection: socket.socket) -> None:
        del peer_name
        region, memory = self._registry.regions()[0]
        connection.sendall((1).to_bytes(4, "big"))
        place = PLACE.pack(region.number, 1 << 40, memory.size_bytes)
        socket.send_fds(connection, [place], [self._file_of(memory).fd])


@pytest.mark.parametrize(
    ("kind", "reason"), [(_UnsealedOwner, "not sealed"), (_OverstatingOwner, "shorter than its region")]
)
def test_memory_files_that_could_crash_us_are_refused(kind: type[ShmTransport], reason: str) -> None:
    from transport_world import flat_tensor

    a, owner = make_end("shm", "a"), kind("owner")
    try:
        owner.register(owner.allocate(4096), flat_tensor(4, 1024))
        a.transport.connect(owner.describe("a"))
        lost = a.await_lost("owner")
        assert reason in lost.reason
    finally:
        a.transport.close()
        owner.close()


def test_a_wildcard_address_needs_one_to_advertise() -> None:
    from backends.transport.port import TransportError

    with pytest.raises(TransportError, match="needs an advertised host"):
        TcpTransport("a", "0.0.0.0")
    with pytest.raises(TransportError, match=r"cannot listen on '192\.0\.2\.1'"):
        TcpTransport("a", "192.0.2.1")
    with TcpClosing("a", "0.0.0.0", advertised_host="127.0.0.1") as transport:
        where = msgspec.msgpack.decode(transport.describe("b").endpoint, type=TcpEndpoint)
        assert where.host == "127.0.0.1"


class TcpClosing(TcpTransport):
    """Closes at the end of a with statement."""

    def __enter__(self) -> "TcpClosing":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
