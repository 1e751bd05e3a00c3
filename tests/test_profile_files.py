"""Profile files: what is written is read again, what is wrong is told with its place, and what a scenario takes."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from scenario_mappings import even_load

from kvsim.errors import ScenarioError
from kvsim.plan import plan_cluster
from kvsim.plan.errors import PlanError
from kvsim.profile import ProfileFile, StepPoint, fit_steps, profile_text, write_profile
from kvsim.profile.file_fields import MeasuredRow
from kvsim.scenario import (
    ProfileError,
    Scenario,
    dump_resolved,
    load_scenario,
    read_profile,
    scenario_from_mapping,
    with_changes,
)
from kvsim.sim.hardware import DeviceSpec
from kvsim.study import simulate, workload_of

MODEL = {
    "name": "small",
    "layers": 8,
    "hidden": 512,
    "heads": 8,
    "kv_heads": 2,
    "head_dim": 64,
    "intermediate": 1408,
    "vocabulary": 8192,
    "dtype_bytes": 4,
    "kv_dtype_bytes": 4,
    "context_tokens_max": 32768,
}
PROFILE = f"""\
kvsim_profile: 1
origin: written by hand
date: '2025-03-01'
machine: two cores
model: {json.dumps(MODEL)}
steps:
  prefill:
    tokens:
    - {{tokens: 16, ns: 20000000}}
    - {{tokens: 512, ns: 240000000.5}}
    past_pair_ns: 0.25
  decode:
  - {{requests: 1, ns: 12000000, context_token_ns: 100}}
  context_tokens_max: 4000
host: {{order: 50 us, report: 70 us, between_steps: 200 us, decision: 100 us}}
message: {{handshake: 2 ms, pack_rate: 1 GB/s}}
transports:
  shm: {{rate: 5 GB/s, latency: 30 us, operation: 1 us, message_rate: 1 Mop/s, reads_outstanding_max: 64}}
