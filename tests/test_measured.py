"""Durations from measured tables: exact where they were measured, by hand in between, told where beyond."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import GPU, MODEL, cluster, hardware, run, workload

from kvsim.core.messages import FEMTOSECONDS_PER_NS as FS
from kvsim.sim.driver import Simulation
from kvsim.sim.measured import MeasuredCosts, MeasuredSteps, interpolated

COSTS = MeasuredCosts(
    name="tables",
    prefill_tokens=(10, 20, 40),
    prefill_fs=(100 * FS, 150 * FS, 350 * FS),
    own_pair_fs=0,
    past_pair_fs=2 * FS,
    past_token_fs=3 * FS,
    later_chunk_fs=11 * FS,
    chunk_fs=7 * FS,
    start_token_max=50,
    decode_requests=(1, 4),
    decode_fs=(50 * FS, 80 * FS),
    decode_context_token_fs=(FS, 4 * FS),
    context_tokens_max=100,
    shared_fs=30 * FS,
    between_steps_fs=0,
)


def test_a_prompt_by_hand() -> None:
    steps = MeasuredSteps(COSTS)
    assert steps.prefill_ns([(0, 20)], 0, 0) == 150
    assert steps.prefill_ns([(0, 30)], 0, 0) == 250
    assert steps.prefill_ns([(5, 20)], 0, 0) == 150 + 2 * 5 * 20 + 3 * 5 + 11
    assert steps.prefill_ns([(0, 5), (5, 15)], 0, 0) == 150 + 7 + 2 * 5 * 15 + 3 * 5 + 11


def test_pairs_within_a_chunk_make_a_step_of_short_chunks_cheaper_than_one_of_a_long_chunk() -> None:
    steps = MeasuredSteps(replace(COSTS, own_pair_fs=FS, chunk_fs=0))
    assert steps.prefill_ns([(0, 20)], 0, 0) == 150 + 20 * 21 // 2
    assert steps.prefill_ns([(0, 10), (0, 10)], 0, 0) == 150 + 2 * (10 * 11 // 2)


def test_a_decode_step_by_hand() -> None:
    steps = MeasuredSteps(COSTS)
    assert steps.decode_fs(1) == (50 * FS, FS)
    assert steps.decode_fs(2) == (60 * FS, 2 * FS)
    assert steps.decode_fs(4) == (80 * FS, 4 * FS)
    assert steps.prefill_ns([], 2, 30) == 60 + 2 * 30


def test_a_step_with_both_takes_less_than_one_with_each_but_no_less_than_either() -> None:
    assert MeasuredSteps(COSTS).prefill_ns([(0, 20)], 2, 30) == 150 + 120 - 30
    assert MeasuredSteps(replace(COSTS, shared_fs=10**6 * FS)).prefill_ns([(0, 20)], 2, 30) == 150


def test_what_lies_between_two_steps_counts_once_for_each() -> None:
    steps = MeasuredSteps(replace(COSTS, between_steps_fs=1000 * FS))
    assert steps.prefill_ns([(0, 20)], 2, 30) == 150 + 120 - 30 + 1000
    assert steps.prefill_ns([], 2, 30) == 120 + 1000
    assert steps.decode_fs(2) == (1060 * FS, 2 * FS)


def test_beyond_a_table_its_last_line_goes_on_but_never_falls() -> None:
    assert interpolated((10, 20, 40), (100, 150, 350), 50) == 450
    assert interpolated((10, 20, 40), (100, 150, 350), 2) == 60
    assert interpolated((10, 20), (30, 90), 1) == 0
    assert interpolated((10, 20), (90, 30), 15) == 60
    assert interpolated((10, 20), (90, 30), 100) == 30
    assert interpolated((10, 20), (90, 30), 1) == 90
    assert [interpolated((10,), (90,), place) for place in (1, 10, 20)] == [90, 90, 180]


tables = st.lists(
    st.tuples(st.integers(1, 10**5), st.integers(0, 10**15)), min_size=1, max_size=8, unique_by=lambda entry: entry[0]
).map(lambda entries: tuple(zip(*sorted(entries), strict=True)))


@given(tables, st.integers(0, 2 * 10**5))
def test_a_table_is_exact_at_its_entries_and_between_its_neighbours_elsewhere(
    table: tuple[tuple[int, ...], tuple[int, ...]], place: int
) -> None:
    places, values = table
    assert [interpolated(places, values, entry) for entry in places] == list(values)
    if places[0] <= place <= places[-1]:
        below = max(entry for entry in places if entry <= place)
        above = min(entry for entry in places if entry >= place)
        ends = [values[places.index(entry)] for entry in (below, above)]
        assert min(ends) <= interpolated(places, values, place) <= max(ends)


@given(st.integers(1, 64), st.integers(0, 10**5))
def test_a_decode_step_costs_the_same_by_both_ways(requests: int, more_context_tokens: int) -> None:
    steps = MeasuredSteps(replace(COSTS, between_steps_fs=3 * FS // 2))
    context_tokens = requests + more_context_tokens
    base_fs, token_fs = steps.decode_fs(requests)
    assert steps.prefill_ns([], requests, context_tokens) == (base_fs + token_fs * context_tokens) // FS


def test_what_was_asked_for_within_the_tables_is_no_news() -> None:
    steps = MeasuredSteps(COSTS)
    steps.prefill_ns([(50, 10)], 4, 100)
    steps.prefill_ns([(0, 20), (0, 20)], 1, 100)
    assert steps.notes(100) == []


def test_what_was_asked_for_beyond_is_told() -> None:
    steps = MeasuredSteps(COSTS)
    steps.prefill_ns([(51, 4000)], 0, 0)
    steps.prefill_ns([(0, 9)], 0, 0)
    steps.decode_fs(5)
    assert steps.notes(101) == [
        "prompt tokens of a step went down to 9 and up to 4,000, profile tables measured 10 to 40: extrapolated",
        "tokens before a chunk went up to 51, profile tables measured 0 to 50: extrapolated",
        "requests of a decode step went up to 5, profile tables measured 1 to 4: extrapolated",
        "tokens of context of a decode step went up to 101, profile tables measured 0 to 100: extrapolated",
    ]


def test_a_simulation_takes_measured_steps_in_place_of_the_roofline() -> None:
    """A prompt of 20 tokens, then two decode steps over 21 and 22 tokens: 150, 50 + 21 and 50 + 22 ns."""
    spec = cluster("colocated")
    world = hardware(spec)
    workers = tuple(msgspec.structs.replace(worker, gpu=None, measured=COSTS) for worker in world.workers)
    columns, _ = run(spec, workload([(0, 20, 3)]), msgspec.structs.replace(world, workers=workers))
    assert columns.requests.prefill_end_ns.tolist() == [150]
    assert columns.requests.finished_ns.tolist() == [150 + 71 + 72]


def test_a_simulation_tells_what_it_extrapolated_for_all_workers_at_once() -> None:
    spec = cluster("pull", prefill=2)
    world = hardware(spec)
    measured = [msgspec.structs.replace(worker, measured=COSTS) for worker in world.workers[:2]]
    load = workload([(0, 100, 3), (0, 100, 3)])
    simulation = Simulation(spec, msgspec.structs.replace(world, workers=(*measured, world.workers[2])), load)
    simulation.run()
    (note,) = simulation.notes()
    assert note.startswith("prefill0, prefill1: prompt tokens of a step went up to 100, profile tables measured 10 to")


@pytest.mark.parametrize("measured", [None, COSTS])
def test_a_worker_needs_no_gpu_if_its_steps_were_measured(measured: MeasuredCosts | None) -> None:
    spec = cluster("pull")
    world = hardware(spec)
    workers = tuple(
        msgspec.structs.replace(worker, gpu=None if measured else GPU, measured=measured) for worker in world.workers
    )
    columns, _ = run(spec, workload([(0, 20, 3)]), msgspec.structs.replace(world, workers=workers))
    assert bool(columns.requests.finished.all())
    assert MODEL.layers == spec.kv.layers
