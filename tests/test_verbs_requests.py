"""Work requests as arrays, the schedule of chains, and what faults mean: transport verbs without any device."""

import ctypes
import gc
import struct
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.transport.jobs import Job
from backends.transport.port import TransferHandle, TransportError
from backends.transport.verbs import native
from backends.transport.verbs.faults import consequence_of, words_for
from backends.transport.verbs.posting_cost import posting_cost_ns
from backends.transport.verbs.queue_pairs import next_key
from backends.transport.verbs.requests import READ, SIGNALED, WRITE, ReceiveChain, RequestChain
from backends.transport.verbs.schedule import (
    LANE_BYTES_MAX,
    RANGE_BYTES_MAX,
    Chain,
    KnownRegions,
    Move,
    Schedule,
    cut_ranges,
)


class SendRequest(ctypes.Structure):
    """struct ibv_send_wr, written down once more from infiniband/verbs.h."""

    _fields_ = (
        ("wr_id", ctypes.c_uint64),
        ("next", ctypes.c_uint64),
        ("sg_list", ctypes.c_uint64),
        ("num_sge", ctypes.c_int),
        ("opcode", ctypes.c_int),
        ("send_flags", ctypes.c_uint),
        ("imm_data", ctypes.c_uint32),
        ("remote_addr", ctypes.c_uint64),
        ("rkey", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 76),
    )


class Element(ctypes.Structure):
    """struct ibv_sge"""

    _fields_ = (("addr", ctypes.c_uint64), ("length", ctypes.c_uint32), ("lkey", ctypes.c_uint32))


def walk(first: int) -> list[tuple[int, ...]]:
    """What a device sees: (number, opcode, flags, remote, key, local, bytes, local key) of each request."""
    assert ctypes.sizeof(SendRequest) == 128
    found: list[tuple[int, ...]] = []
    while first:
        request = SendRequest.from_address(first)
        assert request.num_sge == 1
        element = Element.from_address(request.sg_list)
        found.append(
            (
                request.wr_id,
                request.opcode,
                request.send_flags,
                request.remote_addr,
                request.rkey,
                element.addr,
                element.length,
                element.lkey,
            )
        )
        first = request.next
    return found


def fill(chain: RequestChain, opcode: int, number: int, count: int) -> list[tuple[int, ...]]:
    steps = np.arange(count, dtype=np.uint64)
    keys = np.arange(count, dtype=np.uint32)
    sizes = np.arange(1, count + 1)
    local = steps + np.uint64(2**62)  # beyond what a signed or a short field would hold
    return walk(chain.fill(opcode, number, local, keys + np.uint32(900), steps + np.uint64(2**50), keys, sizes))


def test_a_chain_is_what_a_device_reads_and_only_its_last_request_is_signalled() -> None:
    chain = RequestChain(8)
    assert fill(chain, READ, 7, 3) == [
        (7, 4, 0, 2**50, 0, 2**62, 1, 900),
        (7, 4, 0, 2**50 + 1, 1, 2**62 + 1, 2, 901),
        (7, 4, SIGNALED, 2**50 + 2, 2, 2**62 + 2, 3, 902),
    ]


def test_a_shorter_or_longer_chain_leaves_nothing_of_the_one_before() -> None:
    chain = RequestChain(8)
    for count in (8, 1, 5, 8, 3):
        found = fill(chain, WRITE, count, count)
        assert len(found) == count
        assert [request[2] for request in found] == [0] * (count - 1) + [SIGNALED]


def test_receive_requests_name_consecutive_places() -> None:
    places = ReceiveChain(4, 4096, 16, 5)
    at = places.one(3)
    number, following, elements, count = struct.unpack("QQQi", ctypes.string_at(at, 28))
    element = Element.from_address(elements)
    assert (number, following, count, element.addr, element.length, element.lkey) == (3, 0, 1, 4096 + 48, 16, 5)


def test_regions_are_told_apart_by_address_and_may_lie_below_their_names() -> None:
    known = KnownRegions([(2, 2 << 44, 100), (1, 1 << 44, 2**47)])
    addresses = np.array([(1 << 44) + 5, (2 << 44) + 7, 2 << 44], dtype=np.uint64)
    found, rows = known.locate(addresses)
    assert (found.tolist(), rows.tolist(), known.numbers) == ([2**47 + 5, 107, 100], [0, 1, 1], (1, 2))


