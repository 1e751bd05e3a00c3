"""Scenario files that are right: what they come to, variant by variant, and that what is dumped loads again."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.core.cluster import LAYER_MAJOR
from kvsim.scenario import Scenario, Variant, check_fits, dump_resolved, load_scenario, scenario_from_mapping
from kvsim.workload import generate
from kvsim.workload.spec import (
    EmpiricalPairs,
    FixedGapArrivals,
    FixedLength,
    GammaArrivals,
    GeneratedWorkload,
    LengthPairs,
    LognormalLength,
    PoissonArrivals,
    TraceWorkload,
    UniformLength,
)


def minimal(**changes: Any) -> dict[str, Any]:
    mapping: dict[str, Any] = {
        "model": "llama-3.1-8b",
        "workers": {
            "prefill": {"role": "prefill", "gpu": "h100-sxm", "nic": "cx7-400g"},
            "decode": {"role": "decode", "count": 2, "gpu": "a100-sxm-80g", "nic": "cx6-200g", "kv_blocks": 1000},
        },
        "workload": {
            "requests": 10,
            "arrivals": {"kind": "poisson", "rate": "4 req/s"},
            "lengths": {
                "prompt_tokens": {"kind": "fixed", "tokens": 100},
                "output_tokens": {"kind": "uniform", "tokens_min": 1, "tokens_max": 20},
            },
        },
    }
    return {**mapping, **changes}


def only(scenario: Scenario) -> Variant:
    assert len(scenario.variants) == 1
    return scenario.variants[0]


def test_a_file_without_variants_is_one_variant_with_every_default() -> None:
    scenario = scenario_from_mapping(minimal())
    variant = only(scenario)
    assert (scenario.name, scenario.seed, variant.name, variant.first_token) == ("scenario", 1, "base", "prefill")
    assert (variant.slo.ttft_ns, variant.slo.tpot_ns) == (None, None)
    assert [(worker.id, worker.name, worker.role) for worker in variant.cluster.workers] == [
        (0, "prefill0", "prefill"),
        (1, "decode0", "decode"),
        (2, "decode1", "decode"),
    ]
    assert [worker.gpu.name for worker in variant.hardware.workers if worker.gpu] == [
        "h100-sxm",
        "a100-sxm-80g",
        "a100-sxm-80g",
    ]
    assert [worker.nic.rate_bytes_per_s for worker in variant.hardware.workers] == [48.5e9, 24.25e9, 24.25e9]
    kv, policy = variant.cluster.kv, variant.cluster.policy
    assert (kv.layers, kv.kv_heads, kv.head_dim, kv.dtype_bytes, kv.block_tokens) == (32, 8, 128, 2, 16)
    assert kv.layout == LAYER_MAJOR
    assert (policy.transfer_mode, policy.layers_per_group, policy.steps_max) == ("pull", 8, 1024)
    assert policy.prefill_wait_max_ns is None
    assert (variant.hardware.message.handshake_ns, variant.hardware.decision_ns) == (50_000, 0)
    assert variant.workload == GeneratedWorkload(
        10, PoissonArrivals(4.0), LengthPairs(FixedLength(100), UniformLength(1, 20)), None
    )


def test_kv_cache_is_given_in_blocks_in_bytes_for_each_gpu_or_left_to_the_memory() -> None:
    pool = {"role": "prefill", "gpu": "h100-sxm", "nic": "cx7-400g"}
    decode = minimal()["workers"]["decode"]
    blocks = {}
    ways: dict[str, dict[str, object]] = {"auto": {}, "bytes": {"kv_memory": "1 GiB"}, "blocks": {"kv_blocks": 77}}
    for name, given_memory in ways.items():
        workers = {"prefill": {**pool, **given_memory, "watermark": 0.1}, "decode": decode}
        worker = only(scenario_from_mapping(minimal(workers=workers))).cluster.workers[0]
        blocks[name] = worker.kv_blocks
        assert worker.watermark_blocks == worker.kv_blocks // 10
    # 1 GiB over blocks of 2 MiB; auto: 0.9 x 79.1 GiB less weights 14.96, rotary 0.03, the widest layer of 16,384
    # tokens 1.375 (the sampler takes less) and runtime 0.13 leaves 54.7 GiB
    assert blocks == {"auto": 28004, "bytes": 512, "blocks": 77}


def test_tensor_parallel_gpus_each_bring_memory() -> None:
    workers = minimal()["workers"]
    workers["prefill"] |= {"tensor_parallel": 2, "kv_memory": "1 GiB", "nics": 2}
    variant = only(scenario_from_mapping(minimal(workers=workers)))
    assert variant.cluster.workers[0].kv_blocks == 1024
    assert (variant.hardware.workers[0].tensor_parallel, variant.hardware.workers[0].nics) == (2, 2)


def test_one_line_makes_every_worker_colocated_with_smaller_steps() -> None:
    scenario = scenario_from_mapping(minimal(variants={"pull": None, "colocated": {"transfer.mode": "colocated"}}))
    pull, colocated = scenario.variants
    assert [worker.role for worker in colocated.cluster.workers] == ["colocated"] * 3
    assert {worker.batch_tokens_max for worker in colocated.cluster.workers} == {2048}
    assert {worker.batch_tokens_max for worker in pull.cluster.workers} == {16384}
    assert colocated.cluster.workers[0].kv_blocks > pull.cluster.workers[0].kv_blocks  # smaller steps take less memory
    assert colocated.hardware == pull.hardware


def test_variants_change_pools_presets_kinds_and_limits() -> None:
    scenario = scenario_from_mapping(
        minimal(
            slo={"ttft": "1 s", "tpot": "50 ms"},
            variants={
                "base2": {},
                "more": {"workers.prefill.count": 3, "slo.ttft": "none"},
                "slow": {"workers": {"decode": {"nic": {"rate": "10 Gbit/s"}}}},
                "burst": {"workload.arrivals": {"kind": "gamma", "cv": 2}, "slo": None},
            },
        )
    )
    base, more, slow, burst = scenario.variants
    assert [worker.name for worker in more.cluster.workers][:3] == ["prefill0", "prefill1", "prefill2"]
    assert (base.slo.ttft_ns, more.slo.ttft_ns, more.slo.tpot_ns) == (10**9, None, 50 * 10**6)
    assert slow.hardware.workers[1].nic.rate_bytes_per_s == 1.25e9
    assert slow.hardware.workers[1].nic.latency_ns == base.hardware.workers[1].nic.latency_ns
    assert isinstance(burst.workload, GeneratedWorkload)
    assert burst.workload.arrivals == GammaArrivals(4.0, 2.0)
    assert burst.slo.ttft_ns is None


def test_options_come_before_variants_and_may_change_them() -> None:
    mapping = minimal(variants={"a": {}, "b": {"transfer.mode": "push"}})
    scenario = scenario_from_mapping(mapping, ["transfer.mode=streamed", "variants.b.transfer.layers_per_group=4"])
    modes = [(v.cluster.policy.transfer_mode, v.cluster.policy.layers_per_group) for v in scenario.variants]
    assert modes == [("streamed", 8), ("push", 4)]
    assert [v.name for v in scenario_from_mapping(mapping, ["variants=null"]).variants] == ["base"]
    assert [v.name for v in scenario_from_mapping(mapping, ["variants.b=null"]).variants] == ["a"]
    assert scenario_from_mapping(mapping, ["variants.b.transfer.mode=message"]).variants[1].cluster.policy == (
        scenario_from_mapping(mapping, ["variants.b={transfer.mode: message}"]).variants[1].cluster.policy
    )


def test_the_seed_of_the_caller_wins() -> None:
    assert scenario_from_mapping(minimal(seed=7)).seed == 7
    assert scenario_from_mapping(minimal(seed=7), ["seed=8"]).seed == 8
    assert scenario_from_mapping(minimal(seed=7), ["seed=8"], seed=9).seed == 9


def test_network_transfer_and_scheduling_reach_their_values() -> None:
    mapping = minimal(
        network={"uplinks": {"rack0": {"rate": "100 Gbit/s", "latency": "1 us"}}},
        transfer={"mode": "message", "message": {"handshakes": 2, "handshake": "10 us", "pack_efficiency": 0.5}},
        scheduling={"decode_placement": "round_robin", "prefill_wait_max": "30 s", "decision": "5 us", "steps_max": 1},
        cache={
            "block_tokens": 32,
            "layout": ["block", "layer", "kv", "token", "head", "dim"],
            "allocation": "scattered",
        },
        metrics={"first_token": "decode"},
    )
    mapping["workers"]["prefill"]["uplink"] = "rack0"
    variant = only(scenario_from_mapping(mapping))
    hardware, policy, kv = variant.hardware, variant.cluster.policy, variant.cluster.kv
    assert [(u.name, u.rate_bytes_per_s, u.latency_ns) for u in hardware.uplinks] == [("rack0", 12.5e9, 1000)]
    assert [worker.uplink for worker in hardware.workers] == ["rack0", None, None]
    message = hardware.message
    assert (message.handshakes, message.handshake_ns, message.pack_efficiency) == (2, 10_000, 0.5)
    assert (policy.decode_placement, policy.prefill_wait_max_ns, policy.steps_max) == ("round_robin", 30 * 10**9, 1)
    assert (kv.block_tokens, kv.layout[0], policy.allocation) == (32, "block", "scattered")
    assert (hardware.decision_ns, variant.first_token) == (5_000, "decode")


def test_every_way_to_draw_lengths_and_arrivals() -> None:
    lengths = {
        "prompt_tokens": {"kind": "lognormal", "mean_tokens": 100, "cv": 1, "tokens_max": 900},
        "output_tokens": {"kind": "fixed", "tokens": 5},
    }
    arrivals = {"kind": "fixed", "rate": "30 req/min"}
    workload = {"requests": 3, "arrivals": arrivals, "lengths": lengths, "output_tokens_max": 64}
    assert only(scenario_from_mapping(minimal(workload=workload))).workload == GeneratedWorkload(
        3, FixedGapArrivals(0.5), LengthPairs(LognormalLength(100.0, 1.0, 1, 900), FixedLength(5)), 64
    )


def test_files_are_found_from_the_working_directory_or_beside_the_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "lengths.csv").write_text("num_prefill_tokens,num_decode_tokens\n5,6\n")
    monkeypatch.chdir(tmp_path)
    trace = minimal(workload={"trace": {"path": "lengths.csv", "rate_scale": 2, "requests_max": 5}})
    file = folder / "scenario.yaml"
    file.write_text(yaml.safe_dump(trace))
    path = str(folder / "lengths.csv")
    scenario = load_scenario(file)
    assert only(scenario).workload == TraceWorkload(path, "auto", 2.0, 5, None, None, None)
    assert scenario.document["workload"]["trace"]["path"] == path
    workload = {**minimal()["workload"], "lengths": {"kind": "empirical", "path": "elsewhere/lengths.csv"}}
    drawn = only(scenario_from_mapping(minimal(workload=workload))).workload
    assert isinstance(drawn, GeneratedWorkload)
    assert drawn.lengths == EmpiricalPairs("elsewhere/lengths.csv")


def test_the_resolved_document_has_everything_and_loads_to_the_same_variants(tmp_path: Path) -> None:
    variants = {
        "pull": {},
        "push": {"transfer.mode": "push"},
        "colocated": {"transfer.mode": "colocated"},
        "burst": {"workload.arrivals": {"kind": "gamma", "cv": 2}, "workers.more": minimal()["workers"]["prefill"]},
        "lognormal": {
            "workload.lengths.output_tokens": {"kind": "lognormal", "mean_tokens": 5.5, "cv": 1, "tokens_max": 20}
        },
    }
    scenario = scenario_from_mapping(minimal(variants=variants, description="a test"))
    assert scenario.document["scheduling"]["prefill_wait_max"] == "none"
    assert scenario.document["workers"]["prefill"]["gpu"]["memory_bandwidth"] == "3.35 TB/s"
    assert scenario.document["variants"]["push"]["transfer"] == {"mode": "push"}
    file = tmp_path / "resolved.yaml"
    file.write_text(dump_resolved(scenario))
    again = load_scenario(file)
    assert again.variants == scenario.variants
    assert again.document == scenario.document


@settings(max_examples=25)
@given(
    rate=st.floats(1e-3, 1e6, allow_nan=False),
    latency_ns=st.integers(0, 10**15),
    memory=st.integers(2**24, 2**40),
    efficiency=st.floats(1e-6, 1, allow_nan=False),
)
def test_any_quantity_survives_the_resolved_document(
    rate: float, latency_ns: int, memory: int, efficiency: float
) -> None:
    mapping = minimal()
    mapping["workers"]["prefill"]["nic"] = {"preset": "cx7-400g", "latency": f"{latency_ns} ns"}
    mapping["workers"]["prefill"]["gpu"] = {"preset": "h100-sxm", "gemm_efficiency": efficiency}
    mapping["workers"]["prefill"]["kv_memory"] = f"{memory} B"
    mapping["workload"]["arrivals"]["rate"] = f"{rate!r} req/s"
    scenario = scenario_from_mapping(mapping)
    assert scenario_from_mapping(yaml.safe_load(dump_resolved(scenario))).variants == scenario.variants


def test_requests_read_from_a_file_are_checked_against_context_and_memory(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("num_prefill_tokens,num_decode_tokens\n100,50\n")
    workload = {**minimal()["workload"], "lengths": {"kind": "empirical", "path": "rows.csv"}}
    fits = only(scenario_from_mapping(minimal(workload=workload), directory=tmp_path))
    assert check_fits(fits, generate(fits.workload, 1)) == []
    tight = only(scenario_from_mapping(minimal(workload=workload), ["workers.decode.kv_blocks=9"], directory=tmp_path))
    problems = check_fits(tight, generate(tight.workload, 1), "rows.csv")
    assert [str(problem) for problem in problems] == [
        "rows.csv: workload.lengths: found 10 of 10 requests too long, first request 0 of 100 + 50 tokens "
        "(prompt + output), expected at most 144: the KV cache of decode worker decode0 (9 blocks of 16 tokens); "
        "take shorter lengths, or workers with more KV cache"
    ]
    limited = only(
        scenario_from_mapping(
            minimal(workload=workload),
            ["workers.decode.kv_blocks=9", "workload.output_tokens_max=44"],
            directory=tmp_path,
        )
    )
    assert check_fits(limited, generate(limited.workload, 1)) == []


def test_a_trace_that_is_too_long_is_told_which_key_leaves_requests_out(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,140000,109\n"
    )
    variant = only(scenario_from_mapping(minimal(workload={"trace": {"path": str(trace)}})))
    (problem,) = check_fits(variant, generate(variant.workload, 1), str(trace))
    assert problem.key == "workload.trace.request_tokens_max"
    assert "found one request too long, first request 1 of 140000 + 109 tokens" in problem.message
    assert "--set workload.trace.request_tokens_max=16000 leaves them out" in problem.message


def test_loading_scenarios_needs_no_heavy_packages() -> None:
    code = (
        "import sys, kvsim.scenario; "
        "print([m for m in ('pandas', 'matplotlib', 'pyarrow', 'simpy', 'torch') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
