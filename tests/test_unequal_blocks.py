"""Workers whose KV blocks differ in length: descriptors that re-slice, what they cost, and that nothing is lost."""

from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_descriptors import DEGREES, bytes_of, layouts, tables
from test_rules import problems, scenario
from worlds import ALL_MODES, DISAGGREGATED, cluster, run, workload

from kvsim.core.block_runs import block_ids, in_parts
from kvsim.core.cluster import LAYER_MAJOR, ClusterSpec, Dimension, KvSpec, TransferMode
from kvsim.core.descriptors import (
    TransferPlanner,
    contiguous_kv_tensor,
    heads_on_rank,
    pair_up,
    rank_pairs,
    transfer_ranges,
)
from kvsim.core.kv_tensor import KvTensor
from kvsim.core.messages import BlockRuns, StartTransfer
from kvsim.fuzz.choices import Choices
from kvsim.fuzz.worlds import random_world
from kvsim.replay import replay
from kvsim.scenario import scenario_from_mapping

BLOCK_MAJOR: tuple[Dimension, ...] = ("block", "layer", "kv", "token", "head", "dim")
LLAMA_3_70B = KvSpec(layers=80, kv_heads=8, head_dim=128, dtype_bytes=2, block_tokens=16)


# --- parts of blocks ---


def test_blocks_are_counted_in_parts_as_far_as_both_tables_reach() -> None:
    assert in_parts(((4, 2), (9, 1)), 2, 5) == ((8, 4), (18, 1))
    with pytest.raises(AssertionError, match="1 of 7 parts are missing"):
        in_parts(((4, 2), (9, 1)), 2, 7)
    # 3 blocks of 32 tokens hold what 5 blocks of 16 do: the last half of the third is nobody's
    assert pair_up(((4, 2), (9, 1)), ((0, 5),), 32, 16) == (((8, 4), (18, 1)), ((0, 5),))
    assert pair_up(((4, 3),), ((0, 3),), 16, 16) == (((4, 3),), ((0, 3),))
    with pytest.raises(AssertionError, match="blocks of 32 and of 24 tokens"):
        pair_up(((0, 1),), ((0, 1),), 32, 24)


# --- the ranges ---