# --- the schedule --------------------------------------------------------------------------------------------------


def add(schedule: Schedule, count: int, kind: str = "read", size_bytes: int = 4096) -> Move:
    place = np.arange(count, dtype=np.uint64)
    job = Job(TransferHandle(1), "read", place, place, (1,), np.full(count, size_bytes))
    job.kind = "read" if kind == "read" else "write"
    keys = np.zeros(count, dtype=np.uint32)
    return schedule.add(job, place, keys, place, np.zeros(count, dtype=np.intp), job.sizes)


def test_transfers_take_turns_and_lanes_take_no_more_than_they_hold() -> None:
    schedule = Schedule(lanes=1, capacity=10, chain_max=4)
    first, second = add(schedule, 9), add(schedule, 3)
    lane = schedule.lanes[0]
    taken = [schedule.next_chain(lane) for _ in range(4)]
    assert [(chain.move, chain.begin, chain.end) for chain in taken if chain] == [
        (first, 0, 4),
        (second, 0, 3),
        (first, 4, 7),  # what the lane still has room for
    ]
    assert (taken[3], lane.free) == (None, 0)
    assert [chain.number for chain in schedule.done_through(lane, 2)] == [1, 2]
    assert (second.over, first.over, lane.free) == (True, False, 7)


def test_long_ranges_make_short_chains_so_that_a_transfer_can_be_stopped_soon() -> None:
    schedule = Schedule(lanes=1, capacity=512, chain_max=128)
    add(schedule, 20, size_bytes=RANGE_BYTES_MAX)
    chain = schedule.next_chain(schedule.lanes[0])
    assert chain is not None
    assert chain.requests == 4


def test_a_range_longer_than_a_work_request_is_cut() -> None:
    job = Job(
        TransferHandle(1),
        "read",
        np.array([100], dtype=np.uint64),
        np.array([900], dtype=np.uint64),
        (1,),
        np.array([2 * RANGE_BYTES_MAX + 1]),
    )
    ours, theirs, sizes = cut_ranges(job)
    assert ours.tolist() == [100, 100 + RANGE_BYTES_MAX, 100 + 2 * RANGE_BYTES_MAX]
    assert theirs.tolist() == [900, 900 + RANGE_BYTES_MAX, 900 + 2 * RANGE_BYTES_MAX]
    assert sizes.tolist() == [RANGE_BYTES_MAX, RANGE_BYTES_MAX, 1]


def test_a_stopped_transfer_gets_no_further_chain_and_is_over_with_its_last_one() -> None:
    schedule = Schedule(lanes=1, capacity=4, chain_max=4)
    move, waiting = add(schedule, 9), add(schedule, 5)
    lane = schedule.lanes[0]
    chain = schedule.next_chain(lane)
    assert chain is not None
    move.job.stopped = waiting.job.stopped = ("cancelled", "cancelled")
    assert schedule.next_chain(lane) is None
    assert schedule.over() == [waiting]
    schedule.forget(waiting)
    schedule.done_through(lane, chain.number)
    assert (schedule.next_chain(lane), move.over, schedule.empty) == (None, True, False)
    schedule.forget(move)
    assert schedule.empty


