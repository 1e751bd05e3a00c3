"""YAML text as a tree whose every value knows its place in the file.

Places travel with the values through merging and overriding, so a problem found at the end can still be shown where it
was written. Duplicate keys are refused: YAML would silently keep the last one. It must not know what keys mean.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import yaml
from msgspec.structs import replace

from kvsim.errors import Problem

try:
    from yaml import CSafeLoader as _BaseLoader
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader as _BaseLoader  # type: ignore[assignment]

Scalar: TypeAlias = object
"""What a YAML scalar stands for: text, int, float, bool, None, or a date."""

_MAPPING_TAG = "tag:yaml.org,2002:map"
_DEPTH_MAX = 50  # a scenario needs 6; deeper text is a mistake, and an alias of itself has no end


class Place(msgspec.Struct, frozen=True):
    """``line`` and ``column`` count from 1; line 0 is a place outside of any file, as a command line option.

    ``prefix`` goes before the key in messages: a key inside a variant is named with the variant. ``origin``: what is
    named at this place and holds the value, such as a preset.
    """

    file: str
    line: int
    column: int
    prefix: str = ""
    origin: str = ""


class Node(msgspec.Struct, frozen=True):
    """A value, where it is and where its key is. ``value`` is a scalar, a dict of Nodes or a list of Nodes."""

    value: "Scalar | dict[str, Node] | list[Node]"
    place: Place
    key_place: Place

    @property
    def mapping(self) -> "dict[str, Node] | None":
        """The value if it is a mapping."""
        return self.value if isinstance(self.value, dict) else None

    def plain(self) -> Any:
        """The value without places. Keys whose value is null count as absent."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items() if node.value is not None}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def find(self, path: Sequence[int | str]) -> "tuple[Node, list[str]]":
        """The deepest node on the way along ``path``, and the keys that lead to it.

        Steps that the tree does not have are passed over: pydantic names the member of a union there.
        """
        node, keys = self, []
        for step in path:
            child: Node | None = None
            if isinstance(node.value, dict) and isinstance(step, str):
                child = node.value.get(step)
            elif isinstance(node.value, list) and str(step).isdecimal() and int(step) < len(node.value):
                child = node.value[int(step)]
            if child is not None:
                node = child
                keys.append(str(step))
        return node, keys


class _Loader(_BaseLoader):
    """YAML's safe types, with numbers such as 1e-3 as in YAML 1.2 (PyYAML reads them as text)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


def read_tree(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """The one document in ``text`` (None if it has none) and everything that is wrong with it as YAML."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        return None, [_syntax_problem(error, file)]
    finally:
        loader.dispose()
    if root is None:
        return None, []
    builder = _Builder(file)
    tree = builder.build(root)
    return (None if builder.gave_up else tree), builder.problems


def read_file(path: str, what: str) -> tuple[Node | None, list[Problem]]:
    """The document in a file and everything that is wrong with it as YAML. ``what``: how messages call it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return None, [Problem(path, 0, 0, "", f"cannot read the {what}: {reason}")]
    except UnicodeDecodeError:
        return None, [Problem(path, 0, 0, "", f"cannot read the {what}: not UTF-8 text")]
    tree, problems = read_tree(text, path)
    if tree is None and not problems:
        problems = [Problem(path, 0, 0, "", f"found an empty file, expected a {what}")]
    return tree, problems


def to_tree(value: object, place: Place) -> Node:
    """A value that was not read from a file, as a tree. Keys become text, tuples become lists."""
    if isinstance(value, Mapping):
        return Node({str(key): to_tree(child, place) for key, child in value.items()}, place, place)
    if isinstance(value, list | tuple):
        return Node([to_tree(item, place) for item in value], place, place)
    return Node(value, place, place)


def relocate(node: Node, place: Place) -> Node:
    """The same value as if all of it stood at one place, as the value of an option does."""
    return _map_places(node, lambda _: place)


def with_prefix(node: Node, prefix: str) -> Node:
    """The same node whose keys are named with ``prefix`` in messages."""
    return _map_places(node, lambda place: replace(place, prefix=prefix))


def problem_at(place: Place, key: str, message: str) -> Problem:
    """A problem at a place, the key named in full."""
    return Problem(place.file, place.line, place.column, place.prefix + key, message)


def found(value: object) -> str:
    """A value as its writer would recognise it."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"'{value}'" if isinstance(value, str) else str(value)


