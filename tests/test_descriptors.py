"""Transfer descriptors against a byte-by-byte oracle, and their count against the descriptors themselves."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.core.block_runs import block_ids, count_joint_runs, joint_run_arrays
from kvsim.core.cluster import LAYER_MAJOR, Dimension, KvSpec
from kvsim.core.descriptors import (
    KvTensor,
    Ranges,
    RankPair,
    Span,
    TransferPlanner,
    contiguous_kv_tensor,
    heads_on_rank,
    joint_runs,
    plan_transfer,
    rank_pairs,
    transfer_ranges,
)
from kvsim.core.messages import BlockRuns

BLOCK_MAJOR: tuple[Dimension, ...] = ("block", "layer", "kv", "token", "head", "dim")
HEAD_MAJOR: tuple[Dimension, ...] = ("layer", "kv", "block", "head", "token", "dim")
LLAMA_3_70B = KvSpec(layers=80, kv_heads=8, head_dim=128, dtype_bytes=2, block_tokens=16)
PROMPT_BLOCKS = 32_768 // 16

layouts = st.permutations(LAYER_MAJOR).map(tuple)


def runs_of(ids: list[int]) -> BlockRuns:
    """A block table as the fewest runs."""
    runs: list[tuple[int, int]] = []
    for block in ids:
        if runs and sum(runs[-1]) == block:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return tuple(runs)


@st.composite
def tables(draw: st.DrawFn, pool_blocks: int, blocks: int) -> BlockRuns:
    """Distinct blocks of a pool: often a run, sometimes in any order."""
    if draw(st.booleans()):
        return runs_of(draw(st.permutations(range(pool_blocks)))[:blocks])
    first = draw(st.integers(0, pool_blocks - blocks))
    return ((first, blocks),)


@st.composite
def table_pairs(draw: st.DrawFn, blocks_max: int = 5) -> tuple[int, BlockRuns, int, BlockRuns]:
    """Pool and table of the source, pool and table of the target."""
    blocks = draw(st.integers(1, blocks_max))
    source_pool = draw(st.integers(blocks, blocks_max + 1))
    target_pool = draw(st.integers(blocks, blocks_max + 1))
    return source_pool, draw(tables(source_pool, blocks)), target_pool, draw(tables(target_pool, blocks))


def oracle(
    source: KvTensor,
    target: KvTensor,
    source_blocks: BlockRuns,
    target_blocks: BlockRuns,
    layers: Span,
    source_heads: Span,
    target_heads: Span,
) -> dict[int, tuple[int, tuple[int, ...]]]:
    """Source byte -> (target byte, row), element by element."""
    moved = {}
    pairs = list(zip(block_ids(source_blocks).tolist(), block_ids(target_blocks).tolist(), strict=True))
    row_dimensions = source.dimensions[: source.dimensions.index("block")]
    for layer, part, (source_block, target_block), token, head, element in product(
        range(layers[0], sum(layers)),
        range(2),
        pairs,
        range(source.extent("token")),
        range(source_heads[1]),
        range(source.extent("dim")),
    ):
        at_source: dict[Dimension, int] = {
            "layer": layer,
            "kv": part,
            "block": source_block,
            "token": token,
            "head": source_heads[0] + head,
            "dim": element,
        }
        at_target = {**at_source, "block": target_block, "head": target_heads[0] + head}
        source_byte = source.base_address + sum(at_source[name] * source.stride(name) for name in source.dimensions)
        target_byte = target.base_address + sum(at_target[name] * target.stride(name) for name in target.dimensions)
        row = tuple(at_source[name] for name in row_dimensions)
        for byte in range(source.dtype_bytes):
            moved[source_byte + byte] = (target_byte + byte, row)
    return moved


def bytes_of(ranges: Ranges) -> dict[int, int]:
    """Source byte -> target byte, as the ranges would copy; no source byte may be copied twice."""
    copied: dict[int, int] = {}
    columns = (ranges.source_address.tolist(), ranges.target_address.tolist(), ranges.size_bytes.tolist())
    for source, target, size_bytes in zip(*columns, strict=True):
        for byte in range(size_bytes):
            assert source + byte not in copied
            copied[source + byte] = target + byte
    return copied


@st.composite
def tensors(draw: st.DrawFn, extents: dict[Dimension, int], dtype_bytes: int) -> KvTensor:
    """Any order of dimensions, with gaps between some of them, anywhere in the address space."""
    dimensions = draw(layouts)
    shape = tuple(extents[name] for name in dimensions)
    strides_bytes: list[int] = []
    inside_bytes = dtype_bytes
    for extent in reversed(shape):
        strides_bytes.insert(0, inside_bytes + draw(st.sampled_from([0, 0, 0, dtype_bytes, 64])))
        inside_bytes = strides_bytes[0] * extent
    base_address = draw(st.sampled_from([0, 4096, 2**63 + 12_345]))
    return KvTensor(base_address, 1, dtype_bytes, dimensions, shape, tuple(strides_bytes))


@settings(max_examples=100)
@given(st.data())
def test_ranges_copy_every_byte_to_its_place_with_the_fewest_operations(data: st.DataObject) -> None:
    draw = data.draw
    source_pool, source_blocks, target_pool, target_blocks = draw(table_pairs(4))
    heads = draw(st.integers(1, 2))
    dtype_bytes = draw(st.sampled_from([1, 2]))
    shared: dict[Dimension, int] = {
        "layer": draw(st.integers(1, 3)),
        "kv": 2,
        "token": draw(st.integers(1, 2)),
        "dim": draw(st.integers(1, 3)),
    }
    held = draw(st.integers(heads, 3)), draw(st.integers(heads, 3))
    source = draw(tensors({**shared, "block": source_pool, "head": held[0]}, dtype_bytes))
    target = draw(tensors({**shared, "block": target_pool, "head": held[1]}, dtype_bytes))
    if draw(st.booleans()):  # the same layout on both sides is the usual case
        kv = KvSpec(shared["layer"], 4, shared["dim"], dtype_bytes, shared["token"], source.dimensions)
        source = contiguous_kv_tensor(kv, held[0], source_pool, 1000)
        target = contiguous_kv_tensor(kv, held[1], target_pool, 5000)
    first_layer = draw(st.integers(0, shared["layer"] - 1))
    layers = (first_layer, draw(st.integers(1, shared["layer"] - first_layer)))
    source_heads = (draw(st.integers(0, held[0] - heads)), heads)
    target_heads = (draw(st.integers(0, held[1] - heads)), heads)

    what = (source, target, source_blocks, target_blocks, layers, source_heads, target_heads)
    ranges = transfer_ranges(*what)
    expected = oracle(*what)

    copied = bytes_of(ranges)
    assert copied == {byte: to for byte, (to, _) in expected.items()}
    assert len(set(copied.values())) == len(copied), "two ranges overlap in the target"
    assert np.all(np.diff(ranges.source_address.astype(object)) > 0), "not ascending by source address"
    # a range begins exactly where the byte before it is not of the same row, or not adjacent in the target
    begins = [byte for byte, (to, row) in expected.items() if expected.get(byte - 1) != (to - 1, row)]
    assert ranges.source_address.tolist() == sorted(begins)


def test_transposed_sides_touch_only_from_the_end_of_a_block_to_the_start_of_the_next() -> None:
    # tokens and heads swapped, 2 of each: element order 0 1 2 3 meets 0 2 1 3, so 3 of one block meets 0 of the next
    kv = KvSpec(layers=1, kv_heads=2, head_dim=4, dtype_bytes=2, block_tokens=2)
    source = contiguous_kv_tensor(kv, 2, 3)
    target = contiguous_kv_tensor(KvSpec(1, 2, 4, 2, 2, HEAD_MAJOR), 2, 3)
    ranges = transfer_ranges(source, target, ((0, 3),), ((0, 3),), (0, 1), (0, 2), (0, 2))
    assert ranges.size_bytes.tolist() == [8, 8, 8, 16, 8, 8, 16, 8, 8, 8] * 2  # K, then V
    assert ranges.target_address.tolist()[:5] == [0, 16, 8, 24, 48]


# --- counting ----------------------------------------------------------------------------------------------------

DEGREES = [(1, 1), (1, 2), (2, 1), (2, 4), (4, 2), (4, 8), (8, 4), (8, 8), (3, 4), (12, 1)]


def materialised(
    kv: KvSpec, degrees: tuple[int, int], pools: tuple[int, int], blocks: tuple[BlockRuns, BlockRuns], layers: Span
) -> list[Ranges]:
    """The ranges of every pair of ranks."""
    source = contiguous_kv_tensor(kv, heads_on_rank(kv.kv_heads, degrees[0]), pools[0])
    target = contiguous_kv_tensor(kv, heads_on_rank(kv.kv_heads, degrees[1]), pools[1])
    pairs = rank_pairs(*degrees, kv.kv_heads)
    return [transfer_ranges(source, target, *blocks, layers, pair.source_heads, pair.target_heads) for pair in pairs]


@settings(max_examples=200)
@given(
    layouts,
    st.sampled_from(DEGREES),
    table_pairs(6),
    st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)),
    st.data(),
)
def test_a_plan_counts_exactly_the_ranges_that_are_made(
    layout: tuple[Dimension, ...],
    degrees: tuple[int, int],
    allocation: tuple[int, BlockRuns, int, BlockRuns],
    shape: tuple[int, int, int],
    data: st.DataObject,
) -> None:
    layers_total, head_dim, block_tokens = shape
    kv_heads = 12 if 3 in degrees or 12 in degrees else data.draw(st.sampled_from([1, 2, 4, 8]))
    kv = KvSpec(layers_total, kv_heads, head_dim, 2, block_tokens, layout)
    source_pool, source_blocks, target_pool, target_blocks = allocation
    first_layer = data.draw(st.integers(0, layers_total - 1))
    layers = (first_layer, data.draw(st.integers(1, layers_total - first_layer)))

    made = materialised(kv, degrees, (source_pool, target_pool), (source_blocks, target_blocks), layers)
    plan = plan_transfer(kv, *degrees, source_blocks, target_blocks)
    assert plan.operations(*layers) == sum(len(ranges) for ranges in made)
    assert plan.size_bytes(layers[1]) == sum(int(ranges.size_bytes.sum()) for ranges in made)
    assert plan.messages == len(made)


def scattered(blocks: int) -> BlockRuns:
    """Every other block: no two are neighbours."""
    return tuple((2 * index, 1) for index in range(blocks))


def test_llama_3_70b_without_coalescing_is_327_680_operations_of_4096_bytes_per_gpu() -> None:
    blocks = scattered(PROMPT_BLOCKS)
    plan = plan_transfer(LLAMA_3_70B, 8, 8, blocks, blocks)
    assert plan.operations(0, 80) == 8 * 327_680  # 80 layers x K and V x 2,048 blocks, on 8 GPUs
    assert plan.size_bytes(80) == 10 * 2**30
    tensor = contiguous_kv_tensor(LLAMA_3_70B, 1, 2 * PROMPT_BLOCKS)
    ranges = transfer_ranges(tensor, tensor, blocks, blocks, (0, 80), (0, 1), (0, 1))
    assert len(ranges) == 327_680
    assert set(ranges.size_bytes.tolist()) == {4096}


@pytest.mark.parametrize(
    ("layout", "layers", "per_gpu"),
    [
        (LAYER_MAJOR, 80, 160),  # one per layer and K/V
        (LAYER_MAJOR, 8, 16),
        (HEAD_MAJOR, 80, 160),
        (BLOCK_MAJOR, 80, 1),  # all layers of a run of blocks lie together
        (BLOCK_MAJOR, 8, 2048),  # some layers: a piece of every block
    ],
)
def test_contiguous_blocks_between_equal_degrees(layout: tuple[Dimension, ...], layers: int, per_gpu: int) -> None:
    kv = KvSpec(80, 8, 128, 2, 16, layout)
    plan = plan_transfer(kv, 8, 8, ((100, PROMPT_BLOCKS),), ((7, PROMPT_BLOCKS),))
    assert plan.operations(0, layers) == 8 * per_gpu


def test_a_head_slice_is_contiguous_per_token_or_per_block_as_the_layout_has_it() -> None:
    # two heads a rank become one head a rank: 80 layers x 2 x 2,048 blocks (x 16 tokens) on each of 8 target ranks
    blocks = ((0, PROMPT_BLOCKS),)
    assert plan_transfer(LLAMA_3_70B, 4, 8, blocks, blocks).operations(0, 80) == 8 * 327_680 * 16
    head_major = KvSpec(80, 8, 128, 2, 16, HEAD_MAJOR)
    assert plan_transfer(head_major, 4, 8, blocks, blocks).operations(0, 80) == 8 * 327_680


def test_replicated_heads_are_sent_to_every_rank_that_holds_them() -> None:
    kv = KvSpec(layers=2, kv_heads=2, head_dim=4, dtype_bytes=2, block_tokens=8)
    plan = plan_transfer(kv, 2, 8, ((0, 3),), ((0, 3),))
    # 8 target ranks x one head x 2 layers x K/V x 3 blocks x 8 tokens x 4 elements x 2 bytes
    assert plan.size_bytes(2) == 8 * 2 * 2 * 3 * 8 * 4 * 2
    assert plan.operations(0, 2) == 8 * 2 * 2


def test_layer_groups_add_up_to_the_whole_in_bytes() -> None:
    plan = TransferPlanner(LLAMA_3_70B, 8, 4).plan(((0, 10),), ((5, 4), (20, 6)))
    assert sum(plan.size_bytes(8) for _ in range(10)) == plan.size_bytes(80)
    assert sum(plan.operations(8 * group, 8) for group in range(10)) == plan.operations(0, 80)
    assert plan.operations(0, 0) == 0
    with pytest.raises(AssertionError, match="layers 76"):
        plan.operations(76, 8)


# --- block tables ------------------------------------------------------------------------------------------------


def test_joint_runs_break_where_either_side_breaks() -> None:
    assert joint_runs(((4, 3), (9, 3)), ((20, 2), (30, 4))) == ((4, 20, 2), (6, 30, 1), (9, 31, 3))


def test_joint_runs_find_neighbours_that_the_tables_name_apart() -> None:
    # table order 6, 7 | 4, 5 on one side and 16, 17 | 14, 15 on the other is one run of four
    assert joint_runs(((6, 2), (4, 2)), ((16, 2), (14, 2))) == ((4, 14, 4),)


@given(table_pairs(12))
def test_joint_runs_are_the_same_by_loop_and_by_array(allocation: tuple[int, BlockRuns, int, BlockRuns]) -> None:
    _, source_blocks, _, target_blocks = allocation
    joined = joint_runs(source_blocks, target_blocks)
    assert joined == tuple(
        zip(*[column.tolist() for column in joint_run_arrays(source_blocks, target_blocks)], strict=True)
    )
    assert count_joint_runs(source_blocks, target_blocks) == len(joined)
    # maximal, and the same pairs of blocks as before
    assert not any(a + n == b and x + n == y for (a, x, n), (b, y, _) in pairwise(joined))
    pairs = {(source + index, target + index) for source, target, blocks in joined for index in range(blocks)}
    assert pairs == set(zip(block_ids(source_blocks).tolist(), block_ids(target_blocks).tolist(), strict=True))


def test_tables_of_hundreds_of_runs_are_counted_alike() -> None:
    shuffled = np.random.default_rng(5).permutation(700)[:400].tolist()
    source_blocks, target_blocks = runs_of(shuffled), ((3, 150), (200, 250))
    assert len(source_blocks) > 300
    expected = len(joint_runs(source_blocks, target_blocks))
    assert count_joint_runs(source_blocks, target_blocks) == expected


def test_an_empty_table_makes_no_ranges() -> None:
    tensor = contiguous_kv_tensor(LLAMA_3_70B, 1, 4)
    assert len(transfer_ranges(tensor, tensor, (), (), (0, 80), (0, 1), (0, 1))) == 0
    assert plan_transfer(LLAMA_3_70B, 8, 8, (), ()).operations(0, 80) == 0


# --- ranks -------------------------------------------------------------------------------------------------------


def test_equal_degrees_pair_equal_ranks() -> None:
    assert rank_pairs(2, 2, 4) == (RankPair(0, 0, (0, 2), (0, 2)), RankPair(1, 1, (0, 2), (0, 2)))
    assert [(pair.source_rank, pair.target_rank) for pair in rank_pairs(8, 8, 2)] == [(rank, rank) for rank in range(8)]


def test_a_wider_target_takes_slices_and_a_narrower_one_gathers() -> None:
    assert rank_pairs(1, 2, 4) == (RankPair(0, 0, (0, 2), (0, 2)), RankPair(0, 1, (2, 2), (0, 2)))
    assert rank_pairs(2, 1, 4) == (RankPair(0, 0, (0, 2), (0, 2)), RankPair(1, 0, (0, 2), (2, 2)))


def test_degrees_that_do_not_divide_each_other_share_heads_piecewise() -> None:
    # 12 heads: ranks of 4 heads meet ranks of 3 heads
    pairs = rank_pairs(3, 4, 12)
    assert [(pair.source_rank, pair.target_rank) for pair in pairs] == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3)]
    assert [pair.source_heads for pair in pairs] == [(0, 3), (3, 1), (0, 2), (2, 2), (0, 1), (1, 3)]
    assert [pair.target_heads for pair in pairs] == [(0, 3), (0, 1), (1, 2), (0, 2), (2, 1), (0, 3)]


def test_readers_spread_over_the_replicas_of_a_head() -> None:
    # 2 heads: 4 source ranks hold each head twice, 8 target ranks four times
    assert [pair.source_rank for pair in rank_pairs(4, 8, 2)] == [0, 1, 0, 1, 2, 3, 2, 3]
    assert [pair.source_rank for pair in rank_pairs(8, 4, 2)] == [0, 1, 4, 5]


@given(st.sampled_from([1, 2, 3, 4, 6, 12, 24]), st.sampled_from([1, 2, 3, 4, 6, 12, 24]), st.sampled_from([1, 12]))
def test_every_target_rank_gets_each_of_its_heads_once_from_a_rank_that_holds_it(
    source_tp: int, target_tp: int, kv_heads: int
) -> None:
    def heads_of(rank: int, tensor_parallel: int) -> list[int]:
        first = rank * kv_heads // tensor_parallel
        return list(range(first, first + heads_on_rank(kv_heads, tensor_parallel)))

    received: dict[int, list[int]] = {rank: [] for rank in range(target_tp)}
    for pair in rank_pairs(source_tp, target_tp, kv_heads):
        sent = heads_of(pair.source_rank, source_tp)[pair.source_heads[0] : sum(pair.source_heads)]
        placed = heads_of(pair.target_rank, target_tp)[pair.target_heads[0] : sum(pair.target_heads)]
        assert sent == placed
        received[pair.target_rank] += sent
    assert received == {rank: heads_of(rank, target_tp) for rank in range(target_tp)}


# --- broken invariants -------------------------------------------------------------------------------------------


def test_what_cannot_be_meant_is_refused() -> None:
    tensor = contiguous_kv_tensor(LLAMA_3_70B, 1, 4)
    whole: tuple[Span, Span, Span] = ((0, 80), (0, 1), (0, 1))
    with pytest.raises(AssertionError, match=r"a target block is not in 0 \.\. 3"):
        transfer_ranges(tensor, tensor, ((0, 2),), ((3, 2),), *whole)
    with pytest.raises(AssertionError, match="a source block is named twice"):
        transfer_ranges(tensor, tensor, ((1, 2), (2, 1)), ((0, 3),), *whole)
    with pytest.raises(AssertionError, match="2 source blocks, 1 target blocks"):
        transfer_ranges(tensor, tensor, ((0, 2),), ((3, 1),), *whole)
    with pytest.raises(AssertionError, match=r"layer: 79 \+ 2 at source"):
        transfer_ranges(tensor, tensor, ((0, 2),), ((0, 2),), (79, 2), (0, 1), (0, 1))
    with pytest.raises(AssertionError, match=r"head: 1 \+ 1 at target"):
        transfer_ranges(tensor, tensor, ((0, 2),), ((0, 2),), (0, 80), (0, 1), (1, 1))
    with pytest.raises(AssertionError, match="8 KV heads do not spread evenly over 3 ranks"):
        rank_pairs(3, 3, 8)
    with pytest.raises(AssertionError, match="do not nest"):
        KvTensor(0, 0, 2, LAYER_MAJOR, (1, 2, 3, 4, 5, 6), (1, 1, 1, 1, 1, 2))
