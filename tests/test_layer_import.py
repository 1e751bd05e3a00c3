"""Per-layer kernel times from CSV files to a profile that a scenario runs with, and everything that may be wrong."""

from pathlib import Path

import pytest
import yaml
from layer_layout import META, write_layout
from scenario_mappings import even_load

from kvsim.presets import load_gpus, load_models
from kvsim.profile.importers import ProfileImportError, import_profile
from kvsim.profile.layer_fields import LayerTimes, layer_tables
from kvsim.profile.layer_rows import load_layers
from kvsim.scenario import load_scenario, read_profile
from kvsim.sim.collectives import all_reduce_s
from kvsim.sim.layer_steps import LayerSteps
from kvsim.study import run_scenario


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_layout(tmp_path)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def complaints(folder: Path, tmp_path: Path) -> str:
    out = tmp_path / "out.yaml"
    with pytest.raises(ProfileImportError) as caught:
        import_profile("vllm-layers", folder, out)
    assert not out.exists()
    return str(caught.value)


def test_kernels_count_as_often_as_a_step_runs_them(folder: Path, tmp_path: Path) -> None:
    import_profile("vllm-layers", folder, tmp_path / "gpu.yaml")
    profile = read_profile(tmp_path / "gpu.yaml")
    tables = profile.layer_tables()
    assert tables is not None
    once, per_layer = 3, 2 * 2 + 55 + 38 + 247 + 3 + 127  # two norms a layer, one embedding a step
    assert tables.dense_us == (32 * per_layer + once, 32 * (2 * 6 + 166 + 108 + 737 + 28 + 376) + 5)
    assert tables.sequences_us == (1097.0, 1212.0)
    assert tables.prefill_us == (32 * 16, 32 * 118.4, 32 * 512, 32 * 614.4)
    assert tables.decode_us[1] == pytest.approx(32 * (1 + 40.96))
    assert tables.mixed_decodes_max == 8
    assert profile.machine == "NVIDIA GeForce RTX 4090"
    assert profile.model is not None
    assert profile.model.name == "llama-3.1-8b"


def test_a_scenario_runs_with_it_and_its_resolved_form_needs_no_file(folder: Path, tmp_path: Path) -> None:
    import_profile("vllm-layers", folder, tmp_path / "gpu.yaml")
    scenario = {
        "model": "llama-3.1-8b",
        "workers": {
            "gpu": {
                "role": "colocated",
                "gpu": "none",
                "nic": "cx7-400g",
                "profile": "gpu.yaml",
                "kv_blocks": 100,
            }
        },
        "transfer": {"mode": "colocated"},
        "workload": even_load(3, "10 req/s", 16, 9),
    }
    file = tmp_path / "scenario.yaml"
    file.write_text(yaml.safe_dump(scenario))
    first = run_scenario(load_scenario(file), tmp_path / "first", report=False)
    (tmp_path / "gpu.yaml").unlink()
    again = run_scenario(load_scenario(first.path / "scenario.yaml"), tmp_path / "again", report=False)
    assert again.requests.equals(first.requests)


def test_an_unknown_layer_is_refused_with_its_place_and_what_to_do(folder: Path, tmp_path: Path) -> None:
    edit(folder / "tp1" / "dense.csv", "act_fn", "swiglu")
    said = complaints(folder, tmp_path)
    assert f"{folder}/tp1/dense.csv: layer: found swiglu, expected only layernorm, qkv_proj" in said
    assert "leave its rows out, or name it as the one that it stands for" in said


def test_a_kernel_that_every_layer_has_may_not_be_missing(folder: Path, tmp_path: Path) -> None:
    edit(folder / "tp1" / "dense.csv", "o_proj,1,38\no_proj,512,108\n", "")
    assert "dense.csv: layers o_proj are missing" in complaints(folder, tmp_path)


def test_all_missing_files_and_columns_are_told_at_once(folder: Path, tmp_path: Path) -> None:
    (folder / "tp1" / "dense.csv").unlink()
    edit(folder / "tp1" / "attention.csv", "n_decode", "decodes")
    said = complaints(folder, tmp_path).splitlines()
    assert [line.partition(": ")[0].rpartition("/")[2] for line in said] == ["attention.csv", "dense.csv"]
    assert "columns n_decode are missing, expected prefill_chunk, kv_prefill" in said[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("gate_up_proj,512,737", "gate_up_proj,512,fast", "columns time_us hold something else than numbers"),
        (
            "gate_up_proj,512,737",
            "gate_up_proj,256,737",
            "lack some of the values that other layers have, expected all alike",
        ),
        ("gate_up_proj,512,737", "gate_up_proj,512,", "found empty cells, expected a number in each"),
    ],
)
def test_a_bad_table_is_refused(old: str, new: str, said: str, folder: Path, tmp_path: Path) -> None:
    edit(folder / "tp1" / "dense.csv", old, new)
    assert said in complaints(folder, tmp_path)


def test_milliseconds_in_place_of_microseconds_are_faster_than_the_hardware(folder: Path, tmp_path: Path) -> None:
    file = folder / "tp1" / "dense.csv"
    header, *rows = file.read_text().splitlines()
    values = [row.rpartition(",") for row in rows]
    file.write_text("\n".join([header, *(f"{left},{float(us) / 1000}" for left, _, us in values)]))
    assert "is the unit wrong by a factor of 1000?" in complaints(folder, tmp_path)


