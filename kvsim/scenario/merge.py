"""Changes laid over a scenario tree: variants, ``--set`` options and the fields of presets.

A change is a mapping that is merged key by key, however deep. Three rules keep merged mappings meaningful:
- null removes a key, so its default counts again;
- a mapping laid over a preset's name changes fields of that preset, and a mapping that names a preset starts from it
  (the same with the name of a profile's file);
- a change of ``kind`` drops the other keys, which belong to the old kind (all but ``rate``, which every kind has).

It must not know which keys a scenario has, beyond those that take presets.
"""

import difflib
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from kvsim.errors import Problem
from kvsim.scenario.tree import Node, Place, found, problem_at, read_tree, relocate, to_tree

PRESET_KEYS = ("model", "gpu", "nic")
"""Keys whose value is a preset's name, or a mapping that may name one under ``preset``."""

_START_KEYS = {"profile": "file"} | dict.fromkeys(PRESET_KEYS, "preset")
"""Key whose value may be the name of something -> how a mapping says that it starts from that."""

PresetFields = Mapping[str, Mapping[str, Mapping[str, object]]]
"""Key of PRESET_KEYS -> preset's name -> its fields as written."""

_SHARED_BY_KINDS = ("rate",)


def merge(base: Node | None, patch: Node, key: str = "") -> Node:
    """``base``, the value of ``key``, with ``patch`` laid over it. Neither is changed."""
    patch_map = patch.mapping
    if base is None or patch_map is None:
        return patch
    base_map = base.mapping
    if key in _START_KEYS:
        if "preset" in patch_map or "file" in patch_map:
            return patch
        if isinstance(base.value, str):
            base_map = {_START_KEYS[key]: base}
    if base_map is None:
        return patch
    place = base
    if _kind(patch_map) not in (None, _kind(base_map)):
        base_map = {name: base_map[name] for name in _SHARED_BY_KINDS if name in base_map}
        place = patch
    merged = dict(base_map)
    for name, child in patch_map.items():
        merged[name] = merge(base_map.get(name), child, name)
    return Node(merged, place.place, place.key_place)


def nest_dotted_keys(node: Node) -> Node:
    """``{transfer.mode: push}`` as ``{transfer: {mode: push}}``, at every level."""
    if node.mapping is None:
        return node
    nested = Node({}, node.place, node.key_place)
    for key, child in node.mapping.items():
        first, *rest = key.split(".")
        value = nest_dotted_keys(child)
        for name in reversed(rest):
            value = Node({name: value}, child.place, child.key_place)
        nested = merge(nested, Node({first: value}, node.place, node.key_place))
    return nested


def apply_override(tree: Node, option: str) -> tuple[Node, list[Problem]]:
    """``tree`` with one ``KEY=VALUE`` of the command line laid over it; VALUE is read as YAML, KEY has dots.

    A variant set to null is dropped (in a file, a variant without changes may be left empty).
    """
    place = Place(f"--set {option}", 0, 0)
    key, equals, text = option.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        return tree, [problem_at(place, "", "expected KEY=VALUE, such as transfer.mode=push")]
    value, problems = read_tree(text, place.file)
    if problems:
        return tree, [problem_at(place, key.strip(), problem.message) for problem in problems]
    if names[0] == "variants" and len(names) == 2 and (value is None or value.value is None):
        return _without_variant(tree, names[1]), []
    patch = relocate(value, place) if value is not None else Node(None, place, place)
    for name in reversed(names):
        patch = Node({name: patch}, place, place)
    return merge(tree, patch), []


def expand_presets(tree: Node, presets: PresetFields) -> tuple[Node, list[Problem]]:
    """``tree`` with every preset's name replaced by its fields.

    An unknown name is reported and another preset stands in for it, so that the rest can still be checked.
    """
    problems: list[Problem] = []
    tree = _expand_children(tree, "", ("model",), presets, problems)
    workers = (tree.mapping or {}).get("workers")
    if workers is None or workers.mapping is None:
        return tree, problems
    pools = {
        name: _expand_children(pool, f"workers.{name}.", ("gpu", "nic"), presets, problems)
        for name, pool in workers.mapping.items()
    }
    return replace(tree, value={**(tree.mapping or {}), "workers": replace(workers, value=pools)}), problems


def nearest(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the known name most like this one, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _kind(mapping: Mapping[str, Node]) -> object:
    """Which of several forms a mapping has, if it says so. Pairs of lengths need not."""
    if "kind" in mapping:
        return mapping["kind"].value
    return "pairs" if "prompt_tokens" in mapping or "output_tokens" in mapping else None


def _without_variant(tree: Node, name: str) -> Node:
    children = dict(tree.mapping or {})
    variants = children.get("variants")
    if variants is None or variants.mapping is None:
        return tree
    kept = {key: child for key, child in variants.mapping.items() if key != name}
    children["variants"] = replace(variants, value=kept)
    return replace(tree, value=children)


def _expand_children(
    node: Node, prefix: str, keys: Iterable[str], presets: PresetFields, problems: list[Problem]
) -> Node:
    if node.mapping is None:
        return node
    children = dict(node.mapping)
    for key in keys:
        if key in children and not (key == "gpu" and children[key].value == "none"):
            children[key] = expand_preset(children[key], prefix + key, presets[key], problems)
    return replace(node, value=children)


def expand_preset(node: Node, path: str, known: Mapping[str, Mapping[str, object]], problems: list[Problem]) -> Node:
    """A preset's name, or a mapping with one, as the mapping that it stands for. Anything else is left as it is."""
    if isinstance(node.value, str):
        name, own = node, {}
    elif node.mapping is not None and "preset" in node.mapping:
        name, own = node.mapping["preset"], {key: child for key, child in node.mapping.items() if key != "preset"}
    else:
        return node
    fields = known.get(name.value) if isinstance(name.value, str) else None
    if fields is None:
        near = nearest(str(name.value), known)
        message = (
            f"found {found(name.plain())}, expected a preset{near}: {', '.join(known)}; or a mapping with all fields"
        )
        problems.append(problem_at(name.place, path, message))
        fields = next(iter(known.values()))
    place = replace(name.place, origin=f"preset {name.value}")
    from_preset = {key: replace(to_tree(value, place), key_place=name.key_place) for key, value in fields.items()}
    return merge(Node(from_preset, node.place, node.key_place), Node(own, node.place, node.key_place))
