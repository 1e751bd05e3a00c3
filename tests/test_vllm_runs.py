"""Replays of recorded vLLM runs: what is taken from their settings, and how true the prediction is."""

import json
from pathlib import Path

import pytest
import yaml

from kvsim.fidelity import vllm_runs
from kvsim.profile.importers import import_profile
from kvsim.scenario import load_scenario

ROOT = Path(__file__).resolve().parents[1]
HARDWARE = ROOT.parent / "shared" / "hardware"
RUN = HARDWARE / "rtx4090_vllm_run"
META = {
    "model": "meta-llama/Llama-3.1-8B",
    "engine_kwargs": {"tensor_parallel_size": 1},
    "kv_cache": {"num_gpu_blocks": 2588, "block_size": 16, "enable_prefix_caching": True},
    "hardware": {"device_name": "NVIDIA GeForce RTX 4090"},
    "resolved_config": {
        "scheduler_config": {
            "max_num_seqs": 256,
            "max_num_batched_tokens": 2048,
            "async_scheduling": True,
            "scheduler_reserve_full_isl": True,
        }
    },
}

needs_run = pytest.mark.skipif(
    not RUN.is_dir(), reason="needs the recorded run: github.com/casys-kaist/LLMServingSim, bench/examples/RTX4090"
)


def meta_file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "meta.json"
    file.write_text(text)
    return file


def test_the_shipped_scenario_says_what_the_settings_of_the_run_say(tmp_path: Path) -> None:
    shipped = yaml.safe_load((ROOT / "scenarios" / "rtx4090_vllm.yaml").read_text(encoding="utf-8"))
    settings = vllm_runs.settings(meta_file(tmp_path, json.dumps(META)))
    assert shipped["workers"]["gpu"].pop("profile")
    ready_after, _ = vllm_runs.FIRST_STEPS["rtx4090_vllm_run"]
    assert shipped["faults"] == [{"kind": "worker_joins", "worker": "gpu", "at": ready_after}]
    assert shipped["workers"]["gpu"].pop("count") == 1
    settings["workers"]["gpu"].pop("tensor_parallel")  # 1 is the default
    for key in ("model", "cache", "workers", "transfer", "scheduling"):
        assert shipped[key] == settings[key]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("{}", "key 'engine_kwargs' is missing"),
        (json.dumps({**META, "hardware": {"device_name": "Voodoo 2"}}), "found a run on Voodoo 2, expected a GPU that"),
    ],
)
def test_settings_that_cannot_be_used_are_told(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(vllm_runs.VllmRunError, match=said):
        vllm_runs.settings(meta_file(tmp_path, text))


def test_a_folder_without_runs_is_told(tmp_path: Path) -> None:
    with pytest.raises(vllm_runs.VllmRunError, match="found no recorded run, expected folders with"):
        vllm_runs.rows(tmp_path)


@needs_run
def test_the_recorded_run_is_followed_within_two_per_cent() -> None:
    rows = [row for row in vllm_runs.rows(HARDWARE) if row.limit is not None]
    assert [row.metric for row in rows] == [
        *(f"TTFT {statistic}" for statistic in ("mean", "p50", "p90", "p99")),
        "TPOT mean",
        "TPOT p90",
        "latency mean",
        "latency p99",
    ]
    assert all(row.met for row in rows), rows


@needs_run
def test_the_shipped_scenario_loads_with_the_public_files(tmp_path: Path) -> None:
    import_profile("vllm-layers", RUN / "profile", tmp_path / "gpu.yaml")
    overrides = (
        f"workers.gpu.profile={tmp_path / 'gpu.yaml'}",
        f"workload.trace.path={RUN / 'run' / 'requests.jsonl'}",
    )
    variant = load_scenario(ROOT / "scenarios" / "rtx4090_vllm.yaml", overrides).variants[0]
    assert variant.cluster.workers[0].kv_blocks == 2587
    assert variant.hardware.workers[0].layers is not None
