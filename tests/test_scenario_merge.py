"""YAML as a tree with places; variants, options and presets laid over it."""

import pytest

from kvsim.scenario.merge import apply_override, expand_presets, merge, nest_dotted_keys
from kvsim.scenario.tree import Node, Place, read_tree, to_tree

PLACE = Place("test", 0, 0)


def tree_of(text: str) -> Node:
    tree, problems = read_tree(text, "f.yaml")
    assert not problems
    assert tree is not None
    return tree


def merged(base: object, patch: object) -> object:
    return merge(to_tree(base, PLACE), to_tree(patch, PLACE)).plain()


def test_values_know_their_line_and_column() -> None:
    tree = tree_of("a: 1\nb:\n  c: [x, y]\n")
    node, keys = tree.find(["b", "c", 1])
    assert (node.value, node.place.line, node.place.column, keys) == ("y", 3, 10, ["b", "c", "1"])
    assert (tree.find(["b", "c"])[0].key_place.line, tree.find(["b", "c"])[0].key_place.column) == (3, 3)
    assert tree.find(["b", "union-member", "c"])[1] == ["b", "c"]


def test_numbers_with_exponents_are_numbers_and_keys_are_always_text() -> None:
    assert tree_of("{a: 1e-3, b: 2E5, c: 1.5, 1: x, no: y}").plain() == {
        "a": 0.001,
        "b": 200_000.0,
        "c": 1.5,
        "1": "x",
        "no": "y",
    }


def test_anchors_and_merge_keys_work_and_own_keys_win() -> None:
    assert tree_of("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n").plain() == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml:3:1: a: found twice, first on line 1, expected once"),
        ("a: {b: 1, b: 2}", "f.yaml:1:11: a.b: found twice, first on line 1, expected once"),
        ("a: [1\nb: 2", "f.yaml:2:2: not valid YAML: while parsing a flow sequence, did not find expected ',' or ']'"),
        ("a: &x [*x]", "f.yaml:1:4: nested more than 50 levels deep, or an alias of itself"),
        ("a: !!python/name:os.system ''", "f.yaml:1:4: a: not valid YAML: could not determine a constructor"),
        ("a: !set {b}", "f.yaml:1:4: a: found the YAML tag !set, expected a plain mapping"),
        ("? [1]\n: 2", "f.yaml:1:3: found a mapping or a list as a key, expected text"),
        ("a: 2024-99-01", "f.yaml:1:4: a: not valid YAML: month must be in 1..12"),
        ("a: \x01", "f.yaml: not valid YAML: unacceptable character"),
    ],
)
def test_what_is_wrong_as_yaml_is_told_with_its_place(text: str, message: str) -> None:
    _, problems = read_tree(text, "f.yaml")
    assert len(problems) == 1
    assert str(problems[0]).startswith(message)


def test_mappings_merge_deeply_and_other_values_replace() -> None:
    assert merged({"a": {"x": 1, "y": [1, 2]}, "b": 1}, {"a": {"y": [3]}, "c": 2}) == {
        "a": {"x": 1, "y": [3]},
        "b": 1,
        "c": 2,
    }


def test_null_removes_a_key() -> None:
    assert merged({"a": {"x": 1, "y": 2}}, {"a": {"x": None}}) == {"a": {"y": 2}}


def test_a_change_of_kind_drops_what_belongs_to_the_old_kind_but_not_the_rate() -> None:
    arrivals = {"kind": "gamma", "rate": "4 req/s", "cv": 2}
    assert merged({"arrivals": arrivals}, {"arrivals": {"kind": "poisson"}}) == {
        "arrivals": {"kind": "poisson", "rate": "4 req/s"}
    }
    assert merged({"arrivals": arrivals}, {"arrivals": {"cv": 3}}) == {"arrivals": {**arrivals, "cv": 3}}


def test_pairs_of_lengths_replace_a_file_of_lengths() -> None:
    fixed = {"kind": "fixed", "tokens": 1}
    pairs = {"prompt_tokens": fixed, "output_tokens": fixed}
    assert merged({"lengths": {"kind": "empirical", "path": "x"}}, {"lengths": pairs}) == {"lengths": pairs}
    assert merged({"lengths": pairs}, {"lengths": {"output_tokens": {"tokens": 9}}}) == {
        "lengths": {"prompt_tokens": fixed, "output_tokens": {"kind": "fixed", "tokens": 9}}
    }


def test_fields_laid_over_a_preset_name_change_that_preset() -> None:
    assert merged({"gpu": "h100"}, {"gpu": {"step": "1 ms"}}) == {"gpu": {"preset": "h100", "step": "1 ms"}}
    assert merged({"gpu": {"preset": "h100", "step": "1 ms"}}, {"gpu": {"preset": "a100"}}) == {
        "gpu": {"preset": "a100"}
    }
    assert merged({"gpu": {"preset": "h100"}}, {"gpu": "a100"}) == {"gpu": "a100"}


def test_dotted_keys_are_nested() -> None:
    node = to_tree({"a.b.c": 1, "a": {"d": 2, "e.f": 3}}, PLACE)
    assert nest_dotted_keys(node).plain() == {"a": {"b": {"c": 1}, "d": 2, "e": {"f": 3}}}


def test_an_option_sets_one_value_read_as_yaml() -> None:
    tree = to_tree({"a": {"b": 1}}, PLACE)
    for option, expected in [
        ("a.b=2", {"a": {"b": 2}}),
        ("a.c=400 Gbit/s", {"a": {"b": 1, "c": "400 Gbit/s"}}),
        ("a={c: [1, 2]}", {"a": {"b": 1, "c": [1, 2]}}),
        ("a.b=null", {"a": {}}),
        ("a.b=", {"a": {}}),
        ("x=y=z", {"a": {"b": 1}, "x": "y=z"}),
    ]:
        changed, problems = apply_override(tree, option)
        assert not problems
        assert changed.plain() == expected
    assert tree.plain() == {"a": {"b": 1}}


@pytest.mark.parametrize("option", ["a.b", "=1", "a..b=1", ".a=1"])
def test_an_option_without_key_or_value_is_refused(option: str) -> None:
    _, problems = apply_override(to_tree({}, PLACE), option)
    assert [str(problem) for problem in problems] == [f"--set {option}: expected KEY=VALUE, such as transfer.mode=push"]


def test_presets_expand_where_they_belong_and_own_fields_win() -> None:
    known = {"gpu": {"big": {"name": "big", "memory": "9 GiB"}}, "model": {}, "nic": {}}
    tree = to_tree({"workers": {"gpu": {"gpu": "big"}, "p": {"gpu": {"preset": "big", "memory": "1 B"}}}}, PLACE)
    expanded, problems = expand_presets(tree, known)
    assert not problems
    assert expanded.plain() == {
        "workers": {"gpu": {"gpu": {"name": "big", "memory": "9 GiB"}}, "p": {"gpu": {"name": "big", "memory": "1 B"}}}
    }
