"""The grid of a sweep: which keys take which values, read from ``--vary`` or from the section ``sweep`` of a file.

Values are what YAML makes of them; whether a key exists and takes such a value shows when the scenario is made. It must
not know how points are run.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kvsim.errors import Problem, ScenarioError
from kvsim.scenario import Scenario
from kvsim.scenario.tree import Node, Place, problem_at, read_tree
from kvsim.sweep.ranges import is_range, range_values

POINTS_MAX = 1_000_000
_NOT_VARIED = {
    "seed": "expected --seeds N: all points are run with the same seeds",
    "sweep": "a grid cannot vary itself",
    "name": "no name changes a result",
    "description": "no description changes a result",
}


@dataclass(frozen=True, slots=True)
class Knob:
    """A dotted key of the scenario and the values that it takes, in order. ``place`` is where that was asked for."""

    key: str
    values: tuple[Any, ...]
    place: Place

    def option(self, value: Any) -> str:
        """``KEY=VALUE`` as ``--set`` takes it."""
        return f"{self.key}={json.dumps(value, ensure_ascii=False, default=str)}"


@dataclass(frozen=True, slots=True)
class Grid:
    """All combinations of the knobs' values, each with seeds ``seed``, ``seed + 1``, ..."""

    knobs: tuple[Knob, ...]
    seeds: tuple[int, ...]

    def cells(self) -> Iterator[tuple[Any, ...]]:
        """One value per knob; the last knob changes fastest."""
        return itertools.product(*(knob.values for knob in self.knobs))


def read_grid(scenario: Scenario, vary: Sequence[str] = (), seeds: int | None = None) -> Grid:
    """The grid that ``KEY=VALUES`` texts ask for, or without any the section ``sweep`` of the file.

    ``seeds`` replaces the number of the section. Raises ScenarioError with everything that is wrong.
    """
    problems: list[Problem] = []
    section = _section(scenario)
    knobs = [_read_option(option, problems) for option in vary] if vary else _read_section(section, problems)
    if seeds is None:
        node = section.get("seeds")
        count = node.value if node is not None else None
        seeds = count if isinstance(count, int) else 1
    if seeds < 1:
        problems.append(Problem(f"--seeds {seeds}", 0, 0, "", "expected at least 1"))
    found = [knob for knob in knobs if knob is not None]
    for place, knob in enumerate(found):
        problems.extend(_key_problems(knob, found[:place]))
    points = seeds
    for knob in found:
        points *= len(knob.values)
    if not problems and points == 1:
        message = "nothing to vary: give --vary KEY=V1,V2,... or --seeds N, or a section 'sweep' in the file"
        problems.append(Problem(scenario.path, 0, 0, "", message))
    if points > POINTS_MAX:
        message = f"found a grid of {points:,} points, expected at most {POINTS_MAX:,}"
        problems.append(Problem(scenario.path, 0, 0, "sweep", message))
    if problems:
        raise ScenarioError(tuple(problems))
    return Grid(tuple(found), tuple(range(scenario.seed, scenario.seed + seeds)))


def value_text(value: Any) -> str:
    """A value as its writer would recognise it, on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _section(scenario: Scenario) -> dict[str, Node]:
    """The section ``sweep``, whose form has been checked when the file was loaded."""
    section = (scenario.source.tree.mapping or {}).get("sweep")
    return (section.mapping or {}) if section is not None else {}


def _read_section(section: dict[str, Node], problems: list[Problem]) -> list[Knob | None]:
    vary = section.get("vary")
    knobs: list[Knob | None] = []
    for key, node in ((vary.mapping or {}) if vary is not None else {}).items():
        if isinstance(node.value, str):
            knobs.append(_knob(key, node.value, node.place, f"sweep.vary.{key}", problems))
        elif isinstance(node.value, list):
            knobs.append(Knob(key, tuple(item.plain() for item in node.value), node.place))
    return knobs


def _read_option(option: str, problems: list[Problem]) -> Knob | None:
    place = Place(f"--vary {option}", 0, 0)
    key, equals, text = option.partition("=")
    if not equals or not all(key.strip().split(".")):
        problems.append(problem_at(place, "", "expected KEY=V1,V2,... or KEY=START:STOP:STEP"))
        return None
    return _knob(key.strip(), text, place, key.strip(), problems)


def _knob(key: str, text: str, place: Place, name: str, problems: list[Problem]) -> Knob | None:
    """A knob from the text of its values; None if ``problems`` got one."""
    if is_range(text):
        try:
            return Knob(key, range_values(text), place)
        except ValueError as error:
            problems.append(problem_at(place, name, str(error)))
            return None
    tree, wrong = read_tree(f"[{text}]", place.file)
    if wrong:
        problems.append(problem_at(place, name, f"found '{text}', expected V1,V2,... or START:STOP:STEP"))
        return None
    values = tree.plain() if tree is not None else []
    if not values:
        problems.append(problem_at(place, name, "found no value, expected V1,V2,... or START:STOP:STEP"))
        return None
    return Knob(key, tuple(values), place)


def _key_problems(knob: Knob, before: Sequence[Knob]) -> list[Problem]:
    if knob.key.split(".")[0] in _NOT_VARIED:
        return [problem_at(knob.place, knob.key, _NOT_VARIED[knob.key.split(".")[0]])]
    if any(knob.key == other.key for other in before):
        return [problem_at(knob.place, knob.key, "found twice, expected each key once")]
    return []
