"""From what pydantic found to lines that a person can act on: place, key, what was found, what is expected.

It must not check anything itself.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kvsim.errors import Problem
from kvsim.scenario.merge import PRESET_KEYS, nearest
from kvsim.scenario.tree import Node, Place, found, problem_at

_EXPECTED_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "string_too_short": "text",
    "bool_type": "true or false",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "finite_number": "a finite number",
    "string_pattern_mismatch": "a name of letters, digits, - and _ that starts with a letter",
}


class Report:
    """Collects problems of one tree. Paths are keys from the root of the scenario."""

    def __init__(self, tree: Node) -> None:
        self.problems: list[Problem] = []
        self._tree = tree

    def add(self, path: Sequence[str], message: str) -> None:
        """A problem with the value at ``path``, or with its absence."""
        self.problems.append(problem_at(self.place(path), ".".join(path), message))

    def place(self, path: Sequence[str]) -> Place:
        """Where the value at ``path`` is written, or the key of a mapping."""
        node, _ = self._tree.find(path)
        return node.place if node.mapping is None else node.key_place

    def add_validation(self, error: ValidationError, model: type[BaseModel]) -> None:
        """Everything that pydantic found while checking the tree against ``model``."""
        for details in error.errors(include_url=False):
            self._add_details(details, model)

    def _add_details(self, details: ErrorDetails, model: type[BaseModel]) -> None:
        location = details["loc"]
        node, keys = self._tree.find(location)
        last = str(location[-1]) if location else ""
        match details["type"]:
            case "missing":
                self.add([*keys, last], "missing, expected this key")
            case "extra_forbidden":
                known = _keys_at(model, location[:-1])
                expected = f"unknown key{nearest(last, known)}, expected one of: {', '.join(known)}"
                self.problems.append(problem_at(node.key_place, ".".join(keys), expected))
            case "union_tag_not_found":
                kinds = ", ".join(_kinds_at(model, location))
                self.add([*keys, "kind"], f"missing, expected one of: {kinds}")
            case "union_tag_invalid":
                tag = str(details["ctx"]["tag"])
                tags = _quoted(details["ctx"]["expected_tags"])
                self.add([*keys, "kind"], f"found '{tag}'{nearest(tag, tags)}, expected one of: {', '.join(tags)}")
            case _ if last == "[key]":
                message = f"found '{keys[-1]}', expected {_EXPECTED_TYPES['string_pattern_mismatch']}"
                self.problems.append(problem_at(node.key_place, ".".join(keys), message))
            case _:
                self.add(keys, _message(details, keys[-1] if keys else ""))


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Without repetition, in the order of the file; what has no line, as an option, comes last."""
    unique = dict.fromkeys(problems)
    return tuple(sorted(unique, key=lambda problem: (problem.line == 0, problem.line, problem.column)))


def _message(details: ErrorDetails, key: str) -> str:
    value, kind = details["input"], details["type"]
    context: Mapping[str, Any] = details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        names = _quoted(context["expected"]) or [context["expected"]]
        return f"found {found(value)}{nearest(str(value), names)}, expected one of: {', '.join(names)}"
    if kind in _EXPECTED_TYPES:
        name = _name_of_start(key) if kind.startswith("model") else ""
        return f"found {found(value)}, expected {name}{_EXPECTED_TYPES[kind]}"
    for name, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if name in context:
            return f"found {found(value)}, expected {words} {context[name]}"
    if kind == "too_short":
        return f"found {found(value)}, expected at least one entry"
    return f"found {found(value)}: {details['msg']}"


def _name_of_start(key: str) -> str:
    """What may stand for a mapping under this key, beside the mapping."""
    if key in PRESET_KEYS:
        return "a preset's name or "
    return "a file's name or " if key == "profile" else ""


def _quoted(text: str) -> list[str]:
    """The names in pydantic's ``'a', 'b' or 'c'``."""
    return re.findall(r"'([^']*)'", text)


def _keys_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys that a mapping at this place may have."""
    keys = [key for candidate in _models(_annotation_at(model, location)) for key in candidate.model_fields]
    if location and location[-1] in PRESET_KEYS:
        keys.append("preset")
    if location and location[-1] == "profile":
        keys.append("file")
    return list(dict.fromkeys(keys))


def _kinds_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    return [kind for candidate in _models(_annotation_at(model, location)) for kind in _kinds(candidate)]


def _annotation_at(model: type[BaseModel], location: Sequence[int | str]) -> Any:
    """The type that pydantic expects at an error's location, which names keys and members of unions."""
    annotation: Any = model
    for step in location:
        models = _models(annotation)
        values = [get_args(part)[1] for part in _parts(annotation) if get_origin(part) is dict]
        fields = [candidate.model_fields[step] for candidate in models if step in candidate.model_fields]
        members = [candidate for candidate in models if step in _kinds(candidate)]
        items = [get_args(part)[0] for part in _parts(annotation) if get_origin(part) is list]
        if isinstance(step, int) and items:
            annotation = items[0]
        elif fields:
            annotation = fields[0].annotation
        elif values:
            annotation = values[0]
        elif members:
            annotation = members[0]
    return annotation


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]


def _parts(annotation: Any) -> list[Any]:
    """The members of a union, however nested; a type that is none is its only member."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _parts(get_args(annotation)[0])
    if origin is Union or origin is UnionType:
        return [part for member in get_args(annotation) for part in _parts(member)]
    return [annotation]


def _kinds(model: type[BaseModel]) -> list[str]:
    field = model.model_fields.get("kind")
    return list(get_args(field.annotation)) if field and get_origin(field.annotation) is Literal else []