@st.composite
def unequal_tables(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int], tuple[BlockRuns, BlockRuns]]:
    """Tokens of a block, blocks of the pool, and table of either side, for one context."""
    short = draw(st.integers(1, 2))
    sizes = draw(st.permutations([short, short * draw(st.integers(2, 3))]))
    context_tokens = draw(st.integers(1, 12))
    pools, found = [], []
    for block_tokens in sizes:
        blocks = -(-context_tokens // block_tokens)
        pools.append(blocks + draw(st.integers(0, 3)))
        found.append(draw(tables(pools[-1], blocks)))
    return (sizes[0], sizes[1]), (pools[0], pools[1]), (found[0], found[1])


def oracle(
    ends: tuple[KvTensor, KvTensor], blocks: tuple[BlockRuns, BlockRuns], layers: range, heads: tuple[range, range]
) -> dict[int, int]:
    """Source byte -> target byte, slot by slot as far as both tables reach."""
    sizes = [end.extent("token") for end in ends]
    ids = [block_ids(table).tolist() for table in blocks]
    slots = min(len(table) * size for table, size in zip(ids, sizes, strict=True))
    moved = {}
    for layer, part, slot, pair, element in product(
        layers, range(2), range(slots), zip(*heads, strict=True), range(ends[0].extent("dim"))
    ):
        bytes_at = []
        for end, size, table, head in zip(ends, sizes, ids, pair, strict=True):
            index: dict[Dimension, int] = {
                "layer": layer,
                "kv": part,
                "block": table[slot // size],
                "token": slot % size,
                "head": head,
                "dim": element,
            }
            bytes_at.append(end.base_address + sum(index[name] * end.stride(name) for name in end.dimensions))
        for byte in range(ends[0].dtype_bytes):
            moved[bytes_at[0] + byte] = bytes_at[1] + byte
    return moved


@settings(max_examples=60)
@given(
    layouts,
    layouts,
    st.booleans(),
    st.sampled_from(DEGREES),
    unequal_tables(),
    st.tuples(st.integers(1, 3), st.integers(1, 2)),
    st.data(),
)
def test_every_slot_gets_to_its_place_and_a_plan_counts_exactly_the_ranges(
    layout: tuple[Dimension, ...],
    other: tuple[Dimension, ...],
    alike: bool,
    degrees: tuple[int, int],
    held: tuple[tuple[int, int], tuple[int, int], tuple[BlockRuns, BlockRuns]],
    shape: tuple[int, int],
    data: st.DataObject,
) -> None:
    sizes, pools, blocks = held
    layers_total, head_dim = shape
    kv_heads = 12 if 3 in degrees or 12 in degrees else data.draw(st.sampled_from([1, 2, 4, 8]))
    first_layer = data.draw(st.integers(0, layers_total - 1))
    layers = (first_layer, data.draw(st.integers(1, layers_total - first_layer)))
    kv = KvSpec(layers_total, kv_heads, head_dim, 2, sizes[0], layout)
    ends = [
        contiguous_kv_tensor(
            msgspec.structs.replace(kv, block_tokens=size, layout=dimensions),
            heads_on_rank(kv_heads, degree),
            pool,
            base_address,
        )
        for size, dimensions, degree, pool, base_address in zip(
            sizes, (layout, layout if alike else other), degrees, pools, (0, 1 << 40), strict=True
        )
    ]
    count = size_bytes = 0
    for pair in rank_pairs(*degrees, kv_heads):
        ranges = transfer_ranges(ends[0], ends[1], *blocks, layers, pair.source_heads, pair.target_heads)
        heads = (
            range(pair.source_heads[0], sum(pair.source_heads)),
            range(pair.target_heads[0], sum(pair.target_heads)),
        )
        assert bytes_of(ranges) == oracle((ends[0], ends[1]), blocks, range(layers[0], sum(layers)), heads)
        addresses = ranges.source_address.tolist()
        assert addresses == sorted(addresses)
        count, size_bytes = count + len(ranges), size_bytes + int(ranges.size_bytes.sum())
    plan = TransferPlanner(kv, *degrees, *sizes).plan(*blocks)
    assert plan.size_bytes(layers[1]) == size_bytes
    if alike:
        assert plan.operations(*layers) == count


@pytest.mark.parametrize(
    ("layout", "operations"),
    [
        (LAYER_MAJOR, 80 * 2),  # the parts of a block touch: runs of blocks coalesce as ever
        (BLOCK_MAJOR, 80 * 2 * 2048),  # within a block layers and K/V lie between its parts: each part by itself
    ],
)
def test_what_re_slicing_blocks_costs_depends_on_the_layout(layout: tuple[Dimension, ...], operations: int) -> None:
    """32,768 tokens in blocks of 32 to blocks of 16, all in one run on either side."""
    kv = msgspec.structs.replace(LLAMA_3_70B, layout=layout)
    plan = TransferPlanner(kv, 8, 8, 32, 16).plan(((5, 1024),), ((100, 2048),))
    assert plan.operations(0, 80) == 8 * operations
    assert plan.size_bytes(80) == 10 * 2**30


# --- clusters ---


def unequal(mode: TransferMode, prefill_tokens: int, decode_tokens: int) -> ClusterSpec:
    """A prefill and a decode worker with 3,200 slots each."""
    spec = cluster(mode, block_tokens=8)
    sizes = {"prefill": prefill_tokens, "decode": decode_tokens, "colocated": decode_tokens}
    workers = [
        msgspec.structs.replace(worker, block_tokens=sizes[worker.role], kv_blocks=3200 // sizes[worker.role])
        for worker in spec.workers
    ]
    return replace_workers(spec, workers)


def replace_workers(spec: ClusterSpec, workers: list[Any]) -> ClusterSpec:
    return ClusterSpec(spec.kv, tuple(workers), spec.policy)


@pytest.mark.parametrize("mode", DISAGGREGATED)
@pytest.mark.parametrize("sizes", [(16, 64), (64, 16)])
def test_blocks_of_either_side_pair_up_by_their_slots(mode: TransferMode, sizes: tuple[int, int]) -> None:
    """A prompt of 100 tokens: 7 blocks of 16, of which 2 of 64 hold all; 7 x 16 slots of 512 B a layer move."""
    columns, records = run(unequal(mode, *sizes), workload([(0, 100, 40)]))
    assert columns.requests.finished.all()
    moved = [command for record in records for command in record.commands if isinstance(command, StartTransfer)]
    assert sum(command.layers for command in moved) == 4
    blocks = {16: 7, 64: 2}
    for command in moved:
        counts = [sum(count for _, count in table) for table in (command.source_blocks, command.target_blocks)]
        assert counts == [blocks[size] for size in sizes]
        assert command.size_bytes == command.layers * 7 * 16 * 2 * 2 * 64 * 2
    assert replay(unequal(mode, *sizes), records).identical
    reserved, filled = columns.memory.reserved.amount.sum(), columns.memory.filled.amount.sum()
    assert (reserved + columns.memory.grown.amount.sum(), filled + 4 * columns.memory.grown.amount.sum()) == (0, 0)


@pytest.mark.parametrize("mode", ALL_MODES)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_no_request_is_lost_where_blocks_differ(mode: TransferMode, seed: int) -> None:
    played = random_world(mode, Choices(seed), unequal_blocks=True)
    played.play()
    assert len(played.ends) == 20


# --- scenarios ---


def pools(prefill_tokens: int | None, decode_tokens: int | None) -> dict[str, object]:
    document: dict[str, Any] = scenario()
    for name, tokens in (("here", prefill_tokens), ("there", decode_tokens)):
        if tokens is not None:
            document["workers"][name]["block_tokens"] = tokens
    return document


def test_a_pool_may_have_blocks_of_its_own_length_in_the_same_memory() -> None:
    alike, own = (scenario_from_mapping(pools(*sizes)).variants[0].cluster for sizes in ((None, None), (None, 64)))
    assert [own.block_tokens(worker.id) for worker in own.workers] == [16, 64]
    assert own.workers[0] == alike.workers[0]
    assert own.workers[1].kv_blocks == alike.workers[1].kv_blocks // 4


def test_lengths_of_which_neither_is_a_multiple_of_the_other_are_refused() -> None:
    (found,) = problems(pools(48, 32))
    place, message = found.split(": ", 1)
    assert place == "workers.there.block_tokens"
    assert message == "found 32 beside 48 of prefill pool here, expected one to be a multiple of the other"
    changed = pools(48, 32) | {"transfer": {"mode": "colocated"}}
    assert scenario_from_mapping(changed).variants[0].cluster.workers[0].block_tokens == 48
