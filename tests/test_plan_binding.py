"""Each case is short of one resource by construction, and that one is blamed."""

from typing import Any

import numpy as np
import pytest
from plan_worlds import planned

from kvsim.plan.load import load_of
from kvsim.plan.misses import misses_of
from kvsim.plan.probe import Probe, probe
from kvsim.study import simulate, workload_of

GPU = {"gpu": "h100-sxm", "nic": "cx7-400g"}
BLOCKS_OF_ONE = 258  # a prompt of 4,096 tokens, and room for 16 more


def lengths(prompt: int, output: int) -> dict[str, Any]:
    kinds = {"prompt_tokens": prompt, "output_tokens": output}
    return {key: {"kind": "fixed", "tokens": tokens} for key, tokens in kinds.items()}


def run(
    prompt: int,
    output: int,
    rate: float,
    *,
    mode: str = "pull",
    slo: dict[str, str] | None = None,
    prefill: dict[str, Any] | None = None,
    decode: dict[str, Any] | None = None,
    requests: int = 150,
    **changes: Any,
) -> Probe:
    """The run of a scenario with one prefill and one decode worker at a rate that is too high for it."""
    workers = {
        "prefill": {"role": "prefill", **GPU, **(prefill or {})},
        "decode": {"role": "decode", **GPU, **(decode or {})},
    }
    workload = {
        "requests": requests,
        "arrivals": {"kind": "poisson", "rate": "1 req/s"},
        "lengths": lengths(prompt, output),
    }
    limits = slo or {"ttft": "400 ms", "tpot": "25 ms"}
    scenario = planned(workers=workers, transfer={"mode": mode}, workload=workload, slo=limits, **changes)
    load = load_of(scenario.variants[0].workload, 1, requests)
    return probe(scenario.variants[0], load, rate)


def test_long_prompts_and_short_outputs_lack_prefill_compute() -> None:
    seen = run(8000, 20, 10.0)
    assert seen.attainment < 0.5
    assert seen.binding == "prefill compute"
    assert seen.binding_share > 0.9


def test_long_outputs_under_a_tight_limit_between_tokens_lack_decode_compute() -> None:
    seen = run(200, 800, 12.0, slo={"ttft": "400 ms", "tpot": "7.5 ms"})
    assert seen.attainment < 0.5
    assert seen.binding == "decode compute"
    assert seen.binding_share > 0.9


@pytest.mark.parametrize("mode", ["pull", "push", "streamed"])
def test_a_small_decode_pool_lacks_decode_memory(mode: str) -> None:
    """800 blocks hold four requests of 200 blocks at a time; the compute of either side would carry more."""
    seen = run(3000, 200, 4.0, mode=mode, decode={"kv_blocks": 820})
    assert seen.attainment < 0.5
    assert seen.binding == "decode KV memory"


def test_a_narrow_nic_lacks_network() -> None:
    """0.5 GB of KV take 4.3 s at 1 Gbit/s: far more than 100 tokens may wait."""
    slow = {"nic": {"preset": "cx7-400g", "rate": "1 Gbit/s"}}
    seen = run(4000, 100, 0.5, prefill=slow, decode=slow, requests=40)
    assert seen.attainment == 0
    assert seen.binding == "network"
    assert seen.link_utilisation > 0.5


def test_a_narrow_nic_is_blamed_where_the_decode_worker_sends_the_first_token() -> None:
    slow = {"nic": {"preset": "cx7-400g", "rate": "1 Gbit/s"}}
    seen = run(4000, 100, 0.1, prefill=slow, decode=slow, requests=20, metrics={"first_token": "decode"})
    assert seen.binding == "network"


def test_a_prefill_pool_for_one_prompt_lacks_prefill_memory() -> None:
    """The next prompt cannot start before the KV of this one has left, which takes about half as long as a prefill."""
    nic = {"nic": "cx5-100g"}
    seen = run(4096, 16, 20.0, prefill={"kv_blocks": BLOCKS_OF_ONE, **nic}, decode=nic)
    assert seen.attainment < 0.5
    assert seen.binding == "prefill KV memory"
    assert seen.gpu_busy["prefill"] < 0.8
    more = run(4096, 16, 20.0, prefill={"kv_blocks": 20 * BLOCKS_OF_ONE, **nic}, decode=nic)
    assert more.binding == "prefill compute"


def test_a_small_colocated_pool_lacks_memory_and_a_large_one_compute() -> None:
    small = run(2000, 300, 8.0, mode="colocated", prefill={"kv_blocks": 300}, decode={"kv_blocks": 300})
    assert small.binding == "KV memory"
    large = run(8000, 20, 20.0, mode="colocated")
    assert large.binding == "prefill compute"
    talkative = run(100, 800, 40.0, mode="colocated", slo={"tpot": "7.5 ms"})
    assert talkative.binding == "decode compute"


def test_nothing_binds_where_everybody_meets_the_limits() -> None:
    seen = run(200, 20, 1.0)
    assert (seen.attainment, seen.binding, seen.binding_share) == (1.0, None, 0.0)


@pytest.mark.parametrize("limits", [{"ttft": "150 ms"}, {"tpot": "9 ms"}, {"ttft": "150 ms", "tpot": "9 ms"}])
def test_misses_agree_with_the_attainment_of_the_summary(limits: dict[str, str]) -> None:
    """With requests that were rejected, too."""
    scenario = planned(
        slo=limits,
        scheduling={"prefill_wait_max": "100 ms"},
        workload={
            "requests": 200,
            "arrivals": {"kind": "poisson", "rate": "30 req/s"},
            "lengths": lengths(2000, 100),
        },
    )
    variant = scenario.variants[0]
    result = simulate(variant, workload_of(scenario, variant))
    misses = misses_of(result.columns, variant.slo, variant.first_token)
    assert result.summary["requests"]["rejected"] > 0
    assert float(np.mean(misses.met)) == pytest.approx(result.summary["slo_attainment"], abs=1e-12)
