"""Recorded runs of vLLM, replayed with the settings and the per-layer profile that were recorded with them.

A run is a folder with ``run/meta.json`` and ``run/requests.jsonl`` and, for the same GPU and model, ``profile``, in the
layouts of casys-kaist/LLMServingSim 2.0. Everything comes from there; no latency of the run is fitted. What the run
itself had to tell is in ``FIRST_STEPS``, from requests that the comparison leaves out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from kvsim.errors import KvsimError
from kvsim.fidelity.rows import Row
from kvsim.profile.importers import import_profile
from kvsim.profile.plausible import preset_of
from kvsim.scenario import load_scenario
from kvsim.study import run_scenario
from kvsim.validation.recorded import Comparison, compare_with_recorded

FIRST_STEPS = {"rtx4090_vllm_run": ("387 ms", 2)}
"""By folder: how long the engine's first step kept it from taking in requests (kernels are loaded on first use), and
how many first requests that was read from. In rtx4090_vllm_run request 0 was scheduled at 27536.661 s, and the next
one, which had arrived 0.12 s before, was taken in at 27537.048 s."""

_LIMIT = 0.02
_LIMITED = (
    ("ttft", ("mean", "p50", "p90", "p99")),
    ("tpot", ("mean", "p90")),
    ("e2e", ("mean", "p99")),
)
_WORDS = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "latency"}


class VllmRunError(KvsimError):
    """A recorded run cannot be replayed."""


def rows(folder: Path) -> list[Row]:
    """The rows of every run in the folder. Raises VllmRunError if there is none."""
    return [row for run in recorded_runs(folder) for row in _rows(run)]


def recorded_runs(folder: Path) -> list[Path]:
    """Every run in the folder. Raises VllmRunError if there is none."""
    runs = [path for path in sorted(folder.iterdir()) if (path / "run" / "meta.json").is_file()]
    if not runs:
        raise VllmRunError(
            f"{folder}: found no recorded run, expected folders with run/meta.json and run/requests.jsonl"
        )
    return runs


def replay(run: Path, ready_after: str | None = None, leave_out: int = 0) -> Comparison:
    """Simulate a recorded run and hold it against the record. ``ready_after``: see ``FIRST_STEPS``."""
    with TemporaryDirectory() as scratch:
        place = Path(scratch)
        scenario = settings(run / "run" / "meta.json")
        if ready_after is not None:
            scenario["faults"] = [{"kind": "worker_joins", "worker": "gpu", "at": ready_after}]
        if (run / "profile").is_dir():
            import_profile("vllm-layers", run / "profile", place / "profile.yaml")
            scenario["workers"]["gpu"]["profile"] = str(place / "profile.yaml")
        requests = run / "run" / "requests.jsonl"
        scenario["workload"] = {"trace": {"path": str(requests.resolve()), "format": "recorded"}}
        (place / "scenario.yaml").write_text(yaml.safe_dump(scenario), encoding="utf-8")
        result = run_scenario(load_scenario(place / "scenario.yaml"), place / "run", report=False)
        return compare_with_recorded(result.path, requests, leave_out=leave_out)


def settings(meta_file: Path) -> dict[str, Any]:
    """The scenario that a run's meta.json describes, without its load. Raises VllmRunError for what is missing."""
    try:
        meta = json.loads(meta_file.read_text(encoding="utf-8"))
        return _settings(meta)
    except (OSError, ValueError) as error:
        raise VllmRunError(f"{meta_file}: cannot be read: {error}") from error
    except KeyError as error:
        raise VllmRunError(f"{meta_file}: key {error} is missing, expected what LLMServingSim 2.0 records") from error


def _settings(meta: Mapping[str, Any]) -> dict[str, Any]:
    engine, cache = meta["engine_kwargs"], meta["kv_cache"]
    scheduler = meta["resolved_config"]["scheduler_config"]
    device = meta["hardware"]["device_name"]
    gpu = preset_of(device)
    if gpu is None:
        raise VllmRunError(f"found a run on {device}, expected a GPU that a preset describes ('kvsim list gpus')")
    return {
        "model": str(meta["model"]).rpartition("/")[2].lower(),
        "cache": {
            "block_tokens": cache["block_size"],
            "allocation": "oldest_first",
            "prefix_caching": cache["enable_prefix_caching"],
        },
        "workers": {
            "gpu": {
                "role": "colocated",
                "gpu": gpu,
                "nic": "cx7-400g",  # nothing is transferred
                "tensor_parallel": engine["tensor_parallel_size"],
                "kv_blocks": cache["num_gpu_blocks"] - 1,  # vLLM keeps one empty, its null block
                "batch_requests_max": scheduler["max_num_seqs"],
                "chunk_tokens_max": scheduler["max_num_batched_tokens"],
                "watermark": 0.0,
            }
        },
        "transfer": {"mode": "colocated"},
        "scheduling": {
            "async_scheduling": scheduler["async_scheduling"],
            "admission": "prompt" if scheduler.get("scheduler_reserve_full_isl") else "chunk",
        },
    }


def _rows(run: Path) -> list[Row]:
    ready_after, leave_out = FIRST_STEPS.get(run.name, (None, 0))
    name = run.name.replace("_", " ")
    found = _compared(name, replay(run, ready_after, leave_out), _LIMIT)
    if leave_out:
        found += _compared(f"{name}, warm from the start", replay(run), None)
    return found


def _compared(target: str, comparison: Comparison, limit: float | None) -> list[Row]:
    note = "; ".join(comparison.notes)
    found = {(row["latency"], row["statistic"]): row for row in comparison.errors.to_dict("records")}
    rows = []
    for latency, statistics in _LIMITED:
        for statistic in statistics:
            row = found[latency, statistic]
            error = float(row["error"])
            metric = f"{_WORDS[latency]} {statistic}"
            rows.append(Row(target, metric, abs(error), limit, int(row["requests"]), error, note))
    return rows
