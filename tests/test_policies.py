"""Policy tables: placement and batching as plain functions over integers."""

import pytest

from kvsim.core.batching import admits, blocks_for, chunk_tokens, layers_to_start, whole_prompts
from kvsim.core.messages import WorkerId
from kvsim.core.placement import choose_worker, relative_load

LOADS = [(30, WorkerId(0)), (10, WorkerId(1)), (10, WorkerId(2)), (20, WorkerId(3))]


def test_least_loaded_takes_the_smallest_load_and_then_the_lowest_id() -> None:
    assert choose_worker("least_loaded", LOADS, turn=0) == 1
    assert choose_worker("least_loaded", LOADS, turn=7) == 1


def test_round_robin_goes_around_whatever_the_loads_are() -> None:
    assert [choose_worker("round_robin", LOADS, turn) for turn in range(6)] == [0, 1, 2, 3, 0, 1]


def test_unequal_workers_compare_by_their_share() -> None:
    assert relative_load(500, 1000) == relative_load(1000, 2000) == 500_000
    assert relative_load(500, 1001) < relative_load(500, 1000)


@pytest.mark.parametrize(("tokens", "blocks"), [(1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_blocks_are_rounded_up(tokens: int, blocks: int) -> None:
    assert blocks_for(tokens, 16) == blocks


@pytest.mark.parametrize(
    ("needed", "free", "watermark", "total", "admitted"),
    [
        (5, 10, 5, 100, True),
        (6, 10, 5, 100, False),  # would leave less than the watermark
        (96, 100, 5, 100, True),  # an empty pool has nobody whose growth needs it
        (100, 100, 5, 100, True),
        (101, 100, 5, 100, False),
        (1, 0, 0, 100, False),
    ],
)
def test_admission_leaves_the_watermark(needed: int, free: int, watermark: int, total: int, *, admitted: bool) -> None:
    assert admits(needed, free, watermark, total) is admitted


@pytest.mark.parametrize(
    ("prompts", "tokens_max", "requests_max", "blocks_free", "taken"),
    [
        ([100, 100, 100], 250, 8, 100, 2),  # the third exceeds the token budget
        ([400, 10], 250, 8, 100, 1),  # a long prompt goes alone
        ([100, 100, 100], 1000, 2, 100, 2),
        ([100, 100], 1000, 8, 10, 1),  # 7 blocks each
        ([400, 10], 1000, 8, 10, 0),  # first come, first served: nobody overtakes
        ([], 1000, 8, 10, 0),
    ],
)
def test_a_prefill_step_takes_whole_prompts_in_order(
    prompts: list[int], tokens_max: int, requests_max: int, blocks_free: int, taken: int
) -> None:
    assert whole_prompts(prompts, tokens_max, requests_max, blocks_free, block_tokens=16) == taken


@pytest.mark.parametrize(
    ("context", "computed", "budget", "tokens"),
    [(1000, 0, 256, 256), (1000, 900, 256, 100), (1000, 0, 0, 0), (1000, 0, -5, 0)],
)
def test_a_chunk_is_what_is_left_of_the_prompt_or_of_the_budget(
    context: int, computed: int, budget: int, tokens: int
) -> None:
    assert chunk_tokens(context, computed, budget) == tokens


@pytest.mark.parametrize(
    ("ready", "started", "reserved", "active", "layers"),
    [(16, 8, True, False, 8), (16, 8, False, False, 0), (16, 8, True, True, 0), (16, 16, True, False, 0)],
)
def test_the_next_transfer_moves_all_layers_that_are_ready_once_there_is_room_for_them(
    ready: int, started: int, layers: int, *, reserved: bool, active: bool
) -> None:
    assert layers_to_start(ready, started, reserved, active) == layers
