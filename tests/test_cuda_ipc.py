"""GPU memory between processes: what conformance does not see. Over the stand-in for libcuda, and on a GPU if there is
one."""

import gc
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from fake_cuda import FAKE_CUDA, FakeTensor, controls, fake_driver
from gpu_child import BLOCK_BYTES, GpuChild, start_gpu_child
from numpy.typing import NDArray
from transport_world import End, ends, flat_tensor, join, make_end, pair, ranges_between, shuffled_blocks

from backends.transport.cuda_ipc.driver import Driver
from backends.transport.cuda_ipc.gpu import Gpu, missing
from backends.transport.cuda_ipc.greeting import receive_greeting
from backends.transport.cuda_ipc.pool import GpuPool
from backends.transport.cuda_ipc.transport import CudaIpcTransport
from backends.transport.port import Access, Peer, Region, TransportError

SIZE = 1 << 20
MISSING = missing()


@pytest.fixture(
    params=[
        pytest.param("fake", marks=FAKE_CUDA),
        pytest.param("gpu", marks=pytest.mark.skipif(bool(MISSING), reason=f"no GPU here: {MISSING.split(';')[0]}")),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Whose libcuda: the stand-in's, or the real one."""
    return str(request.param)


class Side:
    """This process's end: a pool on the first GPU, registered from its second block on."""

    def __init__(self, kind: str, peers_may: Access = "both") -> None:
        driver = fake_driver() if kind == "fake" else Driver()
        self.pool = GpuPool(driver, SIZE)
        self.pool.write(np.zeros(SIZE, dtype=np.uint8))
        self.transport = CudaIpcTransport("a", driver=driver)
        self.region = self.transport.register(self.pool, flat_tensor(SIZE // 1024, 1024), peers_may)
        self.end = End(self.transport, np.zeros(0, dtype=np.uint8), self.region)


@contextmanager
def side_and_child(kind: str, **options: str) -> Iterator[tuple[Side, GpuChild, Peer, Region]]:
    """Connected: this process, and a child with random bytes in its pool; the child as a peer, and its region."""
    side, child = Side(kind), start_gpu_child(kind, SIZE, **options)
    try:
        with ends(side.end):
            peer, address = child.meet(side.end)
            yield side, child, peer, replace(side.region, address=address)
    finally:
        child.end()
        side.pool.close()


def content(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)


def test_scattered_blocks_are_read_from_another_process_and_written_to_it(kind: str) -> None:
    with side_and_child(kind) as (side, child, peer, theirs):
        count = SIZE // BLOCK_BYTES
        here, there = (shuffled_blocks(seed, SIZE, BLOCK_BYTES, count) for seed in (1, 2))
        pulled = ranges_between(theirs, side.region, there, here, [BLOCK_BYTES] * count)
        completion = side.end.outcome(side.transport.read(peer, pulled, notification=b"read"))
        assert (completion.outcome, completion.reason) == ("done", "")
        expected = np.empty((count, BLOCK_BYTES), dtype=np.uint8)
        expected[np.array(here) // BLOCK_BYTES] = content(9).reshape(count, -1)[np.array(there) // BLOCK_BYTES]
        assert np.array_equal(side.pool.read(), expected.reshape(-1))
        side.pool.write(content(4))
        pushed = ranges_between(side.region, theirs, here, there, [BLOCK_BYTES] * count)
        side.transport.write(peer, pushed, notification=b"written")
        assert child.ask(do="notifications", count=2) == ["read", "written"]
        expected[np.array(there) // BLOCK_BYTES] = content(4).reshape(count, -1)[np.array(here) // BLOCK_BYTES]
        assert child.ask(do="digest") == child.digest_of(expected.reshape(-1))


def test_ranges_of_any_size_and_alignment_arrive_beside_untouched_bytes(kind: str) -> None:
    with side_and_child(kind) as (side, _, peer, theirs):
        sizes = [1, 7, 4096, 100_000, 3]
        sources, targets = [5, 900_000, 8192, 20_000, 13], [700_000, 0, 500_001, 9, 650_003]
        side.end.outcome(side.transport.read(peer, ranges_between(theirs, side.region, sources, targets, sizes)))
        expected, source = np.zeros(SIZE, dtype=np.uint8), content(9)
        for at, to, size in zip(sources, targets, sizes, strict=True):
            expected[to : to + size] = source[at : at + size]
        assert np.array_equal(side.pool.read(), expected)


def test_what_the_owner_has_unregistered_is_not_read_any_more_and_its_stamps_come_by_shared_memory(kind: str) -> None:
    with side_and_child(kind) as (side, child, peer, theirs):
        memory = side.transport.allocate(4096)
        stamps = side.transport.register(memory, flat_tensor(4, 1024))
        there = replace(stamps, address=peer.tensors[1].base_address)
        read = side.transport.read(peer, ranges_between(there, stamps, [0], [0], [4096]))
        assert side.end.outcome(read).outcome == "done"
        assert bytes(memory) == bytes([5]) * 4096
        assert child.ask(do="unregister") == "done"
        one = ranges_between(theirs, side.region, [0], [0], [100])
        while side.end.outcome(side.transport.read(peer, one)).outcome == "done":
            time.sleep(0.001)  # it learns of it by a message
        again = ranges_between(there, stamps, [0], [0], [4096])
        assert side.end.outcome(side.transport.read(peer, again)).outcome == "done"


def test_a_killed_owner_is_told_and_what_is_outstanding_ends_once(kind: str) -> None:
    with side_and_child(kind) as (side, child, peer, theirs):
        whole = ranges_between(theirs, side.region, [0], [0], [SIZE])
        handles = [side.transport.read(peer, whole) for _ in range(50)]
        os.kill(child.process.pid, signal.SIGKILL)
        side.end.await_lost("b")
        assert sorted(side.end.completions()) == handles
        assert side.end.outcome(side.transport.read(peer, whole)).outcome == "failed"


def test_a_stopped_owner_is_read_all_the_same_since_it_runs_nothing(kind: str) -> None:
    with side_and_child(kind) as (side, child, peer, theirs):
        os.kill(child.process.pid, signal.SIGSTOP)
        whole = ranges_between(theirs, side.region, [0], [0], [SIZE])
        assert side.end.outcome(side.transport.read(peer, whole)).outcome == "done"
        assert np.array_equal(side.pool.read(), content(9))


# --- with the stand-in, which can be made to fail ------------------------------------------------------------------


@FAKE_CUDA
def test_handles_are_closed_with_the_connection_and_contexts_with_the_transport() -> None:
    gc.collect()
    retained = controls().fakeRetained()
    with side_and_child("fake") as (side, _, _, _):
        assert controls().fakeOpened() == 1
        side.transport.disconnect("b")
        assert controls().fakeOpened() == 0
        assert controls().fakeRetained() == retained + 2  # the transport's and the pool's
    assert controls().fakeRetained() == retained


@FAKE_CUDA
def test_each_process_has_numbers_of_its_own_for_the_same_gpus() -> None:
    """The child sees one GPU only, as its first, which is the second of this process."""
    with side_and_child("fake", CUDA_VISIBLE_DEVICES="1") as (side, _, peer, theirs):
        whole = ranges_between(theirs, side.region, [0], [0], [SIZE])
        assert side.end.outcome(side.transport.read(peer, whole)).outcome == "done"
        assert np.array_equal(side.pool.read(), content(9))


@FAKE_CUDA
@pytest.mark.parametrize(
    ("function", "number", "words"),
    [
        ("cuIpcOpenMemHandle_v2", 201, "CUDA_ERROR_INVALID_CONTEXT.*--pid=host"),
        ("cuIpcOpenMemHandle_v2", 1, "CUDA_ERROR_INVALID_VALUE.*not visible in this container"),
        ("cuIpcOpenMemHandle_v2", 217, "cuIpcOpenMemHandle_v2: error 217"),
        ("cuDeviceGetUuid_v2", 999, "cuDeviceGetUuid_v2: error 999"),
    ],
)
def test_a_peer_whose_memory_cannot_be_opened_is_lost_with_the_reason(function: str, number: int, words: str) -> None:
    side, child = Side("fake"), start_gpu_child("fake", SIZE)
    try:
        with ends(side.end):
            controls().fakeFailNext(function.encode(), number)
            side.transport.connect(child.description())
            lost = side.end.await_lost("b")
            assert lost.reason.startswith("it cannot be reached: ")
            assert re.search(words, lost.reason)
            assert controls().fakeOpened() == 0
    finally:
        child.end()
        side.pool.close()


@FAKE_CUDA
def test_gpus_that_cannot_reach_each_other_lose_the_peer_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,9")
    side, child = Side("fake"), start_gpu_child("fake", SIZE, CUDA_VISIBLE_DEVICES="9")
    try:
        with ends(side.end):
            side.transport.connect(child.description())
            assert "nvidia-smi topo -p2p r" in side.end.await_lost("b").reason
    finally:
        child.end()
        side.pool.close()


@FAKE_CUDA
def test_a_region_that_reaches_beyond_its_allocation_is_not_used() -> None:
    with side_and_child("fake") as (_, child, _, _):
        handle = bytes.fromhex(str(child.ask(do="handle")))
        gpu = Gpu(fake_driver())
        with pytest.raises(TransportError, match=f"ends at byte {SIZE + 1} of an allocation of {SIZE} bytes"):
            gpu.open(handle, SIZE + 1)
        assert controls().fakeOpened() == 1  # by the transport
        controls().fakeFailNext(b"cuMemGetAddressRange_v2", 1)  # a driver that knows its own memory only
        for end in (SIZE + 1, SIZE):
            gpu.close_allocation(gpu.open(handle, end))
        gpu.close()


def greeting(**changes: object) -> bytes:
    """What a peer sends that describes one region on its GPU, with changes."""
    export = {"handle": bytes(64), "offset": 0, "size_bytes": 4096, "address": 0}
    gpu = {"uuid": bytes(16), "pci_address": "0000:3a:00.0"}
    rights = {1: changes.pop("right", "read")}
    return msgspec.msgpack.encode({"gpu": gpu, "exports": {1: {**export, **changes}}, "rights": rights})


@pytest.mark.parametrize(
    "change",
    [{"handle": b"short"}, {"offset": -1}, {"offset": 2**63}, {"size_bytes": "many"}, {"more": 1}, {"right": "all"}],
)
def test_a_greeting_that_is_none_is_refused(change: dict[str, object]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for content, length in ((greeting(**change), None), (greeting(), 2**31), (b"\xc1", None)):
            theirs.sendall((len(content) if length is None else length).to_bytes(4, "big") + content)
            with pytest.raises((ValueError, OSError)):
                receive_greeting(ours)
            ours.setblocking(False)
            with suppress(BlockingIOError):
                ours.recv(1 << 16)
            ours.setblocking(True)
        theirs.sendall(len(greeting()).to_bytes(4, "big") + greeting())
        assert receive_greeting(ours).rights == {1: "read"}


@FAKE_CUDA
def test_a_copy_that_the_gpu_fails_is_a_failed_transfer_and_the_next_one_is_tried() -> None:
    with pair("cuda_ipc") as (a, b, peers):
        whole = ranges_between(b.region, a.region, [0], [0], [SIZE])
        controls().fakeFailNext(b"cuEventSynchronize", 700)
        completion = a.outcome(a.transport.read(peers[0], whole))
        assert (completion.outcome, completion.reason) == ("failed", "cuEventSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS")
        assert a.outcome(a.transport.read(peers[0], whole)).outcome == "done"


@FAKE_CUDA
def test_one_end_reads_from_peers_on_its_own_and_on_another_gpu() -> None:
    driver = fake_driver()
    other, tensor = CudaIpcTransport("c", gpu_pci_address="0000:3b:00.0", driver=driver), FakeTensor(SIZE, ordinal=1)
    tensor.view()[:] = 3
    c = End(other, tensor.view(), other.register(tensor, flat_tensor(SIZE // 1024, 1024)))
    with ends(make_end("cuda_ipc", "a"), make_end("cuda_ipc", "b", seed=7), c) as (a, b, _):
        for owner in (b, c):
            peer, _ = join(a, owner)
            whole = ranges_between(owner.region, a.region, [0], [0], [SIZE])
            assert a.outcome(a.transport.read(peer, whole)).outcome == "done"
            assert np.array_equal(a.pool, owner.pool)


@FAKE_CUDA
def test_memory_that_cannot_be_exported_is_not_registered() -> None:
    with ends(make_end("cuda_ipc", "a")) as (a,):
        controls().fakeExportable(0)
        tensor = FakeTensor(SIZE)
        controls().fakeExportable(1)
        with pytest.raises(TransportError, match="expandable segments"):
            a.transport.register(tensor, flat_tensor(SIZE // 1024, 1024))
        with pytest.raises(TransportError, match="covers bytes"):
            a.transport.register(FakeTensor(1024), flat_tensor(4, 1024))
        assert len(a.transport.describe("b").regions) == 1
