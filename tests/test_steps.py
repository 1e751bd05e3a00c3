"""Closed forms of fused decode runs against the naive walk."""

from hypothesis import given
from hypothesis import strategies as st

from kvsim.core.messages import FEMTOSECONDS_PER_NS as FS
from kvsim.sim.steps import steps_begun_before, steps_total_fs

costs = st.tuples(st.integers(0, 10**14), st.integers(0, 10**11), st.integers(0, FS - 1))


def walked_ns(steps: int, first_fs: int, growth_fs: int, carry_fs: int) -> list[int]:
    """Boundaries of runs of one step each, the remainder carried from one to the next."""
    now_ns, ends_ns = 0, []
    for step in range(steps):
        whole_ns, carry_fs = divmod(carry_fs + first_fs + step * growth_fs, FS)
        now_ns += whole_ns
        ends_ns.append(now_ns)
    return ends_ns


def test_three_steps_by_hand() -> None:
    # 1.4 ns, 1.9 ns, 2.4 ns with 0.2 ns carried in: boundaries at 1.6, 3.5 and 5.9 ns
    first_fs, growth_fs, carry_fs = 1_400_000, 500_000, 200_000
    assert [steps_total_fs(n, first_fs, growth_fs, carry_fs) for n in (1, 2, 3)] == [1_600_000, 3_500_000, 5_900_000]
    assert walked_ns(3, first_fs, growth_fs, carry_fs) == [1, 3, 5]
    begun = [steps_begun_before(elapsed_ns, 9, first_fs, growth_fs, carry_fs) for elapsed_ns in range(7)]
    assert begun == [0, 1, 2, 2, 3, 3, 4]


def test_a_cut_before_anything_is_due_needs_no_step() -> None:
    assert steps_begun_before(0, 10, 1_000_000, 0, 0) == 0


def test_steps_that_cost_nothing_never_reach_a_later_instant() -> None:
    assert steps_begun_before(1, 10, 0, 0, 0) == 10


@given(costs, st.integers(1, 80))
def test_one_run_has_the_boundaries_of_runs_of_one_step(cost: tuple[int, int, int], steps: int) -> None:
    ends_ns = walked_ns(steps, *cost)
    assert [steps_total_fs(n + 1, *cost) // FS for n in range(steps)] == ends_ns


@given(costs, st.integers(1, 60), st.integers(0, 60))
def test_the_remainder_joins_two_runs_seamlessly(cost: tuple[int, int, int], before: int, after: int) -> None:
    first_fs, growth_fs, carry_fs = cost
    split_ns, remainder_fs = divmod(steps_total_fs(before, first_fs, growth_fs, carry_fs), FS)
    rest = steps_total_fs(after, first_fs + before * growth_fs, growth_fs, remainder_fs)
    assert split_ns * FS + rest == steps_total_fs(before + after, first_fs, growth_fs, carry_fs)


@given(costs, st.integers(0, 10**11), st.integers(1, 2000))
def test_the_answer_is_the_first_boundary_that_reaches_the_cut(
    cost: tuple[int, int, int], elapsed_ns: int, steps_max: int
) -> None:
    steps = steps_begun_before(elapsed_ns, steps_max, *cost)
    assert 0 <= steps <= steps_max
    if steps < steps_max:
        assert steps_total_fs(steps, *cost) // FS >= elapsed_ns
    if steps > 0:
        assert steps_total_fs(steps - 1, *cost) // FS < elapsed_ns


@given(st.integers(1, 10**8), st.integers(0, 10**6), st.integers(1, 10**5))
def test_a_boundary_at_the_very_instant_counts_and_one_a_nanosecond_before_does_not(
    first_ns: int, growth_ns: int, steps: int
) -> None:
    cost = first_ns * FS, growth_ns * FS, 0
    end_ns = steps_total_fs(steps, *cost) // FS
    assert steps_begun_before(end_ns, steps + 1, *cost) == steps
    assert steps_begun_before(end_ns + 1, steps + 1, *cost) == steps + 1