def _map_places(node: Node, change: Callable[[Place], Place]) -> Node:
    value = node.value
    if isinstance(value, dict):
        value = {key: _map_places(child, change) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_map_places(child, change) for child in value]
    return Node(value, change(node.place), change(node.key_place))


def _syntax_problem(error: yaml.YAMLError, file: str) -> Problem:
    if not isinstance(error, yaml.MarkedYAMLError):
        return Problem(file, 0, 0, "", f"not valid YAML: {' '.join(str(error).split())}")
    line, column = (error.problem_mark.line + 1, error.problem_mark.column + 1) if error.problem_mark else (0, 0)
    what = ", ".join(part for part in (error.context, error.problem) if part)
    return Problem(file, line, column, "", f"not valid YAML: {what}")


class _Builder:
    """Turns YAML nodes into Nodes; keeps going after a problem, so that all are found."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self.gave_up = False
        self._file = file
        self._constructor = _Loader("")
        self._built: dict[int, Node] = {}  # aliases share their YAML node

    def build(self, root: yaml.Node) -> Node:
        return self._node(root, self._place(root), "", 0)

    def _node(self, node: yaml.Node, key_place: Place, path: str, depth: int) -> Node:
        if depth > _DEPTH_MAX:
            if not self.gave_up:
                self._report(node, "", f"nested more than {_DEPTH_MAX} levels deep, or an alias of itself")
            self.gave_up = True
            return Node(None, self._place(node), key_place)
        known = self._built.get(id(node))
        if known is not None:
            return replace(known, key_place=key_place)
        value: Scalar | dict[str, Node] | list[Node]
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(node, path, depth)
        elif isinstance(node, yaml.SequenceNode):
            value = [
                self._node(item, self._place(item), f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value)
            ]
        else:
            value = self._scalar(node, path)
        built = self._built[id(node)] = Node(value, self._place(node), key_place)
        return built

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Node]:
        if node.tag != _MAPPING_TAG:
            self._report(node, path, f"found the YAML tag {node.tag}, expected a plain mapping")
            return {}
        self._refuse_duplicates(node, path)
        try:
            self._constructor.flatten_mapping(node)  # merge keys (<<): what they bring comes first, own keys win
        except yaml.YAMLError as error:
            self._report(node, path, f"not valid YAML: {error}")
        mapping: dict[str, Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._report(key_node, path, "found a mapping or a list as a key, expected text")
                continue
            key = key_node.value  # as written: 1, no and 2024-01-01 are names here, not numbers, flags and dates
            child_path = f"{path}.{key}" if path else key
            mapping[key] = self._node(value_node, self._place(key_node), child_path, depth + 1)
        return mapping

    def _refuse_duplicates(self, node: yaml.MappingNode, path: str) -> None:
        first_lines: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in first_lines:
                key = f"{path}.{key_node.value}" if path else key_node.value
                self._report(key_node, key, f"found twice, first on line {first_lines[key_node.value]}, expected once")
            else:
                first_lines[key_node.value] = key_node.start_mark.line + 1

    def _scalar(self, node: yaml.Node, path: str) -> Scalar:
        try:
            return self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            what = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
            self._report(node, path, f"not valid YAML: {what}")
            return None

    def _place(self, node: yaml.Node) -> Place:
        return Place(self._file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _report(self, node: yaml.Node, key: str, message: str) -> None:
        self.problems.append(problem_at(self._place(node), key, message))
