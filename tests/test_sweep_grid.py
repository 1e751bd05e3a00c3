"""The grid of a sweep: ranges in exact decimals, lists, the section of a file, and what is refused."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import ScenarioError
from kvsim.scenario import load_scenario
from kvsim.scenario.tree import Place
from kvsim.sweep.axes import Axis, axis_of
from kvsim.sweep.grid import Knob, read_grid
from kvsim.sweep.ranges import is_range, range_values

SMALL = Path(__file__).parent / "golden" / "small.yaml"


def values_of(option: str) -> tuple[object, ...]:
    (knob,) = read_grid(load_scenario(SMALL), [option], seeds=2).knobs
    return knob.values


def problems_of(*vary: str, seeds: int | None = None, extra: str = "", folder: Path | None = None) -> list[str]:
    """What is wrong with a grid of the small scenario, with ``extra`` lines in its file."""
    file = SMALL
    if folder is not None:
        file = folder / "small.yaml"
        file.write_text(f"{extra}\n{SMALL.read_text()}")
    with pytest.raises(ScenarioError) as error:
        read_grid(load_scenario(file), vary, seeds)
    return [str(problem).replace(str(file), "FILE") for problem in error.value.problems]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1:0.5:0.1", (0.1, 0.2, 0.3, 0.4, 0.5)),
        ("1:4:1", (1, 2, 3, 4)),
        ("1:2:0.5", (1, 1.5, 2)),
        ("1:2:0.4", (1, 1.4, 1.8)),
        ("4:1:-1.5", (4, 2.5, 1)),
        ("-1:1:1", (-1, 0, 1)),
        ("1e3:3e3:1e3", (1000, 2000, 3000)),
        ("5:5:1", (5,)),
        ("1:2:0.5 req/s", ("1 req/s", "1.5 req/s", "2 req/s")),
        (" 1 req/s : 2 req/s : 0.5 req/s ", ("1 req/s", "1.5 req/s", "2 req/s")),
        ("100 ms:300:100", ("100 ms", "200 ms", "300 ms")),
    ],
)
def test_a_range_is_exact_and_has_its_stop_where_the_steps_meet_it(text: str, values: tuple[object, ...]) -> None:
    assert is_range(text)
    assert range_values(text) == values
    assert [type(value) for value in range_values(text)] == [type(value) for value in values]


@given(
    start=st.decimals(-1000, 1000, places=3),
    step=st.decimals("0.001", 50, places=3),
    steps=st.integers(0, 40),
    rest=st.decimals(0, "0.999", places=3),
)
def test_ranges_are_sums_of_decimals(start: Decimal, step: Decimal, steps: int, rest: Decimal) -> None:
    stop = start + steps * step + rest * step
    values = range_values(f"{start:f}:{stop:f}:{step:f}")
    assert [Decimal(str(value)) for value in values] == [start + place * step for place in range(steps + 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4:1:1", "found '4:1:1', which is empty; expected STOP behind START, or a negative STEP"),
        ("1:4:-1", "found '1:4:-1', which is empty; expected STOP behind START, or a positive STEP"),
        ("1:4:0", "found a step of 0"),
        ("1:4", "expected START:STOP:STEP"),
        ("1:x:1", "expected START:STOP:STEP"),
        ("1:4:1:1", "expected START:STOP:STEP"),
        ("1 ms:4 s:1 ms", "found the units ms and s in one range, expected one"),
        ("0:1e9:1", "found '0:1e9:1' of 1,000,000,001 values, expected at most 100,000"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    assert is_range(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        range_values(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2, 4", (1, 2, 4)),
        ("push,pull", ("push", "pull")),
        ("1 req/s,2 req/s", ("1 req/s", "2 req/s")),
        ("none,1 s", ("none", "1 s")),
        ("0.5", (0.5,)),
        ("{kind: fixed, cv: 5},{kind: x}", ({"kind": "fixed", "cv": 5}, {"kind": "x"})),
        ("'a,b',true", ("a,b", True)),
    ],
)
def test_a_list_is_read_as_yaml(text: str, values: tuple[object, ...]) -> None:
    assert values_of(f"workload.arrivals={text}") == values


def test_all_combinations_come_with_the_last_knob_changing_fastest() -> None:
    grid = read_grid(load_scenario(SMALL), ["a=1,2", "b=x,y"], seeds=3)
    assert list(grid.cells()) == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    assert grid.seeds == (5, 6, 7)


def test_the_section_of_the_file_counts_unless_the_command_line_has_a_grid(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    section = "sweep: {vary: {slo.ttft: '10:30:10 ms', transfer.mode: [push, pull]}, seeds: 4}"
    file.write_text(f"{section}\n{SMALL.read_text()}")
    scenario = load_scenario(file)
    grid = read_grid(scenario)
    assert [(knob.key, knob.values) for knob in grid.knobs] == [
        ("slo.ttft", ("10 ms", "20 ms", "30 ms")),
        ("transfer.mode", ("push", "pull")),
    ]
    assert grid.seeds == (5, 6, 7, 8)
    assert grid.knobs[0].place == Place(str(file), 1, 26)
    other = read_grid(scenario, ["cache.block_tokens=8,16"], seeds=1)
    assert [knob.key for knob in other.knobs] == ["cache.block_tokens"]
    assert other.seeds == (5,)
    assert read_grid(load_scenario(file, ["sweep.seeds=2"])).seeds == (5, 6)
    assert scenario.variants == load_scenario(SMALL).variants
    assert "sweep" not in scenario.document


def test_everything_wrong_with_a_grid_is_told_at_once() -> None:
    assert problems_of("a=4:1:1", "b", "c=", "seed=1,2", "d=1,2", "d=3,4", "e={", seeds=0) == [
        "--vary a=4:1:1: a: found '4:1:1', which is empty; expected STOP behind START, or a negative STEP",
        "--vary b: expected KEY=V1,V2,... or KEY=START:STOP:STEP",
        "--vary c=: c: found no value, expected V1,V2,... or START:STOP:STEP",
        "--vary e={: e: found '{', expected V1,V2,... or START:STOP:STEP",
        "--seeds 0: expected at least 1",
        "--vary seed=1,2: seed: expected --seeds N: all points are run with the same seeds",
        "--vary d=3,4: d: found twice, expected each key once",
    ]


def test_a_grid_of_one_point_is_no_sweep() -> None:
    assert problems_of() == [
        "FILE: nothing to vary: give --vary KEY=V1,V2,... or --seeds N, or a section 'sweep' in the file"
    ]
    assert problems_of("a=0:2000:1", "b=0:999:1") == [
        "FILE: sweep: found a grid of 2,001,000 points, expected at most 1,000,000"
    ]


def test_a_section_with_mistakes_is_refused_when_the_file_is_loaded(tmp_path: Path) -> None:
    section = "sweep: {vary: {slo.ttft: 1:4:1, slo.tpot: [], x: 3}, seeds: 0, sed: 1}"
    assert problems_of(extra=section, folder=tmp_path) == [
        "FILE:1:26: sweep.vary.slo.ttft: found 3841, expected a list of values, or a range in quotes such as "
        "'1:4:0.5 req/s'",  # YAML 1.1 takes 1:4:1 for a number of base 60
        "FILE:1:43: sweep.vary.slo.tpot: found an empty list, expected a list of values, or a range in quotes such as "
        "'1:4:0.5 req/s'",
        "FILE:1:50: sweep.vary.x: found 3, expected a list of values, or a range in quotes such as '1:4:0.5 req/s'",
        "FILE:1:61: sweep.seeds: found 0, expected at least 1",
        "FILE:1:64: sweep.sed: unknown key (did you mean 'seeds'?), expected one of: vary, seeds",
    ]
    section = "sweep: {vary: {slo.ttft: '4:1:1 ms'}}"
    assert problems_of(extra=section, folder=tmp_path) == [
        "FILE:1:26: sweep.vary.slo.ttft: found '4:1:1 ms', which is empty; expected STOP behind START, or a negative "
        "STEP"
    ]


@pytest.mark.parametrize(
    ("values", "unit", "entries"),
    [
        ((1, 2), "", (1, 2)),
        ((1, 1.5), "", (1.0, 1.5)),
        (("1 req/s", "2 req/s"), "req/s", (1, 2)),
        (("1 req/s", "1.5 req/s"), "req/s", (1.0, 1.5)),
        (("100 Gbit/s", "1e3 Gbit/s"), "Gbit/s", (100.0, 1000.0)),
        (("500 us", "1 ms"), "", ("500 us", "1 ms")),
        (("none", "1 s"), "", ("none", "1 s")),
        ((True, False), "", ("true", "false")),
        ((None, 4), "", ("null", "4")),
        (({"kind": "fixed"}, "x"), "", ('{"kind": "fixed"}', "x")),
    ],
)
def test_a_knob_is_a_column_of_numbers_where_all_values_have_one_unit(
    values: tuple[object, ...], unit: str, entries: tuple[object, ...]
) -> None:
    axis = axis_of(Knob("some.key", values, Place("", 0, 0)))
    assert axis == Axis("some.key", unit, entries)  # type: ignore[arg-type]
    assert [type(entry) for entry in axis.entries] == [type(entry) for entry in entries]
    assert axis.column == (f"some.key ({unit})" if unit else "some.key")