def test_a_queue_pair_with_many_bytes_on_their_way_gets_no_more_however_few_the_requests() -> None:
    schedule = Schedule(lanes=1, capacity=512, chain_max=128)
    add(schedule, 64, size_bytes=RANGE_BYTES_MAX)
    lane = schedule.lanes[0]
    chains = [schedule.next_chain(lane), schedule.next_chain(lane)]
    assert [chain.requests for chain in chains if chain is not None] == [4, 4]  # 4 MiB each, and 8 MiB are enough
    assert schedule.next_chain(lane) is None
    assert chains[0] is not None
    schedule.done_through(lane, chains[0].number)
    assert lane.size_bytes == LANE_BYTES_MAX // 2
    assert schedule.next_chain(lane) is not None


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    lanes=st.integers(1, 3),
    capacity=st.integers(1, 12),
    chain_max=st.integers(1, 6),
    data=st.data(),
)
def test_every_range_is_done_once_whatever_fails_on_the_way(
    counts: list[int], lanes: int, capacity: int, chain_max: int, data: st.DataObject
) -> None:
    schedule = Schedule(lanes, capacity, chain_max)
    moves = [add(schedule, count) for count in counts]
    done: Counter[tuple[int, int]] = Counter()
    failures = 5
    while not all(move.over for move in moves):
        on_their_way: list[Chain] = []
        for lane in schedule.lanes:
            while (chain := schedule.next_chain(lane)) is not None:
                on_their_way.append(chain)
            assert sum(chain.requests for chain in lane.chains) == capacity - lane.free <= capacity
        lane = schedule.lanes[data.draw(st.integers(0, lanes - 1))]
        if not lane.chains:
            continue
        if failures and data.draw(st.booleans()):
            failures -= 1
            for chain in schedule.drain(lane):
                assert schedule.lane_of(chain.number) is None
                schedule.again(chain)
            continue
        through = data.draw(st.sampled_from([chain.number for chain in lane.chains]))
        for chain in schedule.done_through(lane, through):
            done.update((moves.index(chain.move), at) for at in range(chain.begin, chain.end) if chain.move)
    assert set(done) == {(number, at) for number, count in enumerate(counts) for at in range(count)}
    assert set(done.values()) == {1}
    for move in moves:
        schedule.forget(move)
    assert schedule.empty


# --- below pyverbs ---------------------------------------------------------------------------------------------------


class HiddenPointer(float):
    """An object of which nothing but its 8 bytes tells where its queue pair is, as of pyverbs before 64."""

    qp_num = 4711


def structure(number: int, kind: int) -> tuple[int, list[object]]:
    """A ``struct ibv_qp`` with its completion queue; and what keeps it alive."""
    context = (ctypes.c_uint64 * 40)()
    queue = (ctypes.c_uint64 * 8)(ctypes.addressof(context))
    pair = (ctypes.c_uint64 * 8)()
    pair[0], pair[3], pair[4] = ctypes.addressof(context), ctypes.addressof(queue), ctypes.addressof(queue)
    pair[6], pair[7] = number << 32, kind << 32  # qp_num after handle, qp_type after state
    return ctypes.addressof(pair), [context, queue, pair]


def hidden(address: int) -> HiddenPointer:
    return HiddenPointer(struct.unpack("d", struct.pack("Q", address))[0])


def test_the_queue_pair_behind_an_object_is_found_and_no_other() -> None:
    address, kept = structure(4711, 2)
    assert native.queue_pair_address(hidden(address)) == address
    for wrong in (structure(4712, 2), structure(4711, 4)):
        with pytest.raises(TransportError, match="cannot be found"):
            native.queue_pair_address(hidden(wrong[0]))
    with pytest.raises(TransportError, match="cannot be found"):
        native.queue_pair_address(hidden(0x1000))  # not mapped: an error, not the end of the process
    del kept


def test_newer_versions_show_it_themselves() -> None:
    class Shown:
        qp = 12345

    assert native.queue_pair_address(Shown()) == 12345


def test_a_windows_key_counts_up_in_its_last_8_bits_only() -> None:
    assert (next_key(0x1234_56FE), next_key(0x1234_56FF)) == (0x1234_56FF, 0x1234_5600)


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "consequence", "words"),
    [
        (12, "lost", "transport retry counter exceeded"),
        (13, "lost", "receiver not ready"),
        (10, "refused", "remote access error"),
        (9, "refused", "remote invalid request"),
        (4, "refused", "local protection error"),
        (5, "flushed", "flushed"),
        (19, "broken", "fatal error"),
        (99, "broken", "work completion status 99"),
    ],
)
def test_every_failed_work_request_means_something_for_the_core(status: int, consequence: str, words: str) -> None:
    assert consequence_of(status) == consequence
    assert words in words_for(status)


# --- cost ------------------------------------------------------------------------------------------------------------


def test_posting_keeps_nothing_per_work_request() -> None:
    posting_cost_ns(requests=256, repetitions=1, cpu_s_min=0)
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        posting_cost_ns(requests=8192, repetitions=3, cpu_s_min=0)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept < 8192, f"{kept} bytes are left of 32768 work requests"  # one leaked word each would be 262144
