"""Points on processes: all outcomes come back, and whatever happens to one point, the others go on."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvsim.scenario import load_scenario
from kvsim.sweep.grid import read_grid
from kvsim.sweep.points import Point, resolve_points
from kvsim.sweep.pool import available_cores, run_here, run_on_processes
from kvsim.sweep.run_point import Failure, SweepError, simulate_point, try_point

SMALL = Path(__file__).parent / "golden" / "small.yaml"


class Deadly:
    """Ends the process that unpickles it."""

    def __init__(self, status: int) -> None:
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (self.status,))


class DeadlyAtOnce(Deadly):
    """Ends the process with SIGKILL, as the kernel does when memory runs out."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_kill_this_process, ())


def _kill_this_process() -> None:
    os.kill(os.getpid(), 9)


@pytest.fixture(scope="module")
def points() -> tuple[Point, ...]:
    scenario = load_scenario(
        SMALL, ["workload.requests=5", *(f"variants.{name}=null" for name in ("streamed", "message", "colocated"))]
    )
    return resolve_points(scenario, read_grid(scenario, ["slo.ttft=1 ms,10 ms"], 2))


def broken(point: Point) -> Point:
    """The same point with a variant that the simulator trips over."""
    return replace(point, scenario=replace(point.scenario, variants=(None,)))  # type: ignore[arg-type]


def test_a_point_gives_a_flat_row_per_variant(points: tuple[Point, ...]) -> None:
    pull, push = simulate_point(points[0])
    assert (pull["variant"], push["variant"]) == ("pull", "push")
    assert pull["metrics"]["requests.finished"] == 5
    assert pull["metrics"]["ttft_s.p99"] > pull["metrics"]["ttft_s.p50"] > 0
    assert all(isinstance(value, int | float) for value in pull["metrics"].values())
    assert pull["notes"] == []


def test_processes_give_what_this_process_gives(points: tuple[Point, ...]) -> None:
    here = dict(run_here_by_digest(points))
    there = {point.digest: outcome for point, outcome in run_on_processes(points, 2)}
    assert len(there) == 4
    assert there == here


def run_here_by_digest(points: tuple[Point, ...]) -> Iterator[tuple[str, object]]:
    for point, outcome in run_here(points):
        yield point.digest, outcome


def test_a_point_that_trips_the_simulator_fails_alone(points: tuple[Point, ...]) -> None:
    outcomes = {point.cell: outcome for point, outcome in run_here([broken(points[0]), points[2]])}
    assert isinstance(outcomes[0], Failure)
    assert outcomes[0].message.startswith("AttributeError: 'NoneType' object has no attribute 'workload' (at ")
    assert outcomes[0].message.endswith("; this is a defect of kvsim)")
    assert isinstance(outcomes[1], list)


def test_what_the_user_can_mend_is_told_without_a_place_in_the_code(points: tuple[Point, ...], tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,100,10\n")
    scenario = load_scenario(SMALL, ["workload=null", f"workload.trace.path={trace}"])
    trace.unlink()
    outcome = try_point(replace(points[0], scenario=scenario))
    assert isinstance(outcome, Failure)
    assert str(trace) in outcome.message
    assert "defect" not in outcome.message


def test_a_process_that_dies_takes_one_point_with_it(points: tuple[Point, ...]) -> None:
    deadly: Any = [Deadly(3), DeadlyAtOnce(0)]
    outcomes = list(run_on_processes([points[0], deadly[0], points[1], deadly[1], points[2], points[3]], 2))
    by_point = {id(point): outcome for point, outcome in outcomes}
    assert by_point[id(deadly[0])] == Failure("its process ended with exit status 3")
    assert by_point[id(deadly[1])] == Failure("its process ended with SIGKILL (out of memory?)")
    assert all(isinstance(by_point[id(point)], list) for point in points)


def test_processes_end_when_the_iterator_is_closed(points: tuple[Point, ...]) -> None:
    import multiprocessing

    outcomes = run_on_processes(points, 2)
    next(outcomes)
    assert len(multiprocessing.active_children()) == 2
    outcomes.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_a_process_that_cannot_begin_is_told_as_such(
    points: tuple[Point, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvsim.sweep.pool._serve", _fail_at_once)
    with pytest.raises(SweepError, match="ended with exit status 7 before it began; in a script of your own"):
        list(run_on_processes(points, 1))


def _fail_at_once(_connection: object) -> None:
    os._exit(7)


def test_there_is_at_least_one_core() -> None:
    assert available_cores() >= 1
