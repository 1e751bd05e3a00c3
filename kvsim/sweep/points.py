"""Every point of a grid as a scenario that is ready to run, and the name by which a finished point is known again.

All that a user can have got wrong is found here, before the first point is simulated. It must not know where results
are kept or who runs what.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from kvsim.errors import Problem, ScenarioError
from kvsim.scenario import Scenario, Variant, check_fits, with_changes
from kvsim.scenario.problems import in_order
from kvsim.scenario.tree import problem_at
from kvsim.sweep.grid import Grid, Knob, value_text
from kvsim.version import VERSION
from kvsim.workload import EmpiricalPairs, FixedGapArrivals, GeneratedWorkload, TraceWorkload, WorkloadSpec, generate

Values = tuple[Any, ...]
Advance = Callable[[int, int], None]
"""Is told how many of how many are done."""


@dataclass(frozen=True, slots=True)
class Point:
    """One cell of the grid with one seed: every variant of ``scenario`` is run.

    ``cell`` counts combinations of values in grid order. ``digest`` names all that the results depend on: the resolved
    variants, the contents of files that they read, the seed and the version of kvsim.
    """

    cell: int
    values: Values
    seed: int
    name: str
    digest: str
    scenario: Scenario


def resolve_points(base: Scenario, grid: Grid, advance: Advance | None = None) -> tuple[Point, ...]:
    """The points in grid order: cell by cell, each with every seed. Raises ScenarioError, TraceError."""
    cells = list(grid.cells())
    scenarios: list[Scenario] = []
    problems = _Problems(grid.knobs)
    fits = _FitChecker(grid.seeds[0])
    for done, values in enumerate(cells, 1):
        name = _name(grid.knobs, values)
        try:
            scenario = _scenario(base, grid, values)
            scenarios.append(scenario)
            problems.add(name, fits.problems(scenario))
        except ScenarioError as error:
            problems.add(name, error.problems)
        if advance is not None:
            advance(done, len(cells))
    problems.refuse()
    files = _FileDigests()
    digests = [[_digest(scenario, seed, files) for seed in grid.seeds] for scenario in scenarios]
    _refuse_repetition(grid, [of_cell[0] for of_cell in digests])
    return tuple(
        Point(cell, values, seed, _name(grid.knobs, values, seed), digest, replace(scenario, seed=seed))
        for cell, (values, scenario, of_cell) in enumerate(zip(cells, scenarios, digests, strict=True))
        for seed, digest in zip(grid.seeds, of_cell, strict=True)
    )


def _name(knobs: Sequence[Knob], values: Values, seed: int | None = None) -> str:
    parts = [f"{knob.key}={value_text(value)}" for knob, value in zip(knobs, values, strict=True)]
    return ", ".join(parts if seed is None else [*parts, f"seed {seed}"])


def _scenario(base: Scenario, grid: Grid, values: Values) -> Scenario:
    """The scenario of a cell. Problems with its values are told at the place where the knob was asked for."""
    options = {knob.option(value): knob for knob, value in zip(grid.knobs, values, strict=True)}
    try:
        return with_changes(base, list(options), grid.seeds[0])
    except ScenarioError as error:
        knobs = {f"--set {option}": knob for option, knob in options.items()}
        problems = []
        for problem in error.problems:
            place = knobs[problem.file].place if problem.file in knobs else None
            if place is not None:
                problem = msgspec.structs.replace(problem, file=place.file, line=place.line, column=place.column)  # noqa: PLW2901
            problems.append(problem)
        raise ScenarioError(tuple(problems)) from error


def _refuse_repetition(grid: Grid, digests: Sequence[str]) -> None:
    """Raises ScenarioError if a knob makes no difference somewhere: what looks like a result would be a repetition."""
    first: dict[str, tuple[int, ...]] = {}
    problems: dict[str, Problem] = {}
    indices = itertools.product(*(range(len(knob.values)) for knob in grid.knobs))
    for cell, digest in zip(indices, digests, strict=True):
        other = first.setdefault(digest, cell)
        if other == cell:
            continue
        place = next(place for place, (one, two) in enumerate(zip(other, cell, strict=True)) if one != two)
        knob = grid.knobs[place]
        one, two = (value_text(knob.values[indices[place]]) for indices in (other, cell))
        message = f"'{one}' and '{two}' give the same scenario, expected values of which each makes a difference"
        if one != two:
            message += " (do all variants set this key themselves?)"
        problems.setdefault(knob.key, problem_at(knob.place, knob.key, message))
    if problems:
        raise ScenarioError(tuple(problems.values()))


class _Problems:
    """What is wrong with a grid, each thing told once: that of a value at its knob, any other with its first cell."""

    def __init__(self, knobs: Sequence[Knob]) -> None:
        self._knob_places = [(knob.place.file, knob.place.line, knob.place.column) for knob in knobs]
        self._of_values: list[Problem] = []
        self._of_cells: dict[tuple[str, int, int, str], tuple[Problem, list[str]]] = {}

    def add(self, name: str, problems: Iterable[Problem]) -> None:
        """The problems of the cell called ``name``."""
        for problem in dict.fromkeys(problems):
            if (problem.file, problem.line, problem.column) in self._knob_places:
                self._of_values.append(problem)
            else:
                place = (problem.file, problem.line, problem.column, problem.key)
                self._of_cells.setdefault(place, (problem, []))[1].append(name)

    def refuse(self) -> None:
        """Raises ScenarioError if there is a problem."""
        found = list(self._of_values)
        for problem, names in self._of_cells.values():
            others = f" and {len(names) - 1} other combinations" if len(names) > 1 else ""
            suffix = f" (with {names[0]}{others})" if names[0] else ""
            found.append(msgspec.structs.replace(problem, message=problem.message + suffix))
        if found:
            raise ScenarioError(in_order(found))


def _digest(scenario: Scenario, seed: int, files: "_FileDigests") -> str:
    """Variants are nested frozen values whose ``repr`` is exact and complete."""
    contents = [files.of(variant.workload) for variant in scenario.variants]
    return hashlib.sha256(json.dumps([VERSION, seed, contents, repr(scenario.variants)]).encode()).hexdigest()


class _FileDigests:
    """Digests of the files that workloads come from; each file is read once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, workload: WorkloadSpec) -> str:
        match workload:
            case TraceWorkload(path=path) | GeneratedWorkload(lengths=EmpiricalPairs(path=path)):
                if path not in self._known:
                    self._known[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                return self._known[path]
        return ""


class _FitChecker:
    """Whether the requests of a cell fit its workers, with the first seed.

    Lengths do not depend on when requests arrive, so cells that differ in the load only share their requests.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._known: Mapping[WorkloadSpec, Any] = {}

    def problems(self, scenario: Scenario) -> list[Problem]:
        """One problem per variant that some request does not fit."""
        return [problem for variant in scenario.variants for problem in self._variant(variant, scenario.path)]

    def _variant(self, variant: Variant, path: str) -> list[Problem]:
        spec = variant.workload
        match spec:
            case TraceWorkload():
                spec = msgspec.structs.replace(spec, rate_scale=1.0)
            case GeneratedWorkload():
                spec = msgspec.structs.replace(spec, arrivals=FixedGapArrivals(1.0))
        if spec not in self._known:
            self._known = {spec: generate(spec, self._seed)}  # only the last one: workloads may be large
        return check_fits(variant, self._known[spec], path)
