"""Layouts are counted, named and varied; nothing is simulated."""

from hypothesis import given
from hypothesis import strategies as st
from plan_worlds import found_at

from kvsim.plan.candidates import Ranked, best_of, explore, rank
from kvsim.plan.layouts import Layout, Side, colocated_layouts, disaggregated_layouts, neighbours
from kvsim.plan.search import Found


def layout(prefill: tuple[int, int], decode: tuple[int, int] | None, mode: str = "pull") -> Layout:
    return Layout(Side(*prefill), Side(*decode) if decode else None, mode)  # type: ignore[arg-type]


def test_every_split_of_four_gpus_uses_all_of_them() -> None:
    names = [each.name for each in disaggregated_layouts(4, {"prefill": [1], "decode": [1]}, "pull")]
    assert names == ["pull-1x1-3x1", "pull-2x1-2x1", "pull-3x1-1x1"]


def test_degrees_that_differ_may_leave_gpus_idle_but_never_a_whole_decode_worker() -> None:
    found = list(disaggregated_layouts(7, {"prefill": [2], "decode": [4]}, "push"))
    assert [(each.name, each.gpus) for each in found] == [("push-1x2-1x4", 6)]


def test_colocated_layouts_fill_the_budget_for_each_degree() -> None:
    found = list(colocated_layouts(6, {"colocated": [1, 4, 8]}))
    assert [(each.name, each.gpus) for each in found] == [("colocated-6x1", 6), ("colocated-1x4", 4)]
    assert str(found[1]) == "1 x tp4 colocated"


@given(st.integers(2, 40), st.lists(st.sampled_from([1, 2, 4, 8]), unique=True, min_size=1))
def test_no_split_exceeds_the_budget_and_none_comes_twice(gpus: int, degrees: list[int]) -> None:
    found = list(disaggregated_layouts(gpus, {"prefill": degrees, "decode": degrees}, "pull"))
    assert len({each.name for each in found}) == len(found)
    for each in found:
        assert each.decode is not None
        assert each.gpus <= gpus < each.gpus + each.decode.tensor_parallel


def test_the_neighbours_of_a_split_move_one_worker_over() -> None:
    assert [each.name for each in neighbours(layout((2, 1), (2, 1)), 4)] == ["pull-1x1-3x1", "pull-3x1-1x1"]


def test_the_neighbours_of_unequal_degrees_step_on_either_side() -> None:
    names = {each.name for each in neighbours(layout((6, 1), (1, 2)), 8)}
    assert names == {"pull-5x1-1x2", "pull-4x1-2x2"}  # seven prefill workers leave no room for a decode worker


def test_a_split_at_the_end_has_neighbours_on_one_side_only() -> None:
    assert [each.name for each in neighbours(layout((1, 1), (3, 1)), 4)] == ["pull-2x1-2x1"]
    assert neighbours(layout((4, 1), None, "colocated"), 4) == []


def test_layouts_are_ranked_by_expectation_then_by_fewer_gpus() -> None:
    few, many, none = layout((1, 1), (1, 1)), layout((2, 1), (2, 1)), layout((2, 1), None, "colocated")
    ranked = rank([many, few, none], lambda each: 0.0 if each.colocated else 5.0)
    assert [each for each, _ in ranked.disaggregated] == [few, many]
    assert ranked.colocated == ((none, 0.0),)
    assert ranked.best_per_s == 5.0


def test_exploring_climbs_from_a_wrong_expectation_to_the_best_split() -> None:
    """Rate matching ranks the best of 31 splits last; only steps between neighbours lead there."""
    layouts = [*disaggregated_layouts(32, {"prefill": [1], "decode": [1]}, "pull")]
    measured: list[str] = []

    def measure(wanted: object, _floor: float, _near: bool) -> dict[Layout, Found]:
        assert isinstance(wanted, list)
        measured.extend(each.name for each in wanted)
        return {each: found_at(100.0 - abs(each.prefill.workers - 8)) for each in wanted}

    ranked = rank(layouts, lambda each: float(each.prefill.workers if each.prefill.workers < 8 else 0))
    found = explore(ranked, 32, ("pull", "push"), measure, lambda _: 100.0)
    assert best_of(found).prefill.workers == 8
    assert "push-8x1-24x1" in measured
    assert len(measured) == len(set(measured)) < 16


def test_exploring_without_any_split_searches_colocated_layouts_alone() -> None:
    only = layout((1, 1), None, "colocated")
    ranked = Ranked((), ((only, 1.0),))
    found = explore(
        ranked, 1, ("pull",), lambda wanted, _floor, _near: {each: found_at(1.0) for each in wanted}, lambda _: 1.0
    )
    assert list(found) == [only]
