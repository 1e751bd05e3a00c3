"""Blocks that changed hands are recognised by whoever has read them, whatever kind of transfer it was."""

import numpy as np
import pytest
from hash_model import LAYERS
from loopback import Hub, Loopback

from backends.control.messages import PeerConnected, Report, TransferFailed
from backends.transport.port import Transport
from backends.worker.descriptions import decode_descriptions
from backends.worker.stamps import Stamps, problem_of_stamps, stamp_ranges
from backends.worker.tables import BlockTables, TableError
from backends.worker.transfers import Said, Transfers
from kvsim.core.cluster import KvSpec
from kvsim.core.kv_tensor import contiguous_kv_tensor
from kvsim.core.messages import (
    BlockRuns,
    RequestId,
    StartTransfer,
    TransferDone,
    TransferId,
    TransferKind,
    TransferReleased,
    WorkerId,
)

P, D = WorkerId(0), WorkerId(1)
T = TransferId(4)
BLOCKS = 8
KV = KvSpec(LAYERS, kv_heads=1, head_dim=1, dtype_bytes=8, block_tokens=4)
SOURCE_BLOCKS: BlockRuns = ((1, 1), (3, 1))
TARGET_BLOCKS: BlockRuns = ((6, 2),)


class Side:
    """One worker's transfers, tables and stamps, and what it says."""

    def __init__(self, hub: Hub, worker: WorkerId, name: str) -> None:
        cache = np.zeros((LAYERS, 2, BLOCKS, 4, 1, 1), dtype=np.int64)
        transport: Transport = Loopback(hub, name)
        region = transport.register(cache.data.cast("B"), contiguous_kv_tensor(KV, 1, BLOCKS))
        self.said: list[Said] = []
        self.stamps = Stamps(transport, BLOCKS)
        self.tables = BlockTables(BLOCKS, 4, self.stamps.mark)
        self.transfers = Transfers(worker, transport, region.tensor, self.stamps, self.said.append)

    def events(self) -> list[object]:
        """What was reported since the last call."""
        self.transfers.poll()
        said: list[object] = [each.event if isinstance(each, Report) else each for each in self.said]
        self.said.clear()
        return said


class Pair:
    """A prefill and a decode worker that reach each other; a request has blocks of generation 7 on the first."""

    def __init__(self, kind: TransferKind) -> None:
        self.hub = Hub()
        self.source, self.target = Side(self.hub, P, "p"), Side(self.hub, D, "d")
        for side, other, worker, name in ((self.source, self.target, D, "p"), (self.target, self.source, P, "d")):
            side.transfers.connect(worker, decode_descriptions(other.transfers.describe([name]))[name])
            assert side.events() == [PeerConnected(worker)]
        self.source.tables.assign(RequestId(0), SOURCE_BLOCKS, 7)
        command = StartTransfer(
            T, RequestId(0), kind, P, D, SOURCE_BLOCKS, TARGET_BLOCKS, 0, LAYERS, 4 * 2 * 2 * 4 * 8, 16, True, 7
        )
        for side in {"pull": [self.target], "push": [self.source], "message": [self.target, self.source]}[kind]:
            side.transfers.start(command)

    def move(self) -> None:
        """Carry out what is to be moved now, and let both sides see it."""
        for job in self.hub.ready():
            self.hub.move(job)
        for side in (self.source, self.target):
            side.transfers.poll()


@pytest.mark.parametrize("kind", ["pull", "push", "message"])
def test_blocks_that_are_still_the_requests_are_proven_to_be(kind: TransferKind) -> None:
    pair = Pair(kind)
    pair.move()
    pair.move()
    assert pair.target.events() == [TransferDone(T, 7)]
    assert pair.source.events() == [TransferReleased(T)]


@pytest.mark.parametrize("kind", ["pull", "message"])
@pytest.mark.parametrize(("generation", "found"), [(8, 0), (0, 0)])
def test_a_block_that_was_given_away_before_it_was_read_is_found_out(
    kind: TransferKind, generation: int, found: int
) -> None:
    pair = Pair(kind)
    pair.source.stamps.mark(((3, 1),), generation)
    pair.move()
    pair.move()
    assert pair.target.events() == [TransferDone(T, found)]
    assert pair.source.events() == [TransferReleased(T)], "nobody reads them any more, whatever was read"


def test_a_block_that_was_given_away_while_it_was_read_is_found_out() -> None:
    """The bytes of a pull are there; before its stamps are read the blocks are another request's."""
    pair = Pair("pull")
    pair.move()
    pair.source.tables.release(RequestId(0))
    pair.source.tables.assign(RequestId(1), SOURCE_BLOCKS, 9)
    pair.move()
    assert pair.target.events() == [TransferDone(T, 9)]


def test_a_push_of_blocks_that_were_given_away_has_failed() -> None:
    pair = Pair("push")
    pair.source.tables.release(RequestId(0))
    pair.move()
    assert pair.source.events() == [TransferFailed(T, "its blocks are of generation 0 by now")]
    assert pair.target.events() == []


def test_a_pull_whose_source_goes_before_its_stamps_are_read_has_failed() -> None:
    pair = Pair("pull")
    for job in pair.hub.ready():
        pair.hub.move(job)
    pair.target.transfers.poll()
    pair.target.transfers.disconnect(P)
    (failed,) = pair.target.events()
    assert isinstance(failed, TransferFailed)


def test_stamps_are_of_the_pool_and_of_one_value() -> None:
    stamps = Stamps(Loopback(Hub(), "w"), BLOCKS)
    assert stamps.own(SOURCE_BLOCKS) == 0
    stamps.mark(SOURCE_BLOCKS, 5)
    assert stamps.own(SOURCE_BLOCKS) == 5
    assert stamps.own(((1, 2),)) == 0, "block 2 has none"
    with pytest.raises(TableError):
        stamps.mark(((7, 2),), 5)
    assert problem_of_stamps(stamps.tensor) == ""
    assert "stamps of shape" in problem_of_stamps(contiguous_kv_tensor(KV, 1, BLOCKS))


def test_the_ranges_of_stamps_are_joined_where_both_sides_go_on() -> None:
    """Blocks 1, 2 to 6, 7 is one range of 16 bytes; the target's second row begins 64 bytes behind its first."""
    source, target = Stamps(Loopback(Hub(), "a"), BLOCKS).tensor, Stamps(Loopback(Hub(), "b"), BLOCKS).tensor
    ranges = stamp_ranges(source, target, ((1, 2),), ((6, 2),))
    assert ranges.source_address.tolist() == [source.base_address + 8]
    assert ranges.target_address.tolist() == [target.base_address + 64 + 48]
    assert ranges.size_bytes.tolist() == [16]
    with pytest.raises(AssertionError, match="a target block is not in"):
        stamp_ranges(source, target, ((1, 2),), ((7, 2),))
