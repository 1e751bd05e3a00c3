"""``kvsim explain``: no number without unit and source, and the right ones."""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from kvsim.cli import app
from kvsim.report.explain_table import merged_lists
from kvsim.scenario import load_scenario
from kvsim.scenario.explain import Number, dotted, explain, leaves, variant_document

FOLDER = Path(__file__).parent.parent / "scenarios"
KVDIRECT = FOLDER / "kvdirect.yaml"


@pytest.fixture(scope="module")
def numbers() -> dict[str, Number]:
    options = ["workers.decode.count=3", "workers.decode.kv_blocks=9000", "workers.prefill.nic=nvlink3-nccl"]
    loaded = load_scenario(KVDIRECT, [*options, "cache={}"], 7)
    return {number.key: number for number in explain(loaded) if number.variant == "push"}


_TRACE = f"workload.trace.path={KVDIRECT}"  # any file that is there: its numbers are not the scenario's
NEEDS_A_FILE = {
    "azure_conv": [_TRACE],
    "mooncake": [_TRACE],
    "rtx4090_vllm": [_TRACE, "workers.gpu.profile=null"],
}
"""Scenarios that name files which a user must fetch first: the same without them."""


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.yaml")))
def test_every_number_of_every_variant_has_a_unit_and_a_source(name: str) -> None:
    """The resolved scenario is walked by itself: each of its numbers is explained, and nothing is explained twice."""
    scenario = load_scenario(FOLDER / f"{name}.yaml", NEEDS_A_FILE.get(name, []))
    explained = explain(scenario)
    assert all(number.value and number.unit.strip() and len(number.source) > 5 for number in explained)
    for variant in scenario.variants:
        keys = [number.key for number in explained if number.variant == variant.name]
        assert len(keys) == len(set(keys))
        walked = {dotted(path) for path, _ in leaves(variant_document(scenario, variant.name))}
        assert walked == {key for key in keys if not key.startswith("derived.")}
        for key in keys:
            if "derived, see below" in next(n.source for n in explained if (n.variant, n.key) == (variant.name, key)):
                assert f"derived.{key}" in keys


def values_of(value: object) -> Iterator[float]:
    """The numbers of frozen values, however deep."""
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from values_of(getattr(value, name))
    elif is_dataclass(value):
        for one in fields(value):
            yield from values_of(getattr(value, one.name))
    elif isinstance(value, tuple):
        for child in value:
            yield from values_of(child)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def test_what_the_simulator_is_given_stands_among_the_explained_numbers() -> None:
    """GPU, NIC, model and messages as the simulator has them, in base units: each value is one of those explained."""
    scale = {
        "": 1,
        "k": 1e3,
        "M": 1e6,
        "G": 1e9,
        "T": 1e12,
        "Ki": 2**10,
        "Mi": 2**20,
        "Gi": 2**30,
        "n": 1,
        "u": 1e3,
        "m": 1e6,
    }
    scenario = load_scenario(KVDIRECT, ["workers.prefill.gpu=a100-sxm-80g", "workers.prefill.nic=nvlink3-nccl"])
    known = set()
    for number in explain(scenario):
        value, unit = float(number.value), number.unit.removesuffix("/s")
        known.add(value)
        for ending in ("FLOP", "op", "B", "s", "bit"):
            if unit.endswith(ending) and unit.removesuffix(ending) in scale:
                size = scale[unit.removesuffix(ending)] * (1e9 if (ending, unit) == ("s", "s") else 1)
                known.add(round(value * size / (8 if ending == "bit" else 1), 3))
    hardware = scenario.variants[0].hardware
    for part in (
        hardware.model,
        *(worker.gpu for worker in hardware.workers),
        *(worker.nic for worker in hardware.workers),
    ):
        missing = [
            value for value in values_of(part) if not any(abs(value - one) <= 1e-6 * abs(value) for one in known)
        ]
        assert missing == [], part


