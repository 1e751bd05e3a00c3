"""What keeps the checkout tidy: sizes, docstrings, and that all that is shipped works and is explained.

After the example of TigerBeetle's ``src/tidy.zig``: rules that a review would otherwise repeat.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup

import kvsim
from kvsim.cli import app
from kvsim.metrics import DEFINITIONS, definition_of
from kvsim.scenario import load_scenario
from kvsim.study import run_scenario

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted([*(ROOT / "kvsim").rglob("*.py"), *(ROOT / "backends").rglob("*.py")])
REPLAYED = "rtx4090_vllm"  # it needs a profile that is made of public files: see test_vllm_runs
SCENARIOS = sorted(path for path in (ROOT / "scenarios").glob("*.yaml") if path.stem != REPLAYED)
TRACES = ROOT.parent / "shared" / "traces"
TRACE_FILES = {"azure_conv": "AzureLLMInferenceTrace_conv.csv", "mooncake": "mooncake_conversation.jsonl"}
FILE_LINES_MAX, FUNCTION_LINES_MAX = 320, 70
NO_METRICS = {"notes"}  # sentences for the user


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_is_short_and_says_what_it_is_for(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LINES_MAX
    tree = ast.parse(text)
    assert not text.strip() or ast.get_docstring(tree), "no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < FUNCTION_LINES_MAX, f"{node.name} is too long"


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda path: path.stem)
def test_a_shipped_scenario_runs(file: Path, tmp_path: Path) -> None:
    workload = yaml.safe_load(file.read_text(encoding="utf-8"))["workload"]
    overrides = ["workload.requests=6"]
    if "trace" in workload:
        trace = TRACES / TRACE_FILES[file.stem]
        if not trace.is_file():
            pytest.skip(f"needs {trace.name}: {workload['trace']['source']}")
        overrides = [f"workload.trace.path={trace}", "workload.trace.requests_max=6"]
    if "phases" in workload:
        first = {**workload["phases"][0], "duration": "1 s", "arrivals": {"kind": "fixed", "rate": "6 req/s"}}
        overrides = [f"workload.phases={json.dumps([first])}"]
    scenario = load_scenario(file, overrides)
    summary = run_scenario(scenario, tmp_path / "run", report=False).summary
    assert list(summary["variants"]) == [variant.name for variant in scenario.variants]
    for variant in summary["variants"].values():
        cancelled = variant.get("failures", {}).get("requests_cancelled", 0)
        assert variant["requests"]["finished"] + cancelled == 6


def test_all_public_names_are_there_and_no_others() -> None:
    assert kvsim.__all__ == sorted(kvsim.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert dir(kvsim) == sorted(kvsim.__all__)
    for name in kvsim.__all__:
        assert getattr(kvsim, name) is not None
    assert not hasattr(kvsim, "nothing")


def keys_in(summary: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Dotted paths of every key of a summary."""
    for key, value in summary.items():
        yield above + key
        if isinstance(value, Mapping):
            yield from keys_in(value, f"{above}{key}.")


def test_every_key_of_a_summary_is_defined_and_every_definition_is_used(tmp_path: Path) -> None:
    fault = "faults=[{kind: worker_crash, worker: decode0, at: 1 us, restart: 1 ms}]"  # some keys need one
    scenario = load_scenario(ROOT / "tests" / "golden" / "small.yaml", ["workload.requests=5", fault])
    variants = run_scenario(scenario, tmp_path / "run", report=False).summary["variants"]
    keys = {key for summary in variants.values() for key in keys_in(summary)} - NO_METRICS
    defined = {key: definition_of(key) for key in keys}  # raises KeyError where there is none
    assert all(definition.text.endswith(".") for definition in defined.values())
    assert set(DEFINITIONS) <= keys


def command_names() -> list[str]:
    """What users type after ``kvsim``."""
    commands = typer.main.get_group(app).commands
    return [
        f"{name} {inner}".rstrip()
        for name, command in commands.items()
        for inner in (command.commands if isinstance(command, TyperGroup) else ("",))
    ]


@pytest.mark.parametrize("name", command_names())
def test_the_readme_mentions_every_command(name: str) -> None:
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("there is no README.md yet")
    assert f"kvsim {name}" in readme.read_text(encoding="utf-8")
