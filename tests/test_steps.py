"""Closed forms of decode runs against the loop that they replace."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.sim.steps import floor_sum, step_ends_ns, steps_begun_before, steps_total_ns

STEPS = st.integers(0, 200)
FIRST_FS = st.one_of(st.integers(0, 5_000_000), st.integers(10**12, 10**14))
GROWTH_FS = st.one_of(st.integers(0, 3_000_000), st.integers(0, 10**11))


def ends_by_loop(steps: int, first_fs: int, growth_fs: int) -> list[int]:
    ends, now_ns = [], 0
    for step in range(steps):
        now_ns += (first_fs + step * growth_fs) // 10**6
        ends.append(now_ns)
    return ends


def test_floor_sum_of_a_known_case() -> None:
    """i = 0..4: 3/4, 9/4, 15/4, 21/4, 27/4 have the floors 0, 2, 3, 5, 6."""
    assert floor_sum(5, 4, 6, 3) == 16


def test_floor_sum_of_nothing_is_0() -> None:
    assert floor_sum(0, 7, 3, 2) == 0


@given(st.integers(0, 300), st.integers(1, 10**7), st.integers(0, 10**8), st.integers(0, 10**8))
def test_floor_sum_equals_the_naive_sum(terms: int, divisor: int, slope: int, offset: int) -> None:
    assert floor_sum(terms, divisor, slope, offset) == sum((slope * i + offset) // divisor for i in range(terms))


def test_floor_sum_is_exact_where_floats_are_not() -> None:
    """Three terms of 1e20, 2e20 + 1 and 3e20 + 2, in ones."""
    assert floor_sum(3, 1, 10**20 + 1, 10**20) == 6 * 10**20 + 3


def test_growth_that_is_no_whole_nanosecond_adds_up() -> None:
    """Steps of 1.5, 1.9, 2.3 and 2.7 ns last 1, 1, 2 and 2 ns."""
    assert steps_total_ns(4, 1_500_000, 400_000) == 6
    assert step_ends_ns(4, 1_500_000, 400_000).tolist() == [1, 2, 4, 6]


@given(STEPS, FIRST_FS, GROWTH_FS)
def test_total_and_ends_equal_the_loop(steps: int, first_fs: int, growth_fs: int) -> None:
    ends = ends_by_loop(steps, first_fs, growth_fs)
    assert step_ends_ns(steps, first_fs, growth_fs).tolist() == ends
    assert steps_total_ns(steps, first_fs, growth_fs) == (ends[-1] if ends else 0)


def test_ends_are_64_bit_integers() -> None:
    assert step_ends_ns(0, 10, 1).dtype == np.int64
    assert step_ends_ns(3, 10**13, 1).dtype == np.int64


def test_no_step_has_begun_before_a_cut_at_0() -> None:
    assert steps_begun_before(0, 8, 10**12, 0) == 0


@pytest.mark.parametrize(("elapsed_ns", "begun"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3), (30, 3)])
def test_a_cut_lets_the_step_that_has_begun_end_and_no_other_begin(elapsed_ns: int, begun: int) -> None:
    assert steps_begun_before(elapsed_ns, 100, 10_000_000, 0) == begun


def test_a_cut_after_the_end_of_the_run_changes_nothing() -> None:
    assert steps_begun_before(10**9, 5, 10_000_000, 0) == 5
    assert steps_begun_before(10**9, 5, 10_000_000, 1_000_000) == 5


def test_steps_that_last_less_than_a_nanosecond_never_reach_a_cut() -> None:
    """Rounded down, each lasts 0 ns: the run goes to its end."""
    assert steps_begun_before(1, 10, 999_999, 0) == 10
    assert steps_begun_before(1, 10, 0, 0) == 10


def test_rounding_down_postpones_the_boundary_beyond_the_estimate() -> None:
    """Steps of 1.999999 ns last 1 ns: 1,000 ns take 1,000 steps, not the 501 that their femtoseconds suggest."""
    assert steps_begun_before(1000, 5000, 1_999_999, 0) == 1000
    assert steps_begun_before(1000, 900, 1_999_999, 0) == 900


@given(st.integers(0, 10**8), STEPS, FIRST_FS, GROWTH_FS)
def test_steps_begun_equals_the_walk(elapsed_ns: int, steps_max: int, first_fs: int, growth_fs: int) -> None:
    begun = 0
    for end_ns in [0, *ends_by_loop(steps_max, first_fs, growth_fs)]:
        if end_ns >= elapsed_ns:
            break
        begun += 1
    assert steps_begun_before(elapsed_ns, steps_max, first_fs, growth_fs) == min(begun, steps_max)


@given(STEPS, FIRST_FS, GROWTH_FS, st.data())
def test_a_cut_next_to_a_boundary_hits_the_right_side(
    steps: int, first_fs: int, growth_fs: int, data: st.DataObject
) -> None:
    cut_after = data.draw(st.integers(0, steps))
    boundary_ns = steps_total_ns(cut_after, first_fs, growth_fs)
    assert steps_total_ns(steps_begun_before(boundary_ns, steps, first_fs, growth_fs), first_fs, growth_fs) == (
        boundary_ns
    )
    beyond = steps_begun_before(boundary_ns + 1, steps, first_fs, growth_fs)
    assert beyond == steps or steps_total_ns(beyond, first_fs, growth_fs) > boundary_ns
