"""A validation with real processes, in a short form, and what users are told when it cannot be.

No test asserts how large an error is: the machine that runs them is not known.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="torch is not installed: real workers are NOT tested; pip install 'kvsim[engine]'")

import yaml

from backends.calibrate.plan import CalibrationPlan
from kvsim import real as real_module
from kvsim.cli import main
from kvsim.real import RealError, calibrate, model_source, transport_of, with_transport
from kvsim.scenario import Scenario, load_scenario, read_profile

SHIPPED = Path(__file__).parents[1] / "scenarios" / "validate_cpu.yaml"
TINY = CalibrationPlan((8, 16), 16, batches=(1, 2), contexts=(8,), output_tokens=4, rounds=1, workers_max=2)
REQUESTS = 6


def write_scenario(folder: Path) -> Path:
    """The shipped scenario with the model 'tiny', one variant and few requests."""
    document = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    document["real"]["model"] = "tiny"
    shape = {"name": "tiny", "layers": 4, "hidden": 256, "heads": 8, "kv_heads": 2, "head_dim": 32}
    document["model"] |= shape | {"intermediate": 704, "vocabulary": 512, "context_tokens_max": 8192}
    document["variants"] = {"pull": {}}
    document["tolerance"] = {"e2e": 1e-9}
    lengths = {"prompt_tokens": (8, 24), "output_tokens": (2, 6)}
    document["workload"] = {
        "requests": REQUESTS,
        "arrivals": {"kind": "fixed", "rate": "10 req/s"},
        "lengths": {
            key: {"kind": "uniform", "tokens_min": low, "tokens_max": high} for key, (low, high) in lengths.items()
        },
    }
    for pool in document["workers"].values():
        # what the first load needs; the measured profile takes its place
        pool |= {"gpu": "h100-sxm", "nic": {"name": "shm", "preset": "cx7-400g"}, "kv_blocks": 64}
        del pool["profile"]
    document["devices"]["processor"]["slowdown"] = [1.0]
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenario(tmp_path_factory.mktemp("scenario"))


@pytest.fixture(scope="module")
def profile(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    told: list[str] = []
    folder = tmp_path_factory.mktemp("profiles")
    first = calibrate(load_scenario(file), folder, plan=TINY, say=told.append)
    assert first.measured
    assert told == ["steps of one worker", "2 workers at once", "transport shm"]
    again = calibrate(load_scenario(file), folder, plan=TINY, say=told.append)
    assert (again.path, again.measured, len(told)) == (first.path, False, 3)
    with pytest.raises(RealError, match="found transport rdma, expected shm, tcp, message"):
        calibrate(load_scenario(file), folder, plan=TINY, transports=["shm", "rdma"])
    return first.path


def test_a_calibration_measures_steps_messages_and_transfers(profile: Path) -> None:
    measured = read_profile(profile)
    assert profile.name.startswith("tiny-float32-cpu-")
    assert measured.model is not None
    assert (measured.model.name, measured.model.layers) == ("tiny", 4)
    assert measured.steps is not None
    assert {8, 16} <= {row.tokens for row in measured.steps.prefill.tokens}
    assert measured.steps.prefill.start_token_max >= 16
    assert {1, 2} <= {row.requests for row in measured.steps.decode}
    assert list(measured.transports) == ["shm"]
    assert measured.slowdown is not None
    assert measured.slowdown[0] == 1
    assert {"kvsim", "python", "torch"} <= set(measured.versions)
    assert measured.measured


def test_real_workers_are_validated_replayed_and_held_to_the_tolerance(
    file: Path, profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "v"
    arguments = ["kvsim", "validate", str(file), "--profile", str(profile), "--out", str(out), "--no-report"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 1  # nobody is as near as the tolerance asks
    assert "failed: e2e: the median error of the mean is " in printed.out
    assert "replay: 1 of 1 records give identical commands" in printed.out

    from kvsim.validation import load_validation

    result = load_validation(out)
    assert [result.real.summary["variants"]["pull"]["requests"][key] for key in ("arrived", "finished")] == [6, 6]
    real, simulated = result.real.requests, result.simulated.requests
    for column in ("request", "arrival_ns", "prompt_tokens", "output_tokens", "transfer_bytes"):
        assert real[column].tolist() == simulated[column].tolist(), column
    assert set(result.errors["variant"]) == {"pull"}
    assert (result.errors["simulated_s"].dropna() >= 0).all()
    assert (out / "profile.yaml").read_text() == profile.read_text()
    used = yaml.safe_load(result.simulated.scenario)["workers"]["prefill"]
    assert used["profile"]["name"] == "tiny-float32-cpu"
    assert used["nic"]["rate"] == yaml.safe_load(profile.read_text())["transports"]["shm"]["rate"]


# --- what cannot be ------------------------------------------------------------------------------------------------


def shipped(*overrides: str) -> Scenario:
    return load_scenario(SHIPPED, overrides)


def test_the_shipped_scenario_is_of_the_model_that_it_names() -> None:
    scenario = shipped()
    assert model_source(scenario).name == "small"
    transports = {variant.name: transport_of(variant) for variant in scenario.variants}
    assert transports.pop("message") == "message"
    assert set(transports.values()) == {"shm"}
    assert {"pull", "push", "streamed", "pull_2p1d", "pull_1p2d"} == set(transports)


def without_real() -> Scenario:
    return load_scenario(Path(__file__).parent / "golden" / "small.yaml")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_real, "real: missing, expected the model that real workers compute with"),
        (lambda: shipped("real.model=tiny"), "real.model tiny is another model:\n  model.layers: found 8, expected 4"),
        (lambda: shipped("real.dtype=float16"), "model.dtype_bytes: found 4, expected 2"),
        (lambda: shipped("real.model=huge"), "no such random model; accepted: tiny, small, or a model folder"),
    ],
)
def test_a_scenario_that_real_workers_cannot_serve_is_refused(make: Callable[[], Scenario], message: str) -> None:
    from kvsim.errors import KvsimError

    with pytest.raises(KvsimError) as error:
        model_source(make())
    assert message in str(error.value)


def test_a_nic_that_is_no_transport_is_refused() -> None:
    scenario = shipped("workers.prefill.nic=cx7-400g", "workers.decode.nic=cx7-400g")
    with pytest.raises(RealError, match="variant pull: nic: found cx7-400g, expected one of shm, tcp, message"):
        transport_of(scenario.variants[0])


def test_a_one_sided_mode_wants_a_one_sided_transport() -> None:
    scenario = shipped("workers.prefill.nic=message", "workers.decode.nic=message")
    with pytest.raises(RealError, match=r"transport message cannot serve transfer\.mode pull"):
        transport_of(scenario.variants[0])


def test_a_transport_can_be_chosen_for_all_that_name_no_other() -> None:
    changed = with_transport(shipped(), "tcp")
    assert [transport_of(variant) for variant in changed.variants] == ["tcp", "tcp", "tcp", "message", "tcp", "tcp"]
    with pytest.raises(RealError, match="found transport 'rdma', expected one of shm, tcp, message"):
        with_transport(shipped(), "rdma")


def test_a_transport_that_the_profile_has_not_measured_can_be_chosen_and_is_calibrated_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "verbs" not in read_profile(SHIPPED.parent / "profiles" / "validate_cpu.yaml").transports
    changed = with_transport(shipped(), "verbs")
    assert [transport_of(variant) for variant in changed.variants][:4] == ["verbs", "verbs", "verbs", "message"]
    # until then its links have the figures of those in whose place it is
    assert changed.variants[0].hardware.workers[0].nic.rate_bytes_per_s == (
        shipped().variants[0].hardware.workers[0].nic.rate_bytes_per_s
    )
    measured = SimpleNamespace(transports={"verbs": None}, slowdown=None)
    monkeypatch.setattr(real_module, "read_profile", lambda _: measured)
    asked: list[str] = []
    monkeypatch.setattr(real_module, "with_changes", lambda _, changes: asked.extend(changes))
    real_module.with_profile(changed, SHIPPED)
    assert "workers.prefill.nic=verbs" in asked


def test_a_nic_that_is_written_out_keeps_its_figures_under_the_name_of_a_transport() -> None:
    written = shipped(*(f"workers.{pool}.nic={{name: shm, preset: cx6-200g}}" for pool in ("prefill", "decode")))
    changed = with_transport(written, "verbs").variants[0]
    assert transport_of(changed) == "verbs"
    assert (
        changed.hardware.workers[0].nic.rate_bytes_per_s == written.variants[0].hardware.workers[0].nic.rate_bytes_per_s
    )


@pytest.mark.parametrize("verb", ["calibrate", "validate"])
def test_workers_that_can_only_be_simulated_are_refused_where_they_are_written(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_scenario(tmp_path)
    document = yaml.safe_load(file.read_text())
    document["workers"]["decode"]["tensor_parallel"] = 2
    document["variants"]["wide"] = {"workers.prefill.tensor_parallel": 2}
    document["variants"]["longer"] = {"workers.prefill.block_tokens": 32}
    document["variants"]["the_same"] = {"workers.prefill.block_tokens": 16}
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    load_scenario(file)  # it can be simulated
    lines = file.read_text().splitlines()
    written = 1 + next(number for number, line in enumerate(lines) if line.strip() == "tensor_parallel: 2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["kvsim", verb, str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()
    why = "found 2, expected 1: a real worker computes with one rank; kvsim run simulates it"
    assert told[0] == f"{file}:{written}:5: workers.decode.tensor_parallel: {why}"
    assert f"variants.wide.workers.prefill.tensor_parallel: {why}" in told[1]
    why = "found 32, expected 16: real workers have blocks of cache.block_tokens; kvsim run simulates it"
    assert f"variants.longer.workers.prefill.block_tokens: {why}" in told[2]
    assert len(told) == 3
    assert list(tmp_path.iterdir()) == [file], "nothing is written before it is clear that it can be served"


def test_variants_that_move_nothing_need_no_transport_that_reaches_a_gpu(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def measure(_machine: object, transports: list[str], _say: object) -> None:
        asked.append(transports)
        raise RealError("enough")

    monkeypatch.setattr("backends.calibrate.measure.Machine.measure", measure)
    monkeypatch.setattr(real_module, "machine_text", lambda _: "a machine with a GPU")
    for mode, device, wanted in (
        ("colocated", "cuda:0", []),
        ("pull", "cuda:0", ["shm"]),
        ("colocated", "cpu", ["shm"]),
    ):
        scenario = load_scenario(file, [f"transfer.mode={mode}", f"real.device={device}"])
        with pytest.raises(RealError, match="enough"):
            calibrate(scenario, tmp_path, plan=TINY)
        assert asked[-1] == wanted


def test_on_gpus_kv_moves_by_cuda_ipc_whether_workers_share_one_or_have_one_each() -> None:
    file = SHIPPED.with_name("validate_gpu.yaml")
    lone = ["real.device=cuda", "devices=null", "workers.prefill.device=null", "workers.decode.device=null"]
    for changes, device in (([], "gpu0"), (lone, None)):
        scenario = load_scenario(file, changes)
        moved = {variant.name: transport_of(variant) for variant in scenario.variants}
        assert moved == {"pull": "cuda_ipc", "push": "cuda_ipc", "streamed": "cuda_ipc", "colocated": "shm"}
        assert {worker.device for worker in scenario.variants[0].hardware.workers} == {device}


@pytest.mark.parametrize(("device", "expected"), [("cuda:0", ["cuda_ipc"]), ("cpu", ["message", "shm", "tcp"])])
def test_calibrate_measures_the_transports_that_reach_the_memory(
    device: str, expected: list[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measure(_machine: object, transports: list[str], _say: object) -> None:
        asked.extend(transports)
        raise RealError("enough")

    monkeypatch.setattr("backends.calibrate.measure.Machine.measure", measure)
    monkeypatch.setattr(real_module, "machine_text", lambda _: "a machine with a GPU")
    profiles = ["--profiles", str(tmp_path), "--set", f"real.device={device}"]
    monkeypatch.setattr("sys.argv", ["kvsim", "calibrate", str(file), *profiles])
    with pytest.raises(SystemExit):
        main()
    assert asked == expected


@pytest.mark.parametrize("verb", ["calibrate", "validate"])
def test_without_torch_the_user_is_told_what_to_install(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_module, "find_spec", lambda name: None if name == "torch" else object())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["kvsim", verb, str(SHIPPED)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().endswith('need torch, which cannot be imported: pip install "kvsim[engine]"')
    assert list(tmp_path.iterdir()) == []
