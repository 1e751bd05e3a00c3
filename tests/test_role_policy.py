"""When a role policy moves a worker, number by number."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.core.cluster import ControllerRoles, ThresholdRoles
from kvsim.core.role_gauge import RoleGauge
from kvsim.core.role_policy import (
    NS_PER_S,
    RoleView,
    choose_move,
    controller_move,
    decode_need_permille,
    prefill_need_permille,
    threshold_move,
)

THRESHOLD = ThresholdRoles(
    prefill_queue_tokens_high=1000,
    prefill_queue_tokens_low=200,
    decode_load_permille_high=900,
    decode_load_permille_low=500,
)
CONTROLLER = ControllerRoles(
    ttft_ns=2 * NS_PER_S, tpot_ns=50_000_000, pressure_permille=800, margin_permille=100, window_ns=2 * NS_PER_S
)
CALM = RoleView(
    prefill_workers=2,
    decode_workers=2,
    prompt_tokens_queued=0,
    prompt_tokens_per_s=0,
    prefill_tokens_per_s=1000,
    prefills_blocked=False,
    context_tokens=0,
    requests_prefilled=0,
    capacity_tokens=1000,
    batch_requests=100,
    tpot_ns=0,
)


@pytest.mark.parametrize(
    ("queued", "context", "source"),
    [
        (2000, 1000, "decode"),  # 1000 a prefill worker, decode workers filled to 500: both marks are met
        (1999, 1000, None),  # 999 a worker
        (2000, 1002, None),  # 501 permille
        (400, 1800, "prefill"),  # 200 a worker, 900 permille
        (402, 1800, None),
        (400, 1799, None),  # 899 permille
        (0, 0, None),
        (9000, 9000, None),  # both are overloaded: nobody can help
    ],
)
def test_the_threshold_policy_helps_above_one_mark_and_below_the_other(
    queued: int, context: int, source: str | None
) -> None:
    move = threshold_move(THRESHOLD, replace(CALM, prompt_tokens_queued=queued, context_tokens=context))
    assert (move.source if move else None) == source


def test_a_threshold_move_says_by_which_numbers() -> None:
    move = threshold_move(THRESHOLD, replace(CALM, prompt_tokens_queued=2400, context_tokens=100))
    assert move is not None
    assert (move.source, move.target) == ("decode", "prefill")
    assert move.reason == "1200 prompt tokens queued per prefill worker, decode workers filled to 50 permille"


@pytest.mark.parametrize(
    ("queued", "per_s", "need"),
    [
        (0, 1500, 1500),  # one and a half workers of 1000 tokens/s
        (2000, 1500, 1500),  # what two workers compute within half of 2 s
        (4000, 1500, 2500),  # 2000 tokens more, to be made good within the window of 2 s
        (0, 0, 0),
    ],
)
def test_prefill_needs_workers_for_what_arrives_and_for_what_would_be_late(queued: int, per_s: int, need: int) -> None:
    view = replace(CALM, prompt_tokens_queued=queued, prompt_tokens_per_s=per_s)
    assert prefill_need_permille(CONTROLLER, view, 2) == need


def test_prompts_that_wait_behind_idle_prefill_workers_call_for_no_more_of_them() -> None:
    """Their pools are full of KV that nobody fetches: what is missing is decode workers."""
    stuck = replace(CALM, prompt_tokens_queued=9000, context_tokens=2500, prefills_blocked=True)
    assert prefill_need_permille(CONTROLLER, stuck, 2) == 0
    for policy in (THRESHOLD, CONTROLLER):
        move = choose_move(policy, stuck)
        assert move is not None
        assert move.target == "decode"
        blamed = choose_move(policy, replace(stuck, prefills_blocked=False))
        assert blamed is None or blamed.target == "prefill"


def test_full_batches_load_decode_workers_as_full_memory_does() -> None:
    assert decode_need_permille(CONTROLLER, replace(CALM, context_tokens=900, requests_prefilled=50)) == 900
    assert decode_need_permille(CONTROLLER, replace(CALM, context_tokens=900, requests_prefilled=150)) == 1500


@pytest.mark.parametrize(
    ("context", "tpot_ms", "need"),
    [
        (1500, 0, 1500),  # memory of one and a half workers
        (1500, 39, 1500),  # 780 permille of the limit: slack enough
        (1500, 40, 1600),  # 800 permille, times two workers
        (1500, 100, 4000),
        (5000, 40, 5000),
    ],
)
def test_decode_needs_workers_for_memory_and_for_speed(context: int, tpot_ms: int, need: int) -> None:
    view = replace(CALM, context_tokens=context, tpot_ns=tpot_ms * 1_000_000)
    assert decode_need_permille(CONTROLLER, view) == need


@pytest.mark.parametrize(
    ("per_s", "context", "source"),
    [
        (1600, 350, "decode"),  # 800 against 175, and 350 when one is left
        (1599, 350, None),  # 799
        (1600, 700, "decode"),  # 700 when one is left: 100 less
        (1600, 701, None),  # too little gained
        (350, 1600, "prefill"),
        (701, 1600, None),
        (4000, 4000, None),  # both at 2000
    ],
)
def test_the_controller_moves_where_it_relieves_the_higher_pressure(
    per_s: int, context: int, source: str | None
) -> None:
    move = controller_move(CONTROLLER, replace(CALM, prompt_tokens_per_s=per_s, context_tokens=context))
    assert (move.source if move else None) == source


def test_the_controller_waits_until_it_knows_how_fast_a_prefill_is() -> None:
    busy = replace(CALM, prompt_tokens_per_s=5000, prefill_tokens_per_s=0)
    assert controller_move(CONTROLLER, busy) is None


@given(
    queued=st.integers(0, 20_000),
    per_s=st.integers(0, 10_000),
    context=st.integers(0, 10_000),
    prefill=st.integers(1, 6),
    decode=st.integers(1, 6),
)
def test_no_load_moves_a_worker_back_and_forth(
    queued: int, per_s: int, context: int, prefill: int, decode: int
) -> None:
    """After a move the same load never asks for the opposite one: that is what margins and marks are for."""
    for policy in (THRESHOLD, CONTROLLER):
        view = RoleView(prefill, decode, queued, per_s, 1000, False, context, 0, 1000, 100, 0)
        move = choose_move(policy, view)
        if move is None:
            continue
        step = 1 if move.target == "prefill" else -1
        after = replace(view, prefill_workers=prefill + step, decode_workers=decode - step)
        if policy is THRESHOLD and not (after.prefill_workers and after.decode_workers):
            continue  # the scheduler never leaves a role without a worker
        again = choose_move(policy, after)
        if policy is CONTROLLER:
            assert again is None or again.source == move.source


def test_the_gauge_measures_what_a_prefill_worker_computes() -> None:
    gauge = RoleGauge(interval_ns=NS_PER_S, window_ns=4 * NS_PER_S)
    assert gauge.prefill_tokens_per_s == 0
    gauge.prefill_began(3, 5 * NS_PER_S)  # type: ignore[arg-type]
    gauge.prefill_ended(3, 500, 5 * NS_PER_S + NS_PER_S // 4)  # type: ignore[arg-type]
    assert gauge.prefill_tokens_per_s == 2000
    for _ in range(100):
        gauge.beat()
    assert gauge.prefill_tokens_per_s == 2000  # there is nothing newer


def test_the_gauge_follows_the_rate_of_arrivals() -> None:
    gauge = RoleGauge(interval_ns=NS_PER_S // 2, window_ns=2 * NS_PER_S)
    rates = []
    for _ in range(4):
        gauge.arrived(100)
        gauge.beat()
        rates.append(gauge.prompt_tokens_per_s)
    assert rates == [50, 87, 115, 136]  # a quarter of the way to 200 at each beat
    for _ in range(60):
        gauge.beat()
    assert gauge.prompt_tokens_per_s == 0


def test_the_gauge_averages_outputs_over_their_tokens() -> None:
    gauge = RoleGauge(interval_ns=NS_PER_S, window_ns=NS_PER_S)
    gauge.output_ended(tokens=1, duration_ns=0)  # no gap between tokens to speak of
    assert (gauge.output_tokens, gauge.tpot_ns) == (1, 0)
    gauge.output_ended(tokens=11, duration_ns=300)
    gauge.output_ended(tokens=6, duration_ns=150)
    assert (gauge.output_tokens, gauge.tpot_ns) == (6, 30)
