"""The scenarios that are shipped, and the JSON Schema that editors check them with."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from layer_layout import write_layout

from kvsim.errors import ScenarioError
from kvsim.profile.importers import import_profile
from kvsim.scenario import dump_resolved, load_scenario, scenario_from_mapping
from kvsim.scenario.json_schema import json_schema

FOLDER = Path(__file__).parent.parent / "scenarios"
FILES = sorted(FOLDER.glob("*.yaml"))
SCHEMA_FILE = Path(__file__).parent.parent / "kvsim" / "scenario" / "schema.json"


def errors_of(document: object) -> list[str]:
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    return [error.message for error in validator.iter_errors(document)]


def options_for(file: Path, folder: Path) -> list[str]:
    """What a scenario needs before it can be loaded: a trace, or a profile, in the place of what users fetch."""
    document, options = yaml.safe_load(file.read_text()), []
    if "trace" in document["workload"]:
        trace = folder / "trace"
        trace.write_text("")
        options.append(f"workload.trace.path={trace}")
    if file.stem == "rtx4090_vllm":
        profile = folder / "layers.yaml"
        import_profile("vllm-layers", write_layout(folder), profile)
        options.append(f"workers.gpu.profile={profile}")
    return options


def test_the_scenarios_that_the_documentation_names_exist() -> None:
    names = {file.stem for file in FILES}
    assert {"push_vs_pull", "kvdirect", "azure_conv", "mooncake", "slow_network", "bench_4p4d"} <= names


def test_the_json_schema_on_disk_is_the_one_that_the_code_makes() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == json_schema(), (
        "python -m kvsim.scenario.json_schema > schema.json"
    )
    jsonschema.Draft202012Validator.check_schema(json.loads(json_schema()))


def test_every_key_of_the_schema_is_described() -> None:
    schema = json.loads(json_schema())
    for name, definition in {**schema["$defs"], "the file": schema}.items():
        assert definition.get("description"), name
        for key, value in definition["properties"].items():
            described = "description" in value or "$ref" in value  # a $ref shows what its definition says
            assert key == "kind" or described, f"{name}.{key}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_scenario_passes_the_json_schema_and_loads(file: Path, tmp_path: Path) -> None:
    assert errors_of(yaml.safe_load(file.read_text())) == []
    scenario = load_scenario(file, options_for(file, tmp_path))
    assert scenario.name == file.stem
    assert file.read_text().startswith("# yaml-language-server: $schema=../kvsim/scenario/schema.json\n")
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_resolved(scenario))
    assert load_scenario(resolved).variants == scenario.variants


@pytest.mark.parametrize("name", ["azure_conv", "mooncake"])
def test_a_scenario_of_a_trace_says_where_to_get_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScenarioError, match=r"get it from: https://github\.com/.*--set workload\.trace\.path=FILE"):
        load_scenario(FOLDER / f"{name}.yaml")


@pytest.mark.parametrize(
    "change",
    [
        {"modle": "x"},
        {"model": "no-such-model"},
        {"slo": {"ttft": 1}},
        {"slo": {"ttft": "1 GB"}},
        {"transfer": {"layers_per_group": 0}},
        {"cache": {"block_tokens": 0}},
        {"workers": {}},
        {"variants": {"a": 5}},
    ],
)
def test_the_json_schema_refuses_what_the_loader_refuses(change: dict[str, object], tmp_path: Path) -> None:
    document = {**yaml.safe_load((FOLDER / "push_vs_pull.yaml").read_text()), **change}
    assert errors_of(document)
    file = tmp_path / "changed.yaml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(ScenarioError):
        load_scenario(file)


@pytest.mark.parametrize(
    "gpu", ["h100-sxm", {"preset": "h100-sxm"}, {"preset": "h100-sxm", "step": "1 ms", "gemm_efficiency": 0.6}]
)
def test_the_json_schema_accepts_every_way_to_give_a_gpu(gpu: object) -> None:
    document = yaml.safe_load((FOLDER / "push_vs_pull.yaml").read_text())
    document["workers"]["prefill"]["gpu"] = gpu
    assert errors_of(document) == []
    document["workers"]["prefill"]["gpu"] = {"preset": "h100-sxm", "stp": "1 ms"}
    assert errors_of(document)


def test_the_kvdirect_setting_gives_all_variants_the_same_gpus() -> None:
    scenario = load_scenario(FOLDER / "kvdirect.yaml")
    assert [variant.name for variant in scenario.variants] == [
        "pull",
        "push",
        "streamed",
        "message",
        "colocated",
        "unchunked",
    ]
    for variant in scenario.variants:
        assert [worker.tensor_parallel for worker in variant.cluster.workers] == [8, 8, 8, 8]
        assert {worker.gpu.name for worker in variant.hardware.workers if worker.gpu} == {"h100-sxm"}
        assert {worker.nics for worker in variant.hardware.workers} == {8}


@pytest.mark.parametrize(("gpu", "nic"), [("a100-sxm-80g", "nvlink3-nccl"), ("h100-sxm", "a100-nodes-nccl")])
def test_a_scenario_may_name_presets_with_measured_curves(gpu: str, nic: str) -> None:
    keys = [f"workers.{pool}" for pool in ("prefill", "decode")]
    options = [f"{key}.gpu={gpu}" for key in keys] + [f"{key}.nic={nic}" for key in keys]
    scenario = load_scenario(FOLDER / "push_vs_pull.yaml", options)
    worker = scenario.variants[0].hardware.workers[0]
    assert worker.nic.message_times is not None
    assert worker.gpu is not None
    assert bool(worker.gpu.all_reduce) == (gpu == "a100-sxm-80g")
    assert scenario_from_mapping(scenario.document).variants == scenario.variants
