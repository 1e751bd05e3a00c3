"""What every transport must do, whatever carries its bytes. Capabilities decide which tests apply."""

import msgspec
import numpy as np
import pytest
from transport_world import (
    ALL,
    ONE_SIDED,
    PAIR_BYTES,
    End,
    ends,
    flat_tensor,
    join,
    make_end,
    pair,
    parameters,
    pull,
    push,
    ranges_between,
    shuffled_blocks,
)

from backends.transport.port import Access, Completion, TransportError
from kvsim.core.cluster import KvSpec
from kvsim.core.descriptors import Ranges, transfer_ranges
from kvsim.core.kv_tensor import KvTensor, contiguous_kv_tensor


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> str:
    """The transport under test."""
    return str(request.param)


# --- bytes arrive ------------------------------------------------------------------------------------------------


def test_scattered_ranges_of_many_sizes_are_pulled_to_their_places(kind: str) -> None:
    with pair(kind) as (a, b, peers):
        sizes = [1, 7, 4096, 100_000, 3, 65_536, 64]
        sources = [5, 900_000, 8192, 20_000, 13, 200_000, 400_001]
        targets = [700_000, 0, 500_001, 9, 650_003, 300_000, 999_000]
        ranges = ranges_between(b.region, a.region, sources, targets, sizes)
        expected = np.zeros_like(a.pool)
        for source, target, size in zip(sources, targets, sizes, strict=True):
            expected[target : target + size] = b.pool[source : source + size]
        completion = a.outcome(pull(a, b, peers, ranges))
        assert (completion.outcome, completion.reason, completion.size_bytes) == ("done", "", sum(sizes))
        assert np.array_equal(a.pool, expected)


