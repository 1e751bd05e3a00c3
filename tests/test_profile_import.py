"""``kvsim profile import``: what is read, what is written, and what cannot be true."""

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from kvsim.cli import app
from kvsim.profile.importers import ProfileImportError, import_profile
from kvsim.profile_kinds import IMPORTERS
from kvsim.scenario import read_profile

GEMM = pd.DataFrame(
    {
        "framework": "VLLM",
        "version": "0.24.0",
        "device": "NVIDIA H100 80GB HBM3",
        "gemm_dtype": "bfloat16",
        "m": [4096, 1, 1],
        "n": [8192, 8192, 8192],
        "k": [8192, 8192, 8192],
        "latency": [0.7, 0.05, 0.06],  # milliseconds
    }
)


def folder_with(tmp_path: Path, table: pd.DataFrame, name: str = "gemm") -> Path:
    table.to_parquet(tmp_path / f"{name}_perf.parquet")
    return tmp_path


def test_kernel_tables_become_a_profile_in_microseconds_with_repeated_rows_folded(tmp_path: Path) -> None:
    lines = import_profile("vllm-kernels", folder_with(tmp_path, GEMM), tmp_path / "out" / "h100.yaml")
    assert lines[-1] == f"wrote {tmp_path / 'out' / 'h100.yaml'}"
    profile = read_profile(tmp_path / "out" / "h100.yaml")
    assert (profile.name, profile.machine, profile.engine) == ("h100", "NVIDIA H100 80GB HBM3", "VLLM 0.24.0")
    assert profile.notes == ["without context_attention_perf.parquet, generation_attention_perf.parquet"]
    table = pd.read_parquet(tmp_path / "out" / profile.tables["gemm"].file)
    assert list(table.columns) == list(profile.tables["gemm"].columns)
    assert table[["m", "us"]].to_numpy().tolist() == [[1, pytest.approx(55.0)], [4096, pytest.approx(700.0)]]


def test_decodes_attend_to_the_steps_before_and_to_themselves(tmp_path: Path) -> None:
    table = GEMM.drop(columns=["gemm_dtype", "m", "n", "k"]).assign(
        attn_dtype="bfloat16", kv_cache_dtype="fp8", batch_size=[1, 2, 4], isl=1, step=[63, 63, 127],
        num_heads=8, num_key_value_heads=1, head_dim=128, window_size=0,
    )  # fmt: skip
    import_profile("vllm-kernels", folder_with(tmp_path, table, "generation_attention"), tmp_path / "p.yaml")
    assert pd.read_parquet(tmp_path / "p.generation_attention.parquet")["tokens"].tolist() == [64, 64, 128]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (GEMM.drop(columns=["k"]), "gemm_perf.parquet: columns k are missing, expected framework, version, device,"),
        (GEMM.assign(latency=GEMM["latency"] / 1000), "times are 794 times as short as the hardware allows"),
        (GEMM.assign(latency=GEMM["latency"] * 1000), "times reach 0.00079 of what the datasheet allows"),
        (GEMM.assign(latency=[0.0, 0.05, 0.06]), "latency: 1 times are not positive numbers"),
        (GEMM.assign(m=["4096", "x", "1"]), "gemm_perf.parquet: columns m hold something else than numbers"),
        (GEMM.head(0), "gemm_perf.parquet: found no rows"),
        (GEMM.assign(version=["1", "2", "2"]), "found several values of framework and version: VLLM 1, VLLM 2"),
    ],
)
def test_tables_that_cannot_be_used_are_told_before_anything_is_written(
    tmp_path: Path, table: pd.DataFrame, message: str
) -> None:
    folder = folder_with(tmp_path, table)
    with pytest.raises(ProfileImportError) as caught:
        import_profile("vllm-kernels", folder, tmp_path / "p.yaml")
    assert message in str(caught.value)
    assert not (tmp_path / "p.yaml").exists()


def test_a_gpu_without_a_preset_is_not_held_against_a_datasheet_and_the_profile_says_so(tmp_path: Path) -> None:
    import_profile("vllm-kernels", folder_with(tmp_path, GEMM.assign(device="other")), tmp_path / "p.yaml")
    assert (
        "no preset describes other: times were not held against a datasheet" in read_profile(tmp_path / "p.yaml").notes
    )


def test_files_that_are_not_there_or_no_tables_are_told(tmp_path: Path) -> None:
    with pytest.raises(ProfileImportError, match="there is no such file or folder; vllm-kernels reads a folder with"):
        import_profile("vllm-kernels", tmp_path / "missing", tmp_path / "p.yaml")
    with pytest.raises(ProfileImportError, match=r"found none of gemm_perf.parquet, "):
        import_profile("vllm-kernels", tmp_path, tmp_path / "p.yaml")
    (tmp_path / "gemm_perf.parquet").write_text("text")
    with pytest.raises(ProfileImportError, match=r"gemm_perf.parquet: no Parquet file that can be read"):
        import_profile("vllm-kernels", tmp_path, tmp_path / "p.yaml")


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(ProfileImportError, match=r"found kind 'vllm-kernel' \(did you mean 'vllm-kernels'\?\)"):
        import_profile("vllm-kernel", Path(), Path("p.yaml"))


def test_every_kind_is_named_in_the_help() -> None:
    text = CliRunner().invoke(app, ["profile", "import", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    assert all(importer.kind in text for importer in IMPORTERS)
