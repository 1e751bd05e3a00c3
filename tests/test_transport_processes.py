"""Every transport between two processes: bytes, idleness, and a peer that is killed."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from transport_child import BLOCK_BYTES, join_child, start_child
from transport_world import (
    ALL,
    ends,
    make_end,
    ranges_between,
    shuffled_blocks,
)

from backends.transport.port import PeerLost


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> str:
    """The transport under test."""
    return str(request.param)


def test_another_process_is_read_from_and_sleeps_when_idle(kind: str) -> None:
    child = start_child(kind, "b", "a", 4 << 20, seed=9)
    try:
        with ends(make_end(kind, "a", 4 << 20)) as (a,):
            peer, address = join_child(a, child, "b")
            blocks = shuffled_blocks(5, 4 << 20, BLOCK_BYTES, 1024)
            theirs = replace(a.region, address=address)
            ranges = ranges_between(theirs, a.region, blocks, blocks, [BLOCK_BYTES] * 1024)
            if a.transport.capabilities.read:
                handle = a.transport.read(peer, ranges)
            else:
                handle = a.transport.receive(peer, ranges, 1)
                child.ask(do="send", seed=5, tag=1)
            assert a.outcome(handle).outcome == "done"
            expected = np.random.default_rng(9).integers(0, 256, 4 << 20, dtype=np.uint8)
            assert np.array_equal(a.pool, expected)
            # ours never wake; gloo's own loop looks round 100 times a second, which costs half a percent of a core
            assert int(str(child.ask(do="wakeups", seconds=1.0))) <= (150 if kind == "message" else 2)
    finally:
        child.end()


def test_a_killed_peer_fails_what_is_outstanding_and_is_told_once(kind: str) -> None:
    size_bytes = 32 << 20
    child = start_child(kind, "b", "a", size_bytes, seed=9)
    try:
        with ends(make_end(kind, "a", size_bytes)) as (a,):
            peer, address = join_child(a, child, "b")
            whole = ranges_between(replace(a.region, address=address), a.region, [0], [0], [size_bytes])
            if a.transport.capabilities.read:
                handles = [a.transport.read(peer, whole) for _ in range(30)]
            else:
                handles = [a.transport.receive(peer, whole, tag) for tag in range(30)]
                child.ask(do="send", seed=5, tag=0)
            os.kill(child.process.pid, signal.SIGKILL)
            a.await_lost("b")
            assert sorted(a.completions()) == handles
            assert a.completions()[handles[-1]].outcome == "failed"
            assert isinstance(a.events[-1], PeerLost)
            late = (
                a.transport.read(peer, whole) if a.transport.capabilities.read else a.transport.receive(peer, whole, 99)
            )
            assert a.outcome(late).outcome == "failed"
            a.transport.notify(peer, b"anybody there?")
            assert sum(isinstance(event, PeerLost) for event in a.events) == 1
    finally:
        child.end()