def test_thousands_of_shuffled_blocks_are_pushed_to_their_places(kind: str) -> None:
    size_bytes = 16 << 20
    with pair(kind, size_bytes) as (a, b, peers):
        a.pool[:] = np.random.default_rng(3).integers(0, 256, size_bytes, dtype=np.uint8)
        count = size_bytes // 1024
        sources = shuffled_blocks(1, size_bytes, 1024, count)
        targets = shuffled_blocks(2, size_bytes, 1024, count)
        handle = push(a, b, peers, ranges_between(a.region, b.region, sources, targets, [1024] * count))
        if not a.transport.capabilities.write:
            b.await_events(lambda events: any(isinstance(event, Completion) for event in events))
        assert a.outcome(handle).outcome == "done"
        moved = a.pool.reshape(count, 1024)[np.array(sources) // 1024]
        assert np.array_equal(b.pool.reshape(count, 1024)[np.array(targets) // 1024], moved)


def test_one_range_longer_than_any_single_operation_arrives_whole(kind: str) -> None:
    size_bytes = 24 << 20
    with pair(kind, size_bytes) as (a, b, peers):
        assert a.outcome(pull(a, b, peers, ranges_between(b.region, a.region, [1], [0], [size_bytes - 1]))).reason == ""
        assert np.array_equal(a.pool[:-1], b.pool[1:])
        assert a.pool[-1] == 0


def test_ranges_from_unequal_layouts_move_the_right_heads_of_the_right_blocks(kind: str) -> None:
    """The source holds 4 heads layer by layer, the target 2 of them block by block, in a smaller pool."""
    source_kv = KvSpec(layers=3, kv_heads=4, head_dim=8, dtype_bytes=2, block_tokens=4)
    target_kv = msgspec.structs.replace(source_kv, layout=("block", "layer", "kv", "head", "token", "dim"))
    source = contiguous_kv_tensor(source_kv, 4, blocks=16)
    target = contiguous_kv_tensor(target_kv, 2, blocks=10)
    with ends(_tensor_end(kind, "a", target, seed=0), _tensor_end(kind, "b", source, seed=5)) as (a, b):
        peers = join(a, b)
        source_tensor = peers[0].tensors[0] if a.transport.capabilities.read else b.region.tensor
        ranges = transfer_ranges(
            source_tensor, a.region.tensor, ((9, 2), (3, 1)), ((4, 1), (7, 2)), (1, 2), (2, 2), (0, 2)
        )
        assert a.outcome(pull(a, b, peers, ranges)).outcome == "done"
        # both as [layer, kv, block, token, head, dim] of 2-byte elements
        at_source = b.pool.view(np.uint16).reshape(source.shape)
        at_target = a.pool.view(np.uint16).reshape(target.shape).transpose(1, 2, 0, 4, 3, 5)
        expected = np.zeros_like(at_target)
        for source_block, target_block in ((9, 4), (10, 7), (3, 8)):
            expected[1:3, :, target_block] = at_source[1:3, :, source_block, :, 2:4]
        assert np.array_equal(at_target, expected)


def _tensor_end(kind: str, name: str, tensor: KvTensor, seed: int) -> End:
    return make_end(kind, name, tensor.shape[0] * tensor.strides_bytes[0], seed, tensor)


def test_one_end_pulls_from_several_regions_of_several_peers(kind: str) -> None:
    with ends(*[make_end(kind, name, seed=seed) for name, seed in (("a", 0), ("b", 1), ("c", 2))]) as (a, b, c):
        memory = b.transport.allocate(4096)
        second_pool = np.frombuffer(memory, dtype=np.uint8)
        second_pool[:] = 42
        second = b.transport.register(memory, flat_tensor(4, 1024))
        peers_of = {"b": join(a, b), "c": join(a, c)}
        assert [tensor.base_address for tensor in peers_of["b"][0].tensors] == [b.region.address, second.address]
        first_ranges = ranges_between(b.region, a.region, [0], [0], [1000])
        second_ranges = ranges_between(second, a.region, [96], [1000], [4000])
        both = Ranges(
            np.concatenate([first_ranges.source_address, second_ranges.source_address]),
            np.concatenate([first_ranges.target_address, second_ranges.target_address]),
            np.concatenate([first_ranges.size_bytes, second_ranges.size_bytes]),
        )
        from_b = pull(a, b, peers_of["b"], both)
        from_c = pull(a, c, peers_of["c"], ranges_between(c.region, a.region, [0], [500_000], [300_000]))
        assert a.outcome(from_b).outcome == a.outcome(from_c).outcome == "done"
        assert np.array_equal(a.pool[:1000], b.pool[:1000])
        assert np.array_equal(a.pool[1000:5000], second_pool[96:])
        assert np.array_equal(a.pool[500_000:800_000], c.pool[:300_000])


def test_hundreds_of_outstanding_transfers_complete_once_each(kind: str) -> None:
    with pair(kind) as (a, b, peers):
        blocks = PAIR_BYTES // 4096
        order = shuffled_blocks(4, PAIR_BYTES, 4096, blocks)
        handles = [
            pull(a, b, peers, ranges_between(b.region, a.region, [offset], [offset], [4096]), tag=tag)
            for tag, offset in enumerate(order)
        ]
        assert len(set(handles)) == blocks
        assert {a.outcome(handle).outcome for handle in handles} == {"done"}
        assert np.array_equal(a.pool, b.pool)


def test_a_transfer_without_ranges_is_done_at_once(kind: str) -> None:
    with pair(kind) as (a, b, peers):
        handle = pull(a, b, peers, ranges_between(b.region, a.region, [], [], []))
        assert a.outcome(handle).size_bytes == 0


def test_transfers_may_be_started_before_the_peers_are_ready(kind: str) -> None:
    with ends(make_end(kind, "a"), make_end(kind, "b", seed=7)) as (a, b):
        to_b, to_a = b.transport.describe("a"), a.transport.describe("b")
        ranges = ranges_between(b.region, a.region, [0], [0], [PAIR_BYTES])
        peers = a.transport.connect(to_b), b.transport.connect(to_a)
        assert a.outcome(pull(a, b, peers, ranges)).outcome == "done"
        assert np.array_equal(a.pool, b.pool)


# --- notifications -----------------------------------------------------------------------------------------------


def test_notifications_arrive_in_order_and_name_their_sender(kind: str) -> None:
    with pair(kind) as (a, b, peers):
        for number in range(300):
            a.transport.notify(peers[0], number.to_bytes(4, "big") * (number + 1))
        told = b.notifications(300)
        assert [event.payload for event in told] == [n.to_bytes(4, "big") * (n + 1) for n in range(300)]
        assert {event.peer for event in told} == {"a"}


@pytest.mark.parametrize("kind", ONE_SIDED)
def test_the_notification_of_a_write_arrives_after_its_bytes(kind: str) -> None:
    size_bytes = 8 << 20
    with pair(kind, size_bytes) as (a, b, peers):
        for round_number in range(1, 6):
            a.pool[:] = round_number
            order = shuffled_blocks(round_number, size_bytes, 4096, size_bytes // 4096)
            ranges = ranges_between(a.region, b.region, order, order, [4096] * len(order))
            a.transport.write(peers[0], ranges, notification=b"%d" % round_number)
            b.notifications(round_number)
            assert int(b.pool.min()) == int(b.pool.max()) == round_number


@pytest.mark.parametrize("kind", ONE_SIDED)
def test_the_notification_of_a_read_reaches_the_owner_and_that_of_a_failed_one_does_not(kind: str) -> None:
    with pair(kind) as (a, b, peers):
        good = ranges_between(b.region, a.region, [0], [0], [4096])
        a.transport.read(peers[0], good, notification=b"good")
        assert [event.payload for event in b.notifications(1)] == [b"good"]
        b.transport.unregister(b.region)
        completed = 0  # shm learns of it by a message, which may come after copies that were quick
        while a.outcome(a.transport.read(peers[0], good, notification=b"%d" % completed)).outcome == "done":
            completed += 1
        a.transport.notify(peers[0], b"last")
        expected = [b"good", *[b"%d" % number for number in range(completed)], b"last"]
        assert [event.payload for event in b.notifications(len(expected))] == expected


def test_a_payload_beyond_the_limit_is_refused_at_once(kind: str) -> None:
    with pair(kind) as (a, _, peers), pytest.raises(TransportError, match="notification of 65537 bytes"):
        a.transport.notify(peers[0], bytes(65537))


# --- rights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", parameters("tcp", "verbs", "cuda_ipc"))
@pytest.mark.parametrize("allowed", ["read", "write"])
def test_peers_do_with_a_region_what_it_was_registered_for_and_nothing_else(kind: str, allowed: Access) -> None:
    with ends(make_end(kind, "a", seed=3), make_end(kind, "b", seed=7)) as (a, b):
        # by owner or card, but with cuda_ipc only by the end of the peer that would break the rule
        assert a.transport.capabilities.access_enforced == (kind != "cuda_ipc")
        memory = b.transport.allocate(8192)
        memory[:] = bytes([9]) * 8192
        bounded = b.transport.register(memory, flat_tensor(8, 1024), peers_may=allowed)
        peer, us = join(a, b)
        before = a.pool[:8192].copy()
        there = ranges_between(a.region, bounded, [0], [0], [8192])
        back = ranges_between(bounded, a.region, [0], [0], [8192])
        written = a.outcome(a.transport.write(peer, there)).outcome
        pulled = a.outcome(a.transport.read(peer, back)).outcome
        assert (pulled, written) == (("done", "failed") if allowed == "read" else ("failed", "done"))
        assert bytes(memory) == (bytes([9]) * 8192 if allowed == "read" else before.tobytes())
        assert np.array_equal(a.pool[:8192], memory if allowed == "read" else before)
        # the owner itself is not bound by what peers may do, and its other region is as open as ever
        ours = ranges_between(bounded, a.region, [0], [8192], [4096])
        assert b.outcome(b.transport.write(us, ours)).outcome == "done"
        assert a.outcome(a.transport.read(peer, ranges_between(b.region, a.region, [0], [0], [4096]))).outcome == "done"
        assert np.array_equal(a.pool[:4096], b.pool[:4096])


@pytest.mark.parametrize("kind", ALL)
def test_what_a_key_opens_is_told(kind: str) -> None:
    with ends(make_end(kind, "a")) as (a,):
        capabilities = a.transport.capabilities
        told = capabilities.key_scope, capabilities.revocable, capabilities.access_enforced
        if kind == "verbs":
            assert told[0] in ("peer", "region")  # which of them: see test_verbs_faults
            assert told[1:] == (True, True)
        else:
            assert (
                told
                == {
                    "shm": ("connection", False, False),
                    "cuda_ipc": ("allocation", False, False),
                    "tcp": ("connection", True, True),
                    "message": ("connection", True, True),
                }[kind]
            )
