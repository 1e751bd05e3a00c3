"""Peers that hang or are slow, the pure Python paths, and how work is shared out."""

import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
from transport_child import join_child, start_child
from transport_world import TIMEOUT_S, End, flat_tensor, join, make_end, ranges_between

from backends.transport import copying
from backends.transport.copier import Copier
from backends.transport.frames import FrameChannel
from backends.transport.jobs import Job
from backends.transport.ledger import Ledger
from backends.transport.memory import memory_of
from backends.transport.port import Notification, TransferHandle, TransportError
from backends.transport.tcp import TcpTransport
from backends.transport.tcp_requests import RequestQueue
from backends.transport.tcp_wire import BYTES_MAX

SIZE = 8 << 20


def test_a_peer_that_hangs_in_a_transfer_is_given_up() -> None:
    child = start_child("tcp", "b", "a", SIZE, seed=9)
    transport = TcpTransport("a", stall_timeout_s=0.3)
    memory = transport.allocate(SIZE)
    region = transport.register(memory, flat_tensor(SIZE // 1024, 1024))
    a = End(transport, np.frombuffer(memory, dtype=np.uint8), region)
    try:
        peer, address = join_child(a, child, "b")
        os.kill(child.process.pid, signal.SIGSTOP)
        handle = transport.read(peer, ranges_between(replace(region, address=address), region, [0], [0], [SIZE]))
        completion = a.outcome(handle)
        assert completion.outcome == "failed"
        assert "no progress for 0.3 s" in completion.reason
        a.await_lost("b")
    finally:
        transport.close()
        child.end()


def test_shared_memory_of_a_stopped_owner_can_still_be_read() -> None:
    child = start_child("shm", "b", "a", SIZE, seed=9)
    a = make_end("shm", "a", SIZE)
    try:
        peer, address = join_child(a, child, "b")
        os.kill(child.process.pid, signal.SIGSTOP)
        there = replace(a.region, address=address)
        assert a.outcome(a.transport.read(peer, ranges_between(there, a.region, [0], [0], [SIZE]))).outcome == "done"
        assert np.array_equal(a.pool, np.random.default_rng(9).integers(0, 256, SIZE, dtype=np.uint8))
    finally:
        a.transport.close()
        child.end()


@pytest.mark.parametrize("kind", ["shm", "tcp"])
def test_without_the_extension_the_same_bytes_arrive(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "NATIVE", False)
    a, b = make_end(kind, "a"), make_end(kind, "b", seed=4)
    try:
        peers = join(a, b)
        offsets = [block * 4096 for block in range(256)]
        ranges = ranges_between(b.region, a.region, offsets, offsets[::-1], [4096] * 256)
        assert a.outcome(a.transport.read(peers[0], ranges)).outcome == "done"
        assert np.array_equal(a.pool.reshape(256, 4096), b.pool.reshape(256, 4096)[::-1])
    finally:
        a.transport.close()
        b.transport.close()


def test_reads_and_writes_in_turn_do_not_block_each_other() -> None:
    """Both directions at once on few streams, more bytes than socket buffers hold."""
    a, b = make_end("tcp", "a", SIZE * 2, seed=1), make_end("tcp", "b", SIZE * 2, seed=2)
    try:
        peers = join(a, b)
        first, second = a.pool[:SIZE].copy(), b.pool[SIZE:].copy()
        handles = []
        for _ in range(6):
            handles.append(a.transport.write(peers[0], ranges_between(a.region, b.region, [0], [0], [SIZE])))
            handles.append(a.transport.read(peers[0], ranges_between(b.region, a.region, [SIZE], [SIZE], [SIZE])))
        assert {a.outcome(handle).outcome for handle in handles} == {"done"}
        assert np.array_equal(b.pool[:SIZE], first)
        assert np.array_equal(a.pool[SIZE:], second)
    finally:
        a.transport.close()
        b.transport.close()


def test_tables_of_ranges_larger_than_socket_buffers_do_not_block_either() -> None:
    """Requests of 16384 ranges while answers are under way: the owner reads them only after its answer."""
    a, b = make_end("tcp", "a", SIZE), make_end("tcp", "b", SIZE, seed=2)
    try:
        peers = join(a, b)
        offsets = list(range(0, SIZE, 64))
        ranges = ranges_between(b.region, a.region, offsets, offsets, [64] * len(offsets))
        handles = [a.transport.read(peers[0], ranges) for _ in range(4)]
        assert {a.outcome(handle).outcome for handle in handles} == {"done"}
        assert np.array_equal(a.pool, b.pool)
    finally:
        a.transport.close()
        b.transport.close()


# --- the parts -----------------------------------------------------------------------------------------------------


def _job(size_bytes: int, number: int = 1) -> Job:
    place = np.array([1 << 20], dtype=np.uint64)
    return Job(TransferHandle(number), "read", place, place, (1,), np.array([size_bytes]))


def test_a_transfer_is_cut_into_equal_requests_that_all_streams_share() -> None:
    queue = RequestQueue(2, lambda *_: None)
    assert queue.add(_job(2 * BYTES_MAX + 2)) == 4  # two rounds of two, not two long ones and a rest
    sizes = []
    while (request := queue.take(writes=True)) is not None:
        sizes.append(request.size_bytes)
    assert sum(sizes) == 2 * BYTES_MAX + 2
    assert max(sizes) - min(sizes) <= 2


def test_transfers_take_turns_and_finish_once() -> None:
    finished: list[tuple[int, str]] = []
    queue = RequestQueue(1, lambda job, outcome, _: finished.append((job.handle, outcome)))
    queue.add(_job(2 * BYTES_MAX, 1))
    queue.add(_job(2 * BYTES_MAX, 2))
    taken = [queue.take(writes=True) for _ in range(4)]
    assert [request.transfer.job.handle for request in taken if request is not None] == [1, 2, 1, 2]
    for request in taken:
        assert request is not None
        queue.answer(request)
    assert finished == [(1, "done"), (2, "done")]


def test_a_stopped_transfer_ends_when_its_last_request_is_answered() -> None:
    finished: list[tuple[str, str]] = []
    queue = RequestQueue(1, lambda _, outcome, reason: finished.append((outcome, reason)))
    job = _job(3 * BYTES_MAX)
    queue.add(job)
    request = queue.take(writes=True)
    assert request is not None
    job.stopped = ("cancelled", "enough")
    assert queue.take(writes=True) is None
    assert finished == []  # one answer may still write to its memory
    queue.answer(request)
    assert finished == [("cancelled", "enough")]


def test_no_write_is_taken_while_it_is_not_wanted() -> None:
    queue = RequestQueue(1, lambda *_: None)
    job = _job(10)
    job.kind = "write"
    queue.add(job)
    assert queue.take(writes=False) is None
    assert queue.take(writes=True) is not None


def test_copies_wait_for_each_other_and_a_dropped_one_is_never_reported() -> None:
    copied: list[int] = []
    done = threading.Event()

    def note(job: Job) -> None:
        copied.append(job.handle)
        if len(copied) == 2:
            done.set()

    source, target = np.ones(1 << 20, dtype=np.uint8), np.zeros(1 << 20, dtype=np.uint8)
    at_source, at_target = (np.array([memory.ctypes.data], dtype=np.uint64) for memory in (source, target))
    copier = Copier()
    dropped = _job(1 << 20, 3)
    copier.add(dropped, at_target, at_source, dropped.sizes, note)
    copier.forget(lambda job: job is dropped)
    for number in (1, 2):
        job = _job(1 << 20, number)
        copier.add(job, at_target, at_source, job.sizes, note)
    copier.start()
    assert done.wait(TIMEOUT_S)
    copier.close()
    assert copied == [1, 2]
    assert target.all()


def test_a_ledger_is_readable_exactly_while_it_holds_events() -> None:
    ledger = Ledger()
    assert (ledger.wait(0), ledger.take()) == (False, [])
    for number in range(3):
        ledger.post(Notification("b", bytes([number])))
    assert ledger.wait(0)
    assert [event.payload for event in ledger.take() if isinstance(event, Notification)] == [b"\0", b"\1", b"\2"]
    assert not ledger.wait(0)
    assert [ledger.new_handle() for _ in range(3)] == [1, 2, 3]


def test_a_peer_that_reads_no_notifications_is_given_up() -> None:
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = FrameChannel(ours)
        for _ in range(400):
            channel.send(0, bytes(65536))
        assert "unread" in channel.run(lambda *_: "")


def test_memory_of_a_gpu_is_refused_by_name() -> None:
    class OnGpu:
        nbytes, is_cuda = 8, True

        def data_ptr(self) -> int:
            return 0

        def is_contiguous(self) -> bool:
            return True

    with pytest.raises(TransportError, match="lies on a GPU"):
        memory_of(OnGpu())
