"""Free blocks in the order in which they became free, and what preempted requests find again in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.core.blocks import BlockPool
from kvsim.core.messages import RequestId
from kvsim.core.oldest_first import OldestFirst, as_runs

ONE, OTHER = RequestId(1), RequestId(2)


def pool_with(*blocks: int, total: int = 8) -> BlockPool:
    """Requests 1, 2, .. have so many blocks each."""
    pool = BlockPool(total, "oldest_first")
    for request, count in enumerate(blocks, start=1):
        pool.assign(RequestId(request), count)
    return pool


def test_blocks_are_given_in_the_order_in_which_they_became_free() -> None:
    pool = pool_with(2, 3)
    pool.release(ONE)
    assert pool.peek(5) == ((5, 3), (1, 1), (0, 1)), "never used ones first, then those of the request, last one first"
    pool.check()


def test_a_request_finds_its_full_blocks_again_and_not_the_last_one() -> None:
    pool = pool_with(4)
    pool.release_kept(ONE, 3)
    assert pool.blocks_kept(ONE) == 3
    assert pool.take_back(ONE, 3, 7) == ((0, 3),)
    assert pool.table(ONE) == ((0, 3),)
    assert pool.generation(ONE) == 7
    assert pool.blocks_free == 5
    assert pool.blocks_kept(ONE) == 0
    pool.check()


def test_what_is_kept_is_overwritten_from_its_end() -> None:
    pool = pool_with(4)
    pool.release_kept(ONE, 4)
    pool.assign(OTHER, 4)  # the blocks 4 to 7, which nobody has used
    assert pool.blocks_kept(ONE) == 4
    pool.grow([pool.growing_table(OTHER)])
    pool.assign(RequestId(3), 1)
    assert pool.table(OTHER) == ((4, 4), (3, 1))
    assert pool.blocks_kept(ONE) == 2
    assert pool.take_back(ONE, 2, 1) == ((0, 2),)
    pool.check()


def test_what_is_not_taken_back_is_forgotten() -> None:
    pool = pool_with(4)
    pool.release_kept(ONE, 4)
    pool.take_back(ONE, 1, 1)
    pool.release(ONE)
    assert pool.blocks_kept(ONE) == 0


def test_a_request_that_is_preempted_again_keeps_what_it_has_then() -> None:
    pool = pool_with(4)
    pool.release_kept(ONE, 4)
    pool.take_back(ONE, 2, 1)
    pool.assign(ONE, 1)
    pool.release_kept(ONE, 3)
    assert pool.blocks_kept(ONE) == 3
    pool.check()


def test_other_allocations_keep_nothing() -> None:
    pool = BlockPool(8, "first_fit")
    pool.assign(ONE, 2)
    pool.release(ONE)
    assert pool.blocks_kept(ONE) == 0
    with pytest.raises(AssertionError, match="oldest_first only"):
        pool.take_back(ONE, 1, 1)


def test_neighbours_become_runs() -> None:
    assert as_runs([3, 4, 5, 9, 8]) == ((3, 3), (9, 1), (8, 1))
    assert as_runs([]) == ()


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3), st.booleans()), max_size=40))
def test_whatever_happens_the_kept_blocks_are_a_beginning_and_free(moves: list[tuple[int, int, bool]]) -> None:
    """Each move: a request, how many blocks it wants, whether it comes back or leaves."""
    pool, left = BlockPool(9, "oldest_first"), dict[int, list[int]]()
    for number, blocks, comes_back in moves:
        request = RequestId(number)
        if pool.holds(request):
            left[number] = [block for first, count in pool.table(request) for block in range(first, first + count)]
            pool.release_kept(request, len(left[number]))
        elif comes_back and pool.blocks_kept(request):
            kept = pool.blocks_kept(request)
            taken = pool.take_back(request, kept, 1)
            assert [block for first, count in taken for block in range(first, first + count)] == left[number][:kept]
        elif 0 < blocks <= pool.blocks_free:
            pool.assign(request, blocks)
        pool.check()


def test_peek_names_what_growth_takes() -> None:
    free = OldestFirst(4)
    free.take(2)
    free.give_back(0, 2)
    assert free.peek(4) == ((2, 2), (1, 1), (0, 1))
    assert [free.take_one() for _ in range(4)] == [2, 3, 1, 0]