def test_a_grid_with_a_hole_is_refused(folder: Path, tmp_path: Path) -> None:
    edit(folder / "tp1" / "attention.csv", "0,0,8,4096,48.96\n", "")
    assert "n_decode by kv_decode is no full grid" in complaints(folder, tmp_path)


def test_a_model_without_a_preset_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "meta.yaml").write_text(yaml.safe_dump({**META, "model": "nobody/Nothing-1B"}))
    assert "model: found nobody/Nothing-1B, expected one of the presets llama-3.1-8b" in complaints(folder, tmp_path)


def halved(folder: Path) -> Path:
    """The tables as those of one of two GPUs."""
    return (folder / "tp1").rename(folder / "tp2")


def test_times_of_one_of_two_gpus_say_so_and_all_reduces_come_on_top(folder: Path, tmp_path: Path) -> None:
    halved(folder)
    import_profile("vllm-layers", folder, tmp_path / "gpu.yaml")
    profile = read_profile(tmp_path / "gpu.yaml")
    assert profile.tensor_parallel == 2
    assert any("all-reduces are not in the times" in note for note in profile.notes)
    model = load_models()["llama-3.1-8b"].value
    tables, gpu = profile.layer_tables(), load_gpus()["a100-sxm-80g"].value
    assert tables is not None
    alone = LayerSteps(tables, model, None, 1).prefill_ns([(0, 16)], 0, 0)
    shared = LayerSteps(tables, model, gpu, 2).prefill_ns([(0, 16)], 0, 0)
    reduced_ns = 64 * all_reduce_s(gpu, 2, 16 * 4096 * 2) * 1e9  # two a layer
    assert shared - alone == pytest.approx(reduced_ns, abs=2)


def test_kernels_of_one_of_two_gpus_have_half_the_width(folder: Path) -> None:
    tables = load_layers(halved(folder))
    shapes = {(n, k) for n, k in tables["gemm"][["n", "k"]].to_numpy().tolist()}
    assert shapes == {(3072, 4096), (4096, 2048), (14336, 4096), (4096, 7168), (64128, 4096)}
    assert set(tables["generation_attention"]["heads"]) == {16}
    assert set(tables["generation_attention"]["kv_heads"]) == {4}


def test_of_several_numbers_of_gpus_one_must_be_named(folder: Path, tmp_path: Path) -> None:
    (folder / "tp2").mkdir()
    assert "found tp1, tp2, expected PATH to name one of them" in complaints(folder, tmp_path)
    import_profile("vllm-layers", folder / "tp1", tmp_path / "gpu.yaml")
    assert read_profile(tmp_path / "gpu.yaml").tensor_parallel == 1


def test_gpus_that_do_not_divide_the_heads_are_told(folder: Path, tmp_path: Path) -> None:
    (folder / "tp1").rename(folder / "tp3")
    assert "found 3 GPUs, expected a divisor of the 32 heads of llama-3.1-8b" in complaints(folder, tmp_path)


def test_a_mixture_of_experts_is_told_to_be_out_of_reach(folder: Path, tmp_path: Path) -> None:
    (folder / "meta.yaml").write_text(yaml.safe_dump({**META, "model": "mistralai/Mixtral-8x7B-v0.1"}))
    said = complaints(folder, tmp_path)
    assert "found mistralai/Mixtral-8x7B-v0.1, expected one of the presets" in said
    (folder / "meta.yaml").write_text(yaml.safe_dump({**META, "model": "Qwen/Qwen3-30B-A3B"}))
    said = complaints(folder, tmp_path)
    assert "found Qwen/Qwen3-30B-A3B, a mixture of experts, expected a dense model: the layout has no times by" in said


LAYERS = {
    "tokens": "1 8",
    "dense": [{"kernel": "k", "times": 2, "us": "1 2"}],
    "sequences": "1 8",
    "per_sequence": [{"kernel": "s", "times": 1, "us": "1 1"}],
    "attention_times": 2,
    "past_tokens": "0 8",
    "context_tokens": "8 16",
    "prefill": [{"chunk_tokens": 8, "us": "1 2"}, {"chunk_tokens": 16, "us": "2 4"}],
    "decode": [{"decodes": count, "us": f"{count} {2 * count}"} for count in (1, 2, 4)],
    "mixed": [
        {"chunk_tokens": chunk, "past_tokens": past, "decodes": count, "us": f"{count} {2 * count}"}
        for chunk in (8, 16)
        for past in (0, 8)
        for count in (1, 2)
    ],
}


def test_missing_rows_of_many_decodes_go_on_as_the_two_before() -> None:
    tables = layer_tables("t", LayerTimes.model_validate(LAYERS), 0)
    assert tables.mixed_decodes_max == 2
    assert tables.mixed_us[:6] == (2, 4, 4, 8, 8, 16)  # 1 and 2 decodes were measured, 4 goes on; twice a step


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": "1 8 4"}, "found 8 before 4, expected them to ascend"),
        ({"tokens": "1 8 9"}, "found a row of 2 numbers, expected 3, as tokens has"),
        ({"past_tokens": "4 8"}, "expected them from 0 on"),
        ({"dense": [{"kernel": "k", "times": 2, "us": "1 x"}]}, "found 'x', expected numbers"),
        ({"mixed": LAYERS["mixed"][1:]}, "found no row of mixed for chunk_tokens 8, past_tokens 0, decodes 1"),  # type: ignore[index]
    ],
)
def test_tables_that_do_not_fit_together_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LayerTimes.model_validate({**LAYERS, **change})
