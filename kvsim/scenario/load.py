"""Scenario files in, validated values out: the one way from YAML, options and presets to a ``Scenario``.

Every problem of every variant is found in one pass and told with its place. It must not run anything.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from pydantic import ValidationError

from kvsim.errors import Problem, ScenarioError
from kvsim.presets import load_gpus, load_models, load_nics
from kvsim.scenario.document import join_variants, resolved_mapping
from kvsim.scenario.merge import PresetFields, apply_override, expand_presets, merge, nest_dotted_keys
from kvsim.scenario.problems import Report, in_order
from kvsim.scenario.profiles import ProfileFiles
from kvsim.scenario.resolve import resolve_variant
from kvsim.scenario.schema import VARIANT_PATTERN, Document
from kvsim.scenario.sweep_schema import Sweep
from kvsim.scenario.tree import Node, Place, found, problem_at, read_file, to_tree, with_prefix
from kvsim.scenario.values import Scenario, Source, Variant

_SAME_IN_ALL_VARIANTS = ("name", "description", "seed", "real", "tolerance", "sweep", "variants")
_NOT_IN_VARIANTS = ("sweep", "variants")


def load_scenario(path: str | Path, overrides: Sequence[str] = (), seed: int | None = None) -> Scenario:
    """Read a scenario file. ``overrides`` are ``KEY=VALUE`` texts; ``seed`` replaces that of the file.

    Raises ScenarioError with everything that is wrong, in the order of the file.
    """
    tree, problems = read_file(str(path), "scenario")
    if tree is None:
        raise ScenarioError(in_order(problems))
    return _scenario(tree, problems, overrides, seed, str(path), Path(path).parent)


def scenario_from_mapping(
    mapping: Mapping[str, Any],
    overrides: Sequence[str] = (),
    seed: int | None = None,
    directory: str | Path = ".",
) -> Scenario:
    """The same from a mapping, as a notebook builds one. Files that it names may be relative to ``directory``."""
    place = Place("scenario", 0, 0)
    return _scenario(to_tree(mapping, place), [], overrides, seed, place.file, Path(directory))


def with_changes(scenario: Scenario, overrides: Sequence[str] = (), seed: int | None = None) -> Scenario:
    """The scenario as if further ``KEY=VALUE`` texts had been given when it was loaded. Raises ScenarioError."""
    return _scenario(scenario.source.tree, [], overrides, seed, scenario.path, scenario.source.directory)


def _scenario(
    tree: Node, problems: list[Problem], overrides: Sequence[str], seed: int | None, path: str, directory: Path
) -> Scenario:
    if tree.mapping is None:
        problems.append(problem_at(tree.place, "", f"found {found(tree.plain())}, expected a mapping"))
        raise ScenarioError(in_order(problems))
    for option in overrides:
        tree, wrong = apply_override(tree, option)
        problems.extend(wrong)
    tree = _with_defaults(tree, seed, Path(path).stem)
    problems.extend(_sweep_problems(tree))
    trees, wrong = _variant_trees(tree)
    problems.extend(wrong)
    presets: PresetFields = {
        "model": {name: preset.fields for name, preset in load_models().items()},
        "gpu": {name: preset.fields for name, preset in load_gpus().items()},
        "nic": {name: preset.fields for name, preset in load_nics().items()},
    }
    profiles = ProfileFiles(directory, presets["nic"])
    variants: list[Variant] = []
    mappings: dict[str, dict[str, Any]] = {}
    expanded: dict[str, Node] = {}
    found_by_variant: dict[str, list[Problem]] = {}
    for name, variant_tree in trees.items():
        outcome = _variant(name, variant_tree, presets, profiles, directory)
        if isinstance(outcome, list):
            found_by_variant[name] = outcome
        else:
            variant, mappings[name], expanded[name] = outcome
            variants.append(variant)
    problems.extend(_naming_variants(found_by_variant, len(trees)))
    if problems:
        raise ScenarioError(in_order(problems))
    document = join_variants(mappings)
    return Scenario(
        path, document["name"], document["seed"], tuple(variants), document, Source(tree, directory, expanded)
    )


def _variant(
    name: str, tree: Node, presets: PresetFields, profiles: ProfileFiles, directory: Path
) -> tuple[Variant, dict[str, Any], Node] | list[Problem]:
    """One variant, its document in full and with the places of its values, or what is wrong with it."""
    tree, problems = profiles.expand(tree)
    if problems:
        return problems  # without its profile a variant would only be told what it lacks
    tree, problems = expand_presets(tree, presets)
    report = Report(tree)
    report.problems.extend(problems)
    try:
        document = Document.model_validate(tree.plain())
    except ValidationError as error:
        report.add_validation(error, Document)
        return report.problems
    resolved = resolve_variant(name, document, report, directory)
    if resolved is None:
        return report.problems
    return resolved.variant, resolved_mapping(document, resolved), tree


def _variant_trees(tree: Node) -> tuple[dict[str, Node], list[Problem]]:
    """The file once for each of its variants, with the variant merged over it."""
    assert tree.mapping is not None, "a scenario that is no mapping"
    base = replace(tree, value={key: node for key, node in tree.mapping.items() if key not in _NOT_IN_VARIANTS})
    variants = tree.mapping.get("variants")
    if variants is None or variants.value is None:
        return {"base": base}, []
    if not variants.mapping:
        message = f"found {found(variants.plain())}, expected a mapping from names to changes"
        return {"base": base}, [problem_at(variants.place, "variants", message)]
    trees: dict[str, Node] = {}
    problems: list[Problem] = []
    for name, node in variants.mapping.items():
        patch = replace(node, value={}) if node.value is None else node
        wrong = _variant_problems(name, patch)
        problems.extend(wrong)
        if patch.mapping is not None:
            allowed = {key: child for key, child in patch.mapping.items() if not _is_same_in_all_variants(key)}
            patch = nest_dotted_keys(replace(patch, value=allowed))
            trees[name] = merge(base, with_prefix(patch, f"variants.{name}."))
    return trees, problems


def _variant_problems(name: str, patch: Node) -> list[Problem]:
    key = f"variants.{name}"
    if not re.fullmatch(VARIANT_PATTERN, name):
        return [problem_at(patch.key_place, key, f"found '{name}', expected a name of letters, digits, - and _")]
    if patch.mapping is None:
        return [problem_at(patch.place, key, f"found {found(patch.plain())}, expected a mapping of changes")]
    return [
        problem_at(child.key_place, f"{key}.{inner}", "the same for all variants, expected at the top of the file only")
        for inner, child in patch.mapping.items()
        if _is_same_in_all_variants(inner)
    ]


def _sweep_problems(tree: Node) -> list[Problem]:
    """What is wrong with the form of the section ``sweep``; whether its keys exist shows when it is swept."""
    section = (tree.mapping or {}).get("sweep")
    if section is None or section.value is None:
        return []
    report = Report(with_prefix(section, "sweep."))
    try:
        Sweep.model_validate(section.plain())
    except ValidationError as error:
        report.add_validation(error, Sweep)
    return report.problems


def _is_same_in_all_variants(key: str) -> bool:
    return key.partition(".")[0] in _SAME_IN_ALL_VARIANTS


def _with_defaults(tree: Node, seed: int | None, name: str) -> Node:
    """The file with the seed that was asked for, and with a name."""
    assert tree.mapping is not None, "a scenario that is no mapping"
    children = dict(tree.mapping)
    if "name" not in children:
        children["name"] = Node(name, tree.place, tree.key_place)
    if seed is not None:
        place = Place(f"--seed {seed}", 0, 0)
        children["seed"] = Node(seed, place, place)
    return replace(tree, value=children)


def _naming_variants(found_by_variant: Mapping[str, list[Problem]], variants: int) -> list[Problem]:
    """Each problem once. One of the file itself that only some variants have says which.

    Variants may tell the same problem in other numbers (how much memory is missing); the first one's words are kept.
    """
    first_by_place: dict[tuple[str, int, int, str], tuple[list[Problem], list[str]]] = {}
    for name, problems in found_by_variant.items():
        own: dict[tuple[str, int, int, str], list[Problem]] = {}
        for problem in dict.fromkeys(problems):
            own.setdefault((problem.file, problem.line, problem.column, problem.key), []).append(problem)
        for place, here in own.items():
            first_by_place.setdefault(place, (here, []))[1].append(name)
    named: list[Problem] = []
    for here, names in first_by_place.values():
        word = "variant" if len(names) == 1 else "variants"
        told_by_key = here[0].key.startswith("variants.")
        suffix = "" if told_by_key or len(names) == variants else f" ({word} {', '.join(names)})"
        named.extend(replace(problem, message=problem.message + suffix) for problem in here)
    return named