slowdown: [1, 1.1, 1.7]
"""
SCENARIO: dict[str, Any] = {
    "model": MODEL,
    "devices": {"cpu": {}},
    "workers": {
        role: {"role": role, "gpu": "none", "profile": "p.yaml", "nic": "shm", "device": "cpu", "kv_blocks": 500}
        for role in ("prefill", "decode")
    },
    "workload": even_load(4, "2 req/s", 100, 5),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "p.yaml").write_text(PROFILE)
    return tmp_path


def load(folder: Path, *overrides: str, **changes: Any) -> Scenario:
    return scenario_from_mapping({**copy.deepcopy(SCENARIO), **changes}, overrides, directory=folder)


def problems(folder: Path, *overrides: str, **changes: Any) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        load(folder, *overrides, **changes)
    return str(caught.value).replace(str(folder), "DIR").splitlines()


# --- the file ------------------------------------------------------------------------------------------------------


def test_a_measured_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    points = [StepPoint(((0, n),), 0, 0, 1e6 * n + 0.123) for n in (16, 64)]
    points += [StepPoint(((16, 16),), 0, 0, 17e6), StepPoint(((0, 16),), 1, 30, 18e6)]
    points += [StepPoint((), 1, context, 1e6 + 7.0 * context) for context in (16, 1000)]
    link = {**yaml.safe_load(PROFILE)["transports"]["shm"], "latency": "7 us"}
    fitted = fit_steps(points)
    profile = ProfileFile.model_validate(
        {
            "kvsim_profile": 1,
            "name": "here",
            "origin": "a test",
            "date": "2025-03-01",
            "machine": "µ-machine",
            "engine": "none",
            "versions": {"torch": "2.6"},
            "model": MODEL,
            "steps": fitted.steps,
            "host": {"order": "1.5 us", "between_steps": "123456 ns"},
            "message": {"pack_rate": "2.5 GB/s"},
            "transports": {"tcp": link},
            "slowdown": [1, 1.25],
            "notes": list(fitted.notes),
            "residuals": fitted.residuals,
            "measured": [
                MeasuredRow(
                    chunks=list(point.chunks),
                    decode_requests=point.decode_requests,
                    context_tokens=point.context_tokens,
                    ns=point.ns,
                )
                for point in points
            ],
        }
    )
    write_profile(tmp_path / "p.yaml", profile)
    assert read_profile(tmp_path / "p.yaml") == profile
    assert (profile.host.order, profile.host.between_steps, profile.message.handshake) == (1_500, 123_456, None)
    assert profile.transports["tcp"].name == "tcp"
    assert list(profile.residuals) == ["prefill", "decode", "mixed"]
    lines = profile_text(profile).splitlines()
    assert lines[0] == "kvsim_profile: 1"
    assert "host: {order: 1.5 us, report: 0 ns, between_steps: 123456 ns, decision: 0 ns}" in lines
    assert any(line.strip().startswith("- {tokens: 16, ns: 15") for line in lines)
    keys = [line.split(":")[0] for line in lines if line and line[0].isalpha()]
    assert keys.index("steps") < keys.index("host") < keys.index("residuals") < keys.index("measured")


@pytest.mark.parametrize(
    ("good", "bad", "line"),
    [
        ("kvsim_profile: 1", "kvsim_profile: 2", "p.yaml:1:16: kvsim_profile: found 2, expected one of: 1"),
        ("origin: written by hand\n", "", "p.yaml:1:1: origin: missing, expected this key"),
        ("machine:", "machin:", "p.yaml:4:1: machin: unknown key (did you mean 'machine'?), expected one of: name"),
        ("'2025-03-01'", "2025-03-01", "p.yaml:3:7: date: found 2025-03-01, expected text"),
        (
            "{tokens: 512, ns",
            "{tokens: 16, ns",
            "p.yaml:9:5: steps.prefill.tokens: found tokens 16 before 16, expected",
        ),
        ("ns: 12000000,", "ns: 0,", "p.yaml:13:23: steps.decode.0.ns: found 0, expected more than 0"),
        ("ns: 12000000,", "ns: 12 ms,", "p.yaml:13:23: steps.decode.0.ns: found '12 ms', expected a number"),
        ("context_token_ns: 100", "context_token_ns: -1", "p.yaml:13:51: steps.decode.0.context_token_ns: found -1"),
        ("order: 50 us", "order: 50", "p.yaml:15:15: host.order: found 50 without a unit, expected a duration such as"),
        ("[1, 1.1, 1.7]", "[1.1, 1.7]", "p.yaml:19:11: slowdown: found 1.1 for one busy worker, expected 1: it is"),
        ("[1, 1.1, 1.7]", "[1, 1.7, 1.1]", "p.yaml:19:11: slowdown: found 1.1 for 3 busy workers, expected at least"),
        ("[1, 1.1, 1.7]", "[]", "p.yaml:19:11: slowdown: found a list, expected at least one entry"),
        ("rate: 5 GB/s", "rate: 5 GBps", "p.yaml:18:15: transports.shm.rate: found '5 GBps' with the unit 'GBps' (did"),
        ("model: ", "modell: ", "p.yaml:5:1: modell: unknown key (did you mean 'model'?), expected one of: name, "),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_place(folder: Path, good: str, bad: str, line: str) -> None:
    assert PROFILE.count(good) == 1
    (folder / "p.yaml").write_text(PROFILE.replace(good, bad))
    with pytest.raises(ProfileError) as caught:
        read_profile(folder / "p.yaml")
    assert any(found.startswith(line) for found in str(caught.value).replace(f"{folder}/", "").splitlines())
    scenario_lines = [found.removeprefix("DIR/") for found in problems(folder)]
    assert any(found.startswith(line) for found in scenario_lines)


def test_steps_without_their_model_and_files_without_content_are_refused(folder: Path) -> None:
    text = "\n".join(line for line in PROFILE.splitlines() if not line.startswith("model"))
    (folder / "p.yaml").write_text(text)
    with pytest.raises(ProfileError, match="found steps without model, expected the model that they were measured"):
        read_profile(folder / "p.yaml")
    (folder / "p.yaml").write_text("\n".join(PROFILE.splitlines()[:4]))
    with pytest.raises(
        ProfileError, match="found nothing measured, expected steps, layers, host, transports, slowdown or tables"
    ):
        read_profile(folder / "p.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "p.yaml: found an empty file, expected a profile"),
        (b"- 1", "p.yaml:1:1: found a list, expected a mapping"),
        (b"a: [", "p.yaml:2:1: not valid YAML"),
        (b"\xff", "p.yaml: cannot read the profile: not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_profile_is_told(folder: Path, text: bytes, message: str) -> None:
    (folder / "p.yaml").write_bytes(text)
    with pytest.raises(ProfileError) as caught:
        read_profile(folder / "p.yaml")
    assert str(caught.value).replace(f"{folder}/", "").startswith(message)
    assert problems(folder)[0].removeprefix("DIR/").startswith(message)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"p\.yaml: cannot read the profile: No such file"):
        read_profile(tmp_path / "p.yaml")
    expected = "found no file 'p.yaml', expected a profile; 'kvsim calibrate' writes one"
    assert problems(tmp_path)[0] == f"scenario: workers.prefill.profile: {expected}"


# --- in a scenario -------------------------------------------------------------------------------------------------


def test_a_scenario_takes_from_a_profile_what_the_simulator_needs(folder: Path) -> None:
    hardware = load(folder).variants[0].hardware
    worker = hardware.workers[0]
    assert (worker.gpu, worker.device, worker.order_ns, worker.report_ns) == (None, "cpu", 50_000, 70_000)
    assert (worker.nic.name, worker.nic.rate_bytes_per_s, worker.nic.latency_ns) == ("shm", 5e9, 30_000)
    assert worker.pack_bytes_per_s == 1e9
    assert worker.measured is not None
    assert worker.measured.name == "p"
    assert worker.measured.prefill_tokens == (16, 512)
    assert worker.measured.prefill_fs == (20 * 10**12, 240_000_000_500_000)
    assert worker.measured.past_pair_fs == 250_000
    assert worker.measured.between_steps_fs == 200 * 10**9
    assert hardware.devices == (DeviceSpec("cpu", (1.0, 1.1, 1.7)),)
    assert (hardware.decision_ns, hardware.message.handshake_ns) == (100_000, 2_000_000)


def test_what_the_scenario_says_itself_counts_more(folder: Path) -> None:
    scenario = load(
        folder,
        "scheduling.decision=7 us",
        "transfer.message.handshake=8 us",
        "workers.decode.profile.host.order=9 us",
        "devices.cpu.slowdown=[1, 2]",
        "devices.cpu.copies=true",
        "workers.decode.nic=cx7-400g",
    )
    hardware = scenario.variants[0].hardware
    assert (hardware.decision_ns, hardware.message.handshake_ns) == (7_000, 8_000)
    assert [(worker.order_ns, worker.report_ns) for worker in hardware.workers] == [(50_000, 70_000), (9_000, 70_000)]
    assert hardware.devices == (DeviceSpec("cpu", (1.0, 2.0), copies=True),)
    assert [worker.nic.name for worker in hardware.workers] == ["shm", "cx7-400g"]


def test_without_profiles_nothing_takes_time_that_did_not_before(folder: Path) -> None:
    pools = {role: {"role": role, "gpu": "h100-sxm", "nic": "cx7-400g"} for role in ("prefill", "decode")}
    hardware = load(folder, workers=pools, devices={}).variants[0].hardware
    assert (hardware.decision_ns, hardware.message.handshake_ns, hardware.devices) == (0, 50_000, ())
    assert {(worker.measured, worker.device, worker.order_ns, worker.report_ns) for worker in hardware.workers} == {
        (None, None, 0, 0)
    }


def test_a_gpu_beside_a_profile_says_how_much_memory_there_is(folder: Path) -> None:
    pool = {"role": "prefill", "gpu": "l40s", "profile": "p.yaml", "nic": "shm"}
    scenario = load(folder, workers={"p": pool, "d": {**pool, "role": "decode"}}, devices={})
    variant = scenario.variants[0]
    assert variant.cluster.workers[0].kv_blocks > 10_000
    assert variant.hardware.workers[0].measured is not None


def test_a_transport_may_be_changed_like_a_preset_and_a_link_profile_is_one_too(folder: Path) -> None:
    link = {"transport": "shm", "nic": {**yaml.safe_load(PROFILE)["transports"]["shm"], "name": "measured shm"}}
    (folder / "link.yaml").write_text(yaml.safe_dump(link))
    changed = load(folder, "workers.prefill.nic.rate=1 GB/s", "workers.decode.nic={file: link.yaml, latency: 1 us}")
    nics = [worker.nic for worker in changed.variants[0].hardware.workers]
    assert [(nic.name, nic.rate_bytes_per_s, nic.latency_ns) for nic in nics] == [
        ("shm", 1e9, 30_000),
        ("measured shm", 5e9, 1_000),
    ]
    (folder / "link.yaml").write_text("origin: nowhere")
    told = problems(folder, "workers.decode.nic={file: link.yaml}")
    assert told == ["DIR/link.yaml:1:1: nic: missing, expected the mapping of a NIC"]


def test_variants_may_differ_in_what_is_measured_and_the_dump_loads_again(folder: Path) -> None:
    variants = {
        "both": {},
        "alone": {"workers.prefill.device": None, "workers.decode.device": None},
        "slower": {"workers.decode.profile.slowdown": [1, 3, 4], "workers.prefill.profile.slowdown": [1, 3, 4]},
    }
    scenario = load(folder, variants=variants)
    assert [variant.hardware.devices for variant in scenario.variants] == [
        (DeviceSpec("cpu", (1.0, 1.1, 1.7)),),
        (),
        (DeviceSpec("cpu", (1.0, 3.0, 4.0)),),
    ]
    text = dump_resolved(scenario)
    (folder / "p.yaml").unlink()  # a run can be repeated without it
    (folder / "resolved.yaml").write_text(text)
    again = load_scenario(folder / "resolved.yaml")
    assert again.variants == scenario.variants
    assert dump_resolved(again) == text
    (folder / "p.yaml").write_text(PROFILE)
    changed = with_changes(scenario, ["workers.decode.profile.host.report=1 us"])
    assert changed.variants[0].hardware.workers[1].report_ns == 1_000


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "workers.decode.device=cpus",
            "workers.decode.device: found 'cpus' (did you mean 'cpu'?), expected one of dev",
        ),
        ("devices=null", "workers.prefill.device: found 'cpu', expected none, as devices is empty"),
        ("devices.cpu.slowdown=[2]", "devices.cpu.slowdown: found 2 for one busy worker, expected 1"),
        ("workers.decode.profile.slowdown=[1, 9]", "devices.cpu.slowdown: missing, expected this key, as the profiles"),
        ("workers.decode.profile=null", "workers.decode.nic: found 'shm', expected a preset"),
        ("workers.decode.profile.steps=null", "workers.decode.gpu: found none, expected a preset's name or a mapping"),
        ("workers.decode.profile=5", "workers.decode.profile: found 5, expected a file's name or a mapping"),
        ("workers.decode.profile={file: 5}", "workers.decode.profile: found 5, expected the name of a file"),
        ("workers.decode.profile.steeps=1", "workers.decode.profile.steeps: unknown key (did you mean 'steps'?)"),
        ("workers.decode.kv_blocks=null", "workers.decode.kv_blocks: missing, expected this key or kv_memory"),
        ("workers.decode.tensor_parallel=2", "workers.decode.tensor_parallel: found 2, expected 1, as with the steps"),
        (
            "workers.decode.nic=smh",
            "workers.decode.nic: found 'smh', expected a preset (did you mean 'shm'?): shm, cx5",
        ),
        ("model.layers=9", "workers.prefill.profile: found steps of small (layers 8 instead of 9), expected those of"),
        ("scheduling.decision=5", "scheduling.decision: found 5 without a unit, expected a duration such as"),
    ],
)
def test_what_does_not_go_together_is_told(folder: Path, override: str, line: str) -> None:
    assert any(f": {found}".find(f": {line}") >= 0 for found in problems(folder, override))


def test_a_device_without_any_slowdown_is_told(folder: Path) -> None:
    (folder / "p.yaml").write_text(PROFILE.replace("slowdown: [1, 1.1, 1.7]\n", ""))
    expected = "missing, expected this key, or a profile with slowdown in a pool on the device"
    assert problems(folder) == [f"scenario: devices.cpu.slowdown: {expected}"]


def test_messages_need_a_rate_at_which_they_are_packed(folder: Path) -> None:
    (folder / "p.yaml").write_text(PROFILE.replace(", pack_rate: 1 GB/s", ""))
    told = problems(folder, "transfer.mode=message")
    assert len(told) == 2
    assert told[0].endswith("expected message.pack_rate for transfer.mode message, as gpu is none")


def test_a_simulation_with_a_profile_tells_where_it_extrapolated(folder: Path) -> None:
    scenario = load(folder, "workload.lengths.prompt_tokens.tokens=700")
    variant = scenario.variants[0]
    result = simulate(variant, workload_of(scenario, variant))
    assert result.summary["notes"] == [
        "prefill0: prompt tokens of a step went up to 700, profile p measured 16 to 512: extrapolated"
    ]
    assert result.summary["requests"]["finished"] == 4


def test_a_plan_takes_no_measured_steps(folder: Path) -> None:
    with pytest.raises(PlanError, match=r"workers\.prefill: found measured steps or a shared device, expected GPUs"):
        plan_cluster(load(folder, "slo.ttft=1 s"), 4)