def test_sources_name_line_option_preset_default_and_formula(numbers: dict[str, Number]) -> None:
    assert numbers["seed"].source == "--seed 7"
    assert numbers["workers.prefill.count"].source.startswith(f"{KVDIRECT}:")
    assert numbers["workers.decode.count"].source == "--set workers.decode.count=3"
    rate = numbers["workers.decode.nic.rate"]
    assert (rate.value, rate.unit) == ("48.5", "GB/s")
    assert rate.source.startswith(f"preset cx7-400g ({KVDIRECT}:")
    assert "): NVIDIA ConnectX-7 product brief (400 Gbit/s," in rate.source
    curve = numbers["workers.prefill.nic.message_times.times[3]"]
    assert curve.unit == "us"
    assert curve.source.startswith("preset nvlink3-nccl (--set workers.prefill.nic=nvlink3-nccl): Fitted to NCCL")
    assert numbers["model.dtype_bytes"].source == "default of the schema"
    assert numbers["transfer.message.handshakes"].source == "default of the schema for transfer.message"


def test_the_kv_cache_is_derived_step_by_step(numbers: dict[str, Number]) -> None:
    prefix = "derived.workers.prefill.memory."
    parts = {key.removeprefix(prefix) for key in numbers if key.startswith(prefix)}
    assert parts == {"usable", "weights", "rotary", "forward", "sampler", "runtime", "graphs", "block"}
    assert numbers[f"{prefix}block"].value == "640"
    assert numbers[f"{prefix}block"].unit == "KiB"  # 2 x 80 layers x 16 tokens x 1 head x 128 x 2 bytes
    assert numbers["workers.prefill.kv_blocks"].value == numbers["derived.workers.prefill.kv_blocks"].value
    assert numbers["derived.workers.prefill.kv_blocks"].source.startswith("(usable - weights")


def test_an_explicit_block_count_is_told_as_such(numbers: dict[str, Number]) -> None:
    assert numbers["workers.decode.kv_blocks"].source == "--set workers.decode.kv_blocks=9000"
    assert numbers["derived.workers.decode.kv_blocks"].source == "kv_blocks of the pool, as given"
    assert "derived.workers.decode.memory.usable" not in numbers


def test_the_measured_steps_of_a_profile_name_its_file() -> None:
    found = {number.key: number for number in explain(load_scenario(FOLDER / "validate_cpu.yaml"))}
    tokens = next(key for key in found if key.endswith("profile.steps.prefill.tokens[0].ns"))
    assert "validate_cpu.yaml:" in found[tokens].source
    assert found[tokens].source.startswith("profile ")
    assert found[tokens].unit == "ns"


def test_the_command_prints_a_table_and_json() -> None:
    runner = CliRunner()
    table = runner.invoke(app, ["explain", str(KVDIRECT), "--variant", "pull"])
    assert table.exit_code == 0
    assert "workers.prefill.nic.reads_outstanding_max" in table.output
    assert table.output.count("NVIDIA ConnectX-7 product brief") == 1
    listed = runner.invoke(app, ["explain", str(KVDIRECT), "--json", "--set", "variants={pull: {}, push: {}}"])
    rows = json.loads(listed.output)
    assert {row["variant"] for row in rows} >= {"pull", "push"}
    assert {tuple(row) for row in rows} == {("variant", "key", "value", "unit", "source")}


def test_an_unknown_variant_is_an_error_of_the_user() -> None:
    result = CliRunner().invoke(app, ["explain", str(KVDIRECT), "--variant", "pul"])
    assert result.exit_code == 1
    assert "no variant 'pul', only pull" in str(result.exception)


def test_a_list_takes_one_line_of_the_table() -> None:
    lines = [("a.sizes[0]", "1", "KiB", "x"), ("a.sizes[1]", "64", "MiB", "x"), ("b", "2", "us", "y")]
    assert merged_lists(lines) == [("a.sizes[]", "2: 1 KiB to 64", "MiB", "x"), ("b", "2", "us", "y")]
