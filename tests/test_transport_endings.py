"""How transfers, peers and regions end: cancel, disconnect, unregister, close, in every transport."""

import numpy as np
import pytest
from transport_world import (
    ALL,
    ONE_SIDED,
    End,
    flat_tensor,
    join,
    pair,
    pull,
    ranges_between,
)

from backends.transport.port import PeerLost, TransportError
from kvsim.core.descriptors import Ranges

POOL_BYTES = 8 << 20


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> str:
    """The transport under test."""
    return str(request.param)


def long(a: End, b: End) -> Ranges:
    """What takes a while and little memory: 64 MiB, the same bytes again and again."""
    return ranges_between(b.region, a.region, [0] * 8, [0] * 8, [POOL_BYTES] * 8)


def test_cancelled_transfers_end_once_and_touch_nothing_afterwards(kind: str) -> None:
    with pair(kind, POOL_BYTES) as (a, b, peers):
        handles = [pull(a, b, peers, long(a, b), tag=tag) for tag in range(8)]
        for handle in handles:
            a.transport.cancel(handle)
        outcomes = [a.outcome(handle).outcome for handle in handles]
        assert set(outcomes) <= {"cancelled", "done"}
        assert "cancelled" in outcomes
        a.pool[:] = 0
        assert a.outcome(pull(a, b, peers, ranges_between(b.region, a.region, [0], [0], [1]), tag=99)).outcome == "done"
        assert not a.pool[1:].any()


def test_close_completes_what_is_outstanding_and_leaves_no_thread(kind: str) -> None:
    with pair(kind, POOL_BYTES) as (a, b, peers):
        handles = [pull(a, b, peers, long(a, b), tag=tag) for tag in range(8)]
        a.transport.close()
        a.events += a.transport.poll()
        assert sorted(a.completions()) == handles
        assert a.completions()[handles[-1]].outcome == "cancelled"
        a.pool[:] = 0
        b.await_lost("a")
        assert not a.pool.any()
        with pytest.raises(TransportError, match="closed"):
            a.transport.connect(b.transport.describe("a"))


def test_a_peer_that_was_disconnected_can_be_met_again(kind: str) -> None:
    with pair(kind) as (a, b, peers):
        a.transport.disconnect("b")
        b.await_lost("a")
        with pytest.raises(TransportError, match="not connected to 'b'"):
            pull(a, b, peers, ranges_between(b.region, a.region, [0], [0], [10]))
        b.transport.disconnect("a")
        a.events.clear()
        b.events.clear()
        again = join(a, b)
        assert a.outcome(pull(a, b, again, ranges_between(b.region, a.region, [0], [0], [10]), tag=1)).outcome == "done"
        assert not any(isinstance(event, PeerLost) for event in a.events)


def test_connecting_twice_is_refused(kind: str) -> None:
    with pair(kind) as (a, b, _), pytest.raises(TransportError, match="a connection to 'b' already"):
        a.transport.connect(b.transport.describe("a"))


@pytest.mark.parametrize("kind", ONE_SIDED)
def test_a_region_that_its_owner_has_taken_back_cannot_be_read(kind: str) -> None:
    with pair(kind) as (a, b, peers):
        memory = b.transport.allocate(4096)
        b.transport.unregister(b.region)
        b.region = b.transport.register(memory, flat_tensor(4, 1024))
        handle = a.transport.read(
            peers[0], Ranges(_one(peers[0].tensors[0].base_address), _one(a.region.address), np.array([10]))
        )
        # shm learns of it by a message, which may come after a copy that was quick
        while a.outcome(handle).outcome == "done":
            handle = a.transport.read(
                peers[0], Ranges(_one(peers[0].tensors[0].base_address), _one(a.region.address), np.array([10]))
            )
        assert a.outcome(handle).outcome == "failed"
        assert b.region.address != peers[0].tensors[0].base_address


def test_a_region_that_we_take_back_ends_the_transfers_that_use_it(kind: str) -> None:
    with pair(kind, POOL_BYTES) as (a, b, peers):
        handles = [pull(a, b, peers, long(a, b), tag=tag) for tag in range(8)]
        a.transport.unregister(a.region)
        a.pool[:] = 0
        outcomes = [a.outcome(handle).outcome for handle in handles]
        assert set(outcomes) <= {"cancelled", "done"}
        assert not a.pool.any()
        with pytest.raises(TransportError, match="on our side: there are no regions"):
            pull(a, b, peers, ranges_between(b.region, a.region, [0], [0], [1]), tag=99)


def _one(address: int) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    return np.array([address], dtype=np.uint64)
