"""Block pools: allocation by table, growth that agrees with what was promised, and the conservation law."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.core.blocks import BlockPool, BlockTable
from kvsim.core.cluster import Allocation
from kvsim.core.free_blocks import FirstFit
from kvsim.core.messages import BlockRuns, RequestId

A, B, C, D = (RequestId(request) for request in range(4))


def ids(runs: BlockRuns) -> list[int]:
    return [block for first, blocks in runs for block in range(first, first + blocks)]


def test_first_fit_takes_the_lowest_run_that_holds_all_blocks() -> None:
    pool = BlockPool(10, "first_fit")
    assert pool.assign(A, 2) == ((0, 2),)
    assert pool.assign(B, 2) == ((2, 2),)
    assert pool.assign(C, 2) == ((4, 2),)
    pool.release(A)
    assert pool.assign(D, 3) == ((6, 3),), "the hole of two blocks is too small for three"
    assert pool.assign(A, 2) == ((0, 2),), "and is taken by the next two"


def test_first_fit_splits_a_request_only_where_no_run_is_long_enough() -> None:
    pool = BlockPool(6, "first_fit")
    for request in (A, B, C):
        pool.assign(request, 2)
    pool.release(A)
    pool.release(C)
    assert pool.assign(D, 3) == ((0, 2), (4, 1))


def test_freed_neighbours_merge_into_one_run() -> None:
    pool = BlockPool(6, "first_fit")
    for request in (A, B, C):
        pool.assign(request, 2)
    for request in (A, C, B):
        pool.release(request)
    assert pool.assign(D, 6) == ((0, 6),)


@pytest.mark.parametrize("blocks_total", [7, 64, 1000, 4096])
def test_scattered_hands_out_every_block_once_and_no_two_neighbours_in_a_row(blocks_total: int) -> None:
    taken = ids(BlockPool(blocks_total, "scattered").assign(A, blocks_total))
    assert sorted(taken) == list(range(blocks_total))
    assert all(second != first + 1 for first, second in pairwise(taken))


@pytest.mark.parametrize("allocation", ["first_fit", "scattered"])
def test_growth_takes_exactly_the_blocks_that_were_promised_in_their_order(allocation: Allocation) -> None:
    pool = BlockPool(20, allocation)
    for request, blocks in ((A, 3), (B, 5), (C, 4)):
        pool.assign(request, blocks)
    pool.release(B)
    promised = ids(pool.peek(7))
    grown = []
    for request in (A, C, A, A, C, A, C):
        before = ids(pool.table(request))
        pool.grow([pool.growing_table(request)])
        grown += ids(pool.table(request))[len(before) :]
    assert grown == promised
    pool.check()


def test_growth_next_to_the_last_block_extends_its_run() -> None:
    pool = BlockPool(4, "first_fit")
    pool.assign(A, 2)
    pool.grow([pool.growing_table(A)])
    assert pool.table(A) == ((0, 3),)


def test_more_blocks_than_are_free_is_a_broken_invariant() -> None:
    pool = BlockPool(4, "first_fit")
    pool.assign(A, 3)
    with pytest.raises(AssertionError, match="2 blocks wanted by request 1, 1 free"):
        pool.assign(B, 2)
    with pytest.raises(AssertionError, match="2 spare blocks promised, 1 free"):
        pool.peek(2)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([(1, 1)], "block 1 is owned twice or lost"),  # also A's
        ([(2, 1)], "block 2 is owned twice or lost"),  # also free
        ([(4, 1)], "5 blocks are free or owned, of 4"),  # no block of this pool
        ([(2, 0)], "a run of 0 blocks at block 2"),
    ],
)
@pytest.mark.parametrize("allocation", ["first_fit", "oldest_first"])
def test_check_notices_blocks_that_are_owned_twice_or_do_not_exist(
    allocation: Allocation, runs: list[tuple[int, int]], message: str
) -> None:
    pool = BlockPool(4, allocation)
    pool.assign(A, 2)
    pool.check()
    pool._tables[B] = BlockTable(runs, generation=0)
    with pytest.raises(AssertionError, match=message):
        pool.check()


@pytest.mark.parametrize("allocation", ["first_fit", "scattered", "oldest_first"])
def test_check_notices_lost_blocks(allocation: Allocation) -> None:
    pool = BlockPool(7, allocation)
    pool.assign(A, 3)
    del pool._tables[A]
    with pytest.raises(AssertionError, match=r"owned twice or lost|4 blocks are free or owned, of 7"):
        pool.check()
    pool.blocks_free -= 1
    with pytest.raises(AssertionError, match="4 blocks in the free list, 3 counted"):
        pool.check()


@given(
    st.sampled_from(["first_fit", "scattered"]),
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 7), st.integers(1, 12)), max_size=60),
)
def test_no_sequence_of_assign_grow_release_loses_or_doubles_a_block(
    allocation: Allocation, blocks_total: int, steps: list[tuple[int, int]]
) -> None:
    pool = BlockPool(blocks_total, allocation)
    owned: dict[RequestId, list[int]] = {}
    for number, blocks in steps:
        request = RequestId(number)
        if request in owned and blocks % 3 == 0:
            assert pool.release(request) == len(owned.pop(request))
        elif request in owned and blocks % 3 == 1 and pool.blocks_free:
            owned[request] += ids(pool.peek(1))
            pool.grow([pool.growing_table(request)])
        elif blocks <= pool.blocks_free:
            owned.setdefault(request, []).extend(ids(pool.assign(request, blocks)))
        pool.check()
        for owner, table in owned.items():
            assert ids(pool.table(owner)) == table
            assert pool.blocks_of(owner) == len(table)


@given(st.integers(2, 300), st.integers(1, 40), st.randoms(use_true_random=False))
def test_a_whole_table_is_given_back_as_its_runs_would_be(blocks_total: int, taken: int, random: Random) -> None:
    together, one_by_one = FirstFit(blocks_total), FirstFit(blocks_total)
    blocks = ids(together.take(blocks_total))
    one_by_one.take(blocks_total)
    random.shuffle(blocks)
    table, others = blocks[:taken], blocks[taken:]
    for block in others[: random.randint(0, len(others))]:
        together.give_back(block, 1)
        one_by_one.give_back(block, 1)
    together.give_back_table([(block, 1) for block in table])
    for block in table:
        one_by_one.give_back(block, 1)
    assert list(together.runs()) == list(one_by_one.runs())
