"""Every number of a scenario with its unit and its source: what ``kvsim explain`` shows.

A number is what the resolved scenario holds: written in a file, given as an option, brought by a preset or a profile, a
default, or derived from others. It must not run anything.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kvsim.presets import Preset, load_gpus, load_models, load_nics
from kvsim.scenario.explain_derived import derived_numbers
from kvsim.scenario.explain_units import unit_of
from kvsim.scenario.merge import merge
from kvsim.scenario.schema import Document
from kvsim.scenario.tree import Node, Place, to_tree
from kvsim.scenario.values import Scenario

Path = tuple[int | str, ...]

_QUANTITY = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?\s+\S.*")
_PRESETS: dict[str, Callable[[], Mapping[str, Preset[Any]]]] = {
    "model": load_models,
    "gpu": load_gpus,
    "nic": load_nics,
}


@dataclass(frozen=True, slots=True)
class Number:
    """``key`` is dotted, as ``--set`` takes it, with [i] for a place in a list. ``value`` is without its unit."""

    variant: str
    key: str
    value: str
    unit: str
    source: str

    def as_mapping(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def explain(scenario: Scenario) -> list[Number]:
    """Every number of every variant, in the order of the resolved scenario, then what is derived from them."""
    numbers: list[Number] = []
    for variant in scenario.variants:
        document = variant_document(scenario, variant.name)
        tree = scenario.source.expanded[variant.name]
        for path, value in leaves(document):
            text, unit = split(value, path)
            numbers.append(Number(variant.name, dotted(path), text, unit, _source(path, tree, scenario.path)))
        for key, text, unit, source in derived_numbers(Document.model_validate(tree.plain()), variant):
            numbers.append(Number(variant.name, key, text, unit, source))
    return _derived_last(numbers)


def variant_document(scenario: Scenario, name: str) -> dict[str, Any]:
    """One variant of the resolved scenario in full."""
    common = {key: value for key, value in scenario.document.items() if key != "variants"}
    change = (scenario.document.get("variants") or {}).get(name) or {}
    place = Place(scenario.path, 0, 0)
    document: dict[str, Any] = merge(to_tree(common, place), to_tree(change, place)).plain()
    return document


def leaves(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """The numbers in nested mappings and lists: numbers, and texts that are a number with a unit."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from leaves(child, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from leaves(child, (*path, index))
    elif (isinstance(value, int | float) and not isinstance(value, bool)) or (
        isinstance(value, str) and path[-1] not in ("name", "description") and _QUANTITY.fullmatch(value)
    ):
        yield path, value


def split(value: object, path: Path) -> tuple[str, str]:
    """A number and its unit: a quantity carries its own, others have that of their key."""
    if isinstance(value, str):
        number, _, unit = value.partition(" ")
        return number, unit.strip()
    keys = [step for step in path if isinstance(step, str)]
    return f"{value:g}" if isinstance(value, float) else str(value), unit_of(keys)


def dotted(path: Path) -> str:
    """``workers.prefill.gpu.all_reduce[0].times[3]``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else ("." if text else "") + step
    return text


def _source(path: Path, tree: Node, file: str) -> str:
    node, keys = tree.find(path)
    if len(keys) == len(path):
        return _place(node.place, path, file)
    return "derived, see below" if _is_derived(path) else _default(path, len(keys))


def _place(place: Place, path: Path, file: str) -> str:
    where = f"{place.file}:{place.line}" if place.line else place.file
    if place.origin:
        name = place.origin.removeprefix("preset ")
        for key, presets in _PRESETS.items():
            known = presets()
            if key in path and name in known:
                return f"{place.origin} ({where}): {known[name].source}"
        return f"transport {name} of the pool's profile ({where})"
    if not place.line:
        return where  # an option, or a mapping that a program has built
    return where if place.file == file else f"profile {where}"


def _is_derived(path: Path) -> bool:
    return path[-1] in ("kv_blocks", "decision", "handshake")


def _default(path: Path, known: int) -> str:
    """The schema's default: of this key, or of a mapping that holds it and was left out as a whole."""
    whose = ".".join(str(step) for step in path[: known + 1])
    return "default of the schema" if known + 1 >= len(path) else f"default of the schema for {whose}"


def _derived_last(numbers: list[Number]) -> list[Number]:
    return [one for one in numbers if not one.key.startswith("derived.")] + [
        one for one in numbers if one.key.startswith("derived.")
    ]
