"""The whole of a sweep: grid, points, engine, journal, table, figures. It must not decide what is printed.

``run_sweep`` does what ``kvsim sweep`` does. Stopped at any moment, it goes on from the finished points when it is
called again with the same folder, and gives the same table.
"""

import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from kvsim.scenario import Scenario, load_scenario, scenario_from_mapping
from kvsim.scenario.load import with_changes
from kvsim.sweep.axes import axis_of
from kvsim.sweep.grid import Grid, read_grid
from kvsim.sweep.points import Point, resolve_points
from kvsim.sweep.pool import available_cores, run_here, run_on_processes
from kvsim.sweep.ray_engine import run_on_ray
from kvsim.sweep.result import TABLE, SweepResult, load_sweep
from kvsim.sweep.run_point import Failure, Outcome, Row, SweepError
from kvsim.sweep.store import Journal, replace_file
from kvsim.sweep.table import Layout, table_bytes

EngineName: TypeAlias = Literal["processes", "ray"]
Phase: TypeAlias = Literal["checking", "simulating"]
Advance = Callable[[Phase, int, int, int], None]
"""Is told of progress: the phase, how many of how many are done in this call, and how many were done before it."""

FAILURES_SHOWN = 5


def run_sweep(
    scenario: Scenario | Mapping[str, Any] | Path | str,
    vary: Sequence[str] = (),
    seeds: int | None = None,
    out: Path | str | None = None,
    engine: EngineName = "processes",
    *,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    workers: int | None = None,
    figures: bool = True,
    advance: Advance | None = None,
) -> SweepResult:
    """Simulate a grid and write its table and figures into ``out`` (``sweeps/NAME`` if None).

    ``vary`` has texts as after ``--vary``; without any the section ``sweep`` of the scenario counts. ``overrides`` and
    ``seed`` are as for ``load_scenario``. ``workers`` is how many processes run at a time (None: one per core; 1: none
    beside this one); on Ray the cluster decides. In a script, call it under ``if __name__ == "__main__"``: worker
    processes import the script's file.

    Raises ScenarioError and TraceError for the grid, RunFolderError for the folder, SweepError if points failed: then
    all others are finished and kept. Interrupted, it keeps what is finished.
    """
    if engine not in get_args(EngineName):
        raise ValueError(f"found the engine {engine!r}, expected one of: {', '.join(get_args(EngineName))}")
    base = _load(scenario, overrides, seed)
    grid = read_grid(base, vary, seeds)
    points = resolve_points(base, grid, _checking(advance))
    folder = Path(out) if out is not None else Path("sweeps") / base.name
    with Journal.open(folder, base.name, {point.digest for point in points}) as journal:
        todo = [point for point in points if point.digest not in journal.finished]
        failures: list[str] = []
        if advance is not None:
            advance("simulating", 0, len(todo), len(points) - len(todo))
        with closing(_outcomes(todo, engine, workers)) as outcomes:
            for done, (point, outcome) in enumerate(outcomes, 1):
                if isinstance(outcome, Failure):
                    failures.append(f"{point.name or base.name}: {outcome.message}")
                else:
                    journal.append(point.digest, point.name, outcome)
                if advance is not None:
                    advance("simulating", done, len(todo), len(points) - len(todo))
        if failures:
            raise SweepError(_failures_text(failures, len(points), folder))
        _write_table(folder, base, grid, points, journal.finished)
        result = load_sweep(folder)
        if figures:
            _write_figures(result)
        return SweepResult(folder, result.layout, result.table, _notes(grid, points, journal.finished))


def _load(scenario: Scenario | Mapping[str, Any] | Path | str, overrides: Sequence[str], seed: int | None) -> Scenario:
    if isinstance(scenario, Scenario):
        return with_changes(scenario, overrides, seed) if overrides or seed is not None else scenario
    if isinstance(scenario, Mapping):
        return scenario_from_mapping(scenario, overrides, seed)
    return load_scenario(scenario, overrides, seed)


def _checking(advance: Advance | None) -> Callable[[int, int], None] | None:
    if advance is None:
        return None
    tell = advance
    return lambda done, total: tell("checking", done, total, 0)


def _outcomes(
    points: Sequence[Point], engine: EngineName, workers: int | None
) -> Generator[tuple[Point, Outcome], None, None]:
    if not points:
        yield from ()
    elif engine == "ray":
        yield from run_on_ray(points)
    else:
        count = available_cores() if workers is None else workers
        yield from run_here(points) if count <= 1 else run_on_processes(points, count)


def _failures_text(failures: Sequence[str], points: int, folder: Path) -> str:
    shown = list(failures[:FAILURES_SHOWN])
    if len(failures) > len(shown):
        shown.append(f"... and {len(failures) - len(shown)} more")
    head = (
        f"{len(failures)} of {points} points failed; the others are kept in {folder}, and the same command tries "
        "only these again:"
    )
    return "\n".join([head, *shown])


def _write_table(
    folder: Path, base: Scenario, grid: Grid, points: Sequence[Point], rows: Mapping[str, list[Row]]
) -> None:
    axes = tuple(axis_of(knob) for knob in grid.knobs)
    names = dict.fromkeys(row["variant"] for point in points for row in rows[point.digest])
    layout = Layout(base.name, axes, tuple(names))
    entries = list(itertools.product(*(axis.entries for axis in axes)))
    replace_file(folder / TABLE, table_bytes(layout, entries, points, rows))


def _write_figures(result: SweepResult) -> None:
    from kvsim.report.style import figure_bytes  # noqa: PLC0415
    from kvsim.report.sweep_figure import sweep_figures  # noqa: PLC0415  # matplotlib is heavy

    for pattern in ("sweep.svg", "sweep.png", "sweep-[0-9]*.svg", "sweep-[0-9]*.png"):
        for old in sorted(result.path.glob(pattern)):
            old.unlink()
    for stem, figure in sweep_figures(result.statistics(), result.layout.knobs, result.layout.variants).items():
        replace_file(result.path / f"{stem}.svg", figure_bytes(figure, "svg"))
        replace_file(result.path / f"{stem}.png", figure_bytes(figure, "png"))


def _notes(grid: Grid, points: Sequence[Point], rows: Mapping[str, list[Row]]) -> tuple[str, ...]:
    """The notes of all runs, each once, and one of its own if the seeds make no difference."""
    notes = dict.fromkeys(note for point in points for row in rows[point.digest] for note in row["notes"])
    if len(grid.seeds) > 1:
        by_cell: dict[int, list[list[Row]]] = {}
        for point in points:
            by_cell.setdefault(point.cell, []).append(rows[point.digest])
        if all(one == of_cell[0] for of_cell in by_cell.values() for one in of_cell):
            notes["all seeds give the same results (is the load a recorded trace?): their intervals say nothing"] = None
    return tuple(notes)
