"""``kvsim profile fit``: constants are found again in tables made with them, and what cannot be true is told."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from kvsim.cli import app
from kvsim.fidelity import FidelityError, fidelity_rows
from kvsim.presets import load_gpus
from kvsim.profile.fit_kernels import fit_kernels
from kvsim.profile.fit_result import fit_text
from kvsim.profile.fit_serving import fit_serving, predicted_serving
from kvsim.profile.fitters import ProfileFitError, fit_gpu
from kvsim.profile.importers import ProfileImportError
from kvsim.profile.laws import predicted_seconds
from kvsim.profile.layer_rows import load_layers
from kvsim.profile.nonlinear import Parameter, fit
from kvsim.profile.serving_points import ServingError, ServingPoint, read_serving
from kvsim.sim.hardware import KernelSpec

H100 = load_gpus()["h100-sxm"].value
A100 = load_gpus()["a100-sxm-80g"].value
TRUE = msgspec.structs.replace(
    H100,
    gemm_efficiency=0.7,
    memory_efficiency=0.8,
    kernels=msgspec.structs.replace(H100.kernels, gemm_exposed=0.4, gemm_latency_ns=4000, gemm_input_latency_ns=500),
)


def gemm_table(noise: float = 0.0) -> pd.DataFrame:
    shapes = list(product((1, 16, 128, 512, 4096), (64, 1024, 8192, 16384), (64, 1024, 8192)))
    table = pd.DataFrame(shapes, columns=["m", "n", "k"]).assign(dtype="bfloat16")
    random = np.random.default_rng(1)
    return table.assign(
        us=predicted_seconds("gemm", table, TRUE) * 1e6 * np.exp(noise * random.standard_normal(len(table)))
    )


def test_constants_of_products_are_found_again() -> None:
    result = fit_kernels({"gemm": gemm_table()}, H100, "made up")
    assert result.values["gemm_efficiency"] == pytest.approx(0.7, rel=0.01)
    assert result.values["memory_efficiency"] == pytest.approx(0.8, rel=0.01)
    assert result.values["kernels.gemm_latency_ns"] == pytest.approx(4000, rel=0.02)
    assert result.residuals["gemm"].mean < 0.01
    assert result.notes == (
        "without context_attention and generation_attention: what they alone tell keeps the values of h100-sxm",
    )


def test_a_few_disturbed_rows_do_not_decide() -> None:
    table = gemm_table(noise=0.03)
    table.loc[::10, "us"] *= 5
    result = fit_kernels({"gemm": table}, H100, "made up")
    assert result.values["gemm_efficiency"] == pytest.approx(0.7, rel=0.06)
    assert result.residuals["gemm"].largest > 0.7  # and they are told


def test_what_is_written_is_a_gpu_that_a_scenario_can_take_over() -> None:
    result = fit_kernels({"gemm": gemm_table()}, H100, "made up")
    document = yaml.safe_load(fit_text(result))
    assert document["gpu"]["preset"] == "h100-sxm"
    assert document["gpu"]["gemm_efficiency"] == pytest.approx(0.7, rel=0.01)
    assert document["residuals"]["gemm"]["points"] == 60
    assert result.gpu.kernels.gemm_latency_ns == pytest.approx(4000, rel=0.02)
    assert result.gpu.kernels.attention_tile_rows == H100.kernels.attention_tile_rows


def test_what_points_cannot_tell_stays_where_it_was() -> None:
    """y = a with b unseen: a is told, b is not."""
    parameters = (Parameter("a", 1.0, 2.0), Parameter("b", 7.0, 0.1))
    found = fit(parameters, lambda values: np.full(3, values["a"]), np.array([2.0, 2.0, 2.0]), np.ones(3), 0.05)
    assert found.values["a"] == pytest.approx(2.0, rel=1e-3)
    assert found.values["b"] == pytest.approx(7.0)
    assert found.told["a"] > 0.9
    assert found.told["b"] == pytest.approx(0.0, abs=1e-6)


def test_limits_hold() -> None:
    found = fit((Parameter("a", 0.5, 2.0, 0.01, 1.0),), lambda v: np.array([v["a"]]), np.array([3.0]), np.ones(1), 0.05)
    assert found.values["a"] == 1.0


def serving_points() -> list[ServingPoint]:
    shapes = [(128, 1), (512, 1), (1024, 1), (2048, 1), (4096, 1), (512, 4), (512, 16)]
    points = [ServingPoint("llama2-70b", "a100", 8, tokens, batch, 0, 1.0) for tokens, batch in shapes]
    points += [ServingPoint("llama2-70b", "a100", 8, 512, batch, 128, 1.0) for batch in (1, 2, 4, 8, 16, 32, 64)]
    return points


def test_what_the_host_adds_is_found_again_in_end_to_end_times() -> None:
    eager = load_gpus()["a100-sxm-80g-eager"].value
    points = serving_points()
    seconds = predicted_serving(points, eager)
    measured = [replace(point, seconds=second) for point, second in zip(points, seconds.tolist(), strict=True)]
    result = fit_serving(measured, A100, "made up")
    assert result.values["engine.request_ns"] == pytest.approx(eager.engine.request_ns, rel=0.05)
    assert result.values["engine.layer_ns"] == pytest.approx(eager.engine.layer_ns, rel=0.1)
    assert result.residuals["prompt"].mean < 0.02
    assert result.residuals["token"].mean < 0.02
    assert "launch_ns" in result.untold()


SERVING = pd.DataFrame(
    {
        "model": "llama2-70b",
        "hardware": "a100-80gb",
        "tensor_parallel": 8,
        "prompt_size": [512, 512, 1024, 1024],
        "batch_size": 1,
        "token_size": [128, 128, 128, 256],
        "prompt_time": [90.0, 92.0, 150.0, 150.0],
        "token_time": [44.0, 46.0, 45.0, 45.0],
        "e2e_time": [5700.0, 5900.0, 5900.0, 11700.0],
    }
)


def test_repeated_end_to_end_times_are_folded(tmp_path: Path) -> None:
    SERVING.to_csv(tmp_path / "t.csv")
    points, notes = read_serving(tmp_path / "t.csv", A100)
    assert [(point.kind, point.prompt_tokens, point.output_tokens, point.seconds) for point in points] == [
        ("prompt", 512, 0, 0.091),
        ("prompt", 1024, 0, 0.150),
        ("token", 512, 128, 0.045),
        ("token", 1024, 128, 0.045),
        ("token", 1024, 256, 0.045),
    ]
    assert notes == []


def test_a_batch_that_was_interrupted_is_left_out_and_told(tmp_path: Path) -> None:
    SERVING.assign(e2e_time=[5700.0, 5900.0, 90000.0, 11700.0]).to_csv(tmp_path / "t.csv")
    points, notes = read_serving(tmp_path / "t.csv", A100)
    assert len(points) == 4
    assert notes == [
        "left out as not served as one batch (the whole took longer than its parts): llama2-70b TP 8, 1 x 1024 tokens"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="e2e_time"), "columns e2e_time are missing, expected model, hardware,"),
        (lambda table: table.assign(model="gpt-5"), "found model gpt-5, expected one of llama2-70b, bloom-176b"),
        (lambda table: table.assign(batch_size="x"), "expected numbers in"),
        (lambda table: _scaled(table, 1e-3), "times as fast as 8 x a100-sxm-80g can be by the datasheet"),
        (lambda table: _scaled(table, 1e3), "half of the times reach less than"),
    ],
)
def test_end_to_end_times_that_cannot_be_used_are_told(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    change(SERVING).to_csv(tmp_path / "t.csv")
    with pytest.raises(ServingError) as caught:
        read_serving(tmp_path / "t.csv", A100)
    assert message in str(caught.value)


def _scaled(table: pd.DataFrame, factor: float) -> pd.DataFrame:
    times = ["prompt_time", "token_time", "e2e_time"]
    return table.assign(**{column: table[column] * factor for column in times})


def layers_folder(tmp_path: Path, dense: str = "layer,tokens,time_us\nqkv_proj,64,60\nlayernorm,64,2\n") -> Path:
    (tmp_path / "meta.yaml").write_text("model: meta-llama/Llama-3.1-8B\ngpu: an RTX 4090\nvllm_version: 0.19.0\n")
    folder = tmp_path / "tp1"
    folder.mkdir(exist_ok=True)
    (folder / "dense.csv").write_text(dense)
    (folder / "per_sequence.csv").write_text("layer,sequences,time_us\nlm_head,4,1100\nsampler,4,27\n")
    (folder / "attention.csv").write_text(
        "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,8,512,36\n256,1024,0,0,48\n16,0,2,64,20\n"
    )
    return folder


def test_layers_become_kernels_and_steps_with_both_are_left_out(tmp_path: Path) -> None:
    tables = load_layers(layers_folder(tmp_path))
    assert tables["gemm"][["m", "n", "k", "us"]].to_numpy().tolist() == [[64, 6144, 4096, 60], [4, 128256, 4096, 1100]]
    assert tables["context_attention"][["batch", "start", "tokens", "us"]].to_numpy().tolist() == [[1, 1024, 256, 48]]
    assert tables["generation_attention"][["batch", "tokens", "us"]].to_numpy().tolist() == [[8, 512, 36]]


def test_layers_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    with pytest.raises(ProfileImportError, match="layer: found qkvproj, expected only layernorm, qkv_proj"):
        load_layers(layers_folder(tmp_path, "layer,tokens,time_us\nqkvproj,64,60\n"))
    with pytest.raises(
        ProfileImportError, match=r"dense.csv: columns tokens are missing, expected layer, tokens, time_us"
    ):
        load_layers(layers_folder(tmp_path, "layer,time_us\nqkv_proj,60\n"))
    (tmp_path / "tp1" / "attention.csv").unlink()
    with pytest.raises(ProfileImportError, match=r"attention.csv: there is no such file"):
        load_layers(tmp_path / "tp1")


def test_layer_times_in_the_wrong_unit_are_told(tmp_path: Path) -> None:
    rows = "".join(f"gate_up_proj,{tokens},{tokens * 1.414 / 1000}\n" for tokens in (256, 512, 2048))
    folder = layers_folder(tmp_path, "layer,tokens,time_us\n" + rows)
    with pytest.raises(ProfileFitError, match=r"gemm: times are .* times as short as the hardware allows"):
        fit_gpu("layers", folder, "rtx-4090")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve", "x", "h100-sxm"), "found kind 'serve' (did you mean 'serving'?)"),
        (("tables", "x", "h100"), "found GPU 'h100' (did you mean 'h100-sxm'?)"),
        (
            ("tables", "missing.yaml", "h100-sxm"),
            "missing.yaml: there is no such file or folder; tables reads a profile",
        ),
    ],
)
def test_a_fit_that_cannot_start_is_told(arguments: tuple[str, str, str], message: str) -> None:
    with pytest.raises(ProfileFitError) as caught:
        fit_gpu(arguments[0], Path(arguments[1]), arguments[2])
    assert message in str(caught.value)


def test_rows_are_chosen_by_column_and_value(tmp_path: Path) -> None:
    SERVING.to_csv(tmp_path / "t.csv")
    assert fit_gpu("serving", tmp_path / "t.csv", "a100-sxm-80g", ["tensor_parallel=8"]).residuals["token"].points == 3
    with pytest.raises(ProfileFitError, match="found fewer than 2 prompt times tensor_parallel=4"):
        fit_gpu("serving", tmp_path / "t.csv", "a100-sxm-80g", ["tensor_parallel=4"])
    with pytest.raises(ProfileFitError, match="found --where 'tp=4', expected COLUMN=VALUE with one of model,"):
        fit_gpu("serving", tmp_path / "t.csv", "a100-sxm-80g", ["tp=4"])


def test_a_plain_roofline_is_what_is_left_without_constants() -> None:
    assert H100.kernels != KernelSpec()
    plain = msgspec.structs.replace(H100, kernels=KernelSpec())
    table = pd.DataFrame({"dtype": ["bfloat16"], "m": [4096], "n": [8192], "k": [8192]})
    flops = 2 * 4096 * 8192 * 8192
    assert predicted_seconds("gemm", table, plain)[0] == pytest.approx(flops / (989.4e12 * H100.gemm_efficiency))


def test_fidelity_without_measurements_or_target_is_told(tmp_path: Path) -> None:
    with pytest.raises(FidelityError, match="there is no such folder"):
        fidelity_rows(tmp_path / "missing")
    with pytest.raises(FidelityError, match="found no target h1000, expected one of"):
        fidelity_rows(tmp_path, ["h1000"])
    with pytest.raises(ServingError, match=r"perf_model_a100.csv: no table that can be read"):
        fidelity_rows(tmp_path, ["a100"])


def test_an_imported_profile_is_shown_drawn_and_fitted(tmp_path: Path) -> None:
    raw = gemm_table().rename(columns={"dtype": "gemm_dtype"})
    raw = raw.assign(framework="VLLM", version="1", device="NVIDIA H100 80GB HBM3", latency=raw["us"] / 1000)
    raw.to_parquet(tmp_path / "gemm_perf.parquet")
    out = tmp_path / "p.yaml"
    run = CliRunner()
    assert run.invoke(app, ["profile", "import", "vllm-kernels", str(tmp_path), "--out", str(out)]).exit_code == 0
    shown = run.invoke(app, ["profile", "show", str(out), "--out", str(tmp_path / "p.png")], env={"COLUMNS": "120"})
    assert shown.exit_code == 0, shown.output
    assert "table gemm  60 rows in p.gemm.parquet" in shown.output.replace("\n", " ") or "60 rows" in shown.output
    assert (tmp_path / "p.png").stat().st_size > 10_000
    fitted = run.invoke(
        app, ["profile", "fit", "tables", str(out), "--gpu", "h100-sxm", "--out", str(tmp_path / "f.yaml")]
    )
    assert fitted.exit_code == 0, fitted.output
    assert yaml.safe_load((tmp_path / "f.yaml").read_text())["gpu"]["gemm_efficiency"] == pytest.approx(0.7, rel=0.01)
