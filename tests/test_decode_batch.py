"""The decode batch: growth by hand, limits, and fused = stepwise."""

from hypothesis import given
from hypothesis import strategies as st

from kvsim.core.batching import blocks_for
from kvsim.core.blocks import BlockPool
from kvsim.core.decode_batch import DecodeBatch
from kvsim.core.messages import Request, RequestId, WorkerId
from kvsim.core.request import Phase, RequestState

BLOCK_TOKENS = 4


def decoding(number: int, context_tokens: int, generated: int = 1, generated_max: int = 1000) -> RequestState:
    request = Request(RequestId(number), context_tokens, generated_max)
    state = RequestState(request, Phase.DECODING, generated_max, context_tokens)
    state.prefill_worker = WorkerId(0)
    state.generated = generated
    return state


def batch_of(contexts: list[int], blocks_total: int = 1000) -> tuple[DecodeBatch, BlockPool]:
    pool = BlockPool(blocks_total, "first_fit")
    batch = DecodeBatch(pool, BLOCK_TOKENS)
    for number, context_tokens in enumerate(contexts):
        pool.assign(RequestId(number), blocks_for(context_tokens, BLOCK_TOKENS))
        batch.join(decoding(number, context_tokens))
    return batch, pool


def test_a_step_takes_a_block_where_it_writes_the_first_slot_of_one() -> None:
    batch, _ = batch_of([4, 5, 7])
    # positions written: step 0: 4, 5, 7 -> request 0; step 1: 5, 6, 8 -> request 2; step 3: 7, 8, 10 -> request 1
    assert [batch.growth(steps) for steps in range(6)] == [0, 1, 2, 2, 3, 4]


def test_growth_is_booked_by_step_and_then_by_place_in_the_batch() -> None:
    batch, pool = batch_of([7, 4, 8])  # 2 + 1 + 2 blocks: the next free one is 5
    batch.advance(2)  # step 0: requests 1 and 2, step 1: request 0
    assert [pool.table(RequestId(number))[-1] for number in range(3)] == [(7, 1), (5, 1), (6, 1)]


def test_steps_within_stops_before_the_block_that_is_not_there() -> None:
    batch, _ = batch_of([4, 5, 7])
    assert batch.steps_within(blocks=1, steps_max=100) == (1, 1)
    assert batch.steps_within(blocks=2, steps_max=100) == (3, 2)
    assert batch.steps_within(blocks=3, steps_max=100) == (4, 3)
    assert batch.steps_within(blocks=1000, steps_max=7) == (7, batch.growth(7))


def test_steps_within_stops_at_the_first_limit_of_a_member() -> None:
    batch, pool = batch_of([4])
    pool.assign(RequestId(9), 2)
    batch.join(decoding(9, 5, generated=3, generated_max=8))
    assert batch.steps_within(blocks=1000, steps_max=100)[0] == 5
    batch.advance(5)
    assert batch.at_limit() == [9]


def test_leaving_writes_the_progress_into_the_state() -> None:
    batch, _ = batch_of([4, 6])
    batch.advance(3)
    state = batch.leave(RequestId(1))
    assert (state.generated, state.context_tokens) == (4, 9)
    assert batch.ids() == (0,)
    assert batch.last().request.id == 0


def test_one_that_came_back_reaches_its_limit_once() -> None:
    batch, pool = batch_of([4])
    pool.assign(RequestId(1), 2)
    batch.join(decoding(1, 5, generated=1, generated_max=6))  # limit at step 5
    batch.advance(2)
    state = batch.leave(RequestId(1))
    batch.advance(1)
    state.generated += 1  # its new prefill gave one: the limit is at step 5 again
    batch.join(state)
    batch.advance(2)
    assert batch.at_limit() == [1]


contexts = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(contexts, st.integers(1, 50))
def test_one_run_of_k_steps_books_what_k_runs_of_one_step_book(tokens: list[int], steps: int) -> None:
    fused, fused_pool = batch_of(tokens)
    single, single_pool = batch_of(tokens)
    fused.advance(steps)
    for _ in range(steps):
        single.advance(1)
    for number in range(len(tokens)):
        assert fused_pool.table(RequestId(number)) == single_pool.table(RequestId(number))
    fused_pool.check()


@given(contexts, st.integers(0, 30), st.integers(0, 200))
def test_steps_within_is_the_most_that_the_blocks_allow(tokens: list[int], before: int, blocks: int) -> None:
    batch, _ = batch_of(tokens)
    batch.advance(before)
    steps, growth = batch.steps_within(blocks, 60)
    assert growth == batch.growth(steps) <= blocks
    assert steps == 60 or batch.growth(steps + 1) > blocks
