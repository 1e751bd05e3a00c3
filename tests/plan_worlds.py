"""Small scenarios and made-up searches for the tests of plans."""

from typing import Any

from kvsim.plan.probe import Probe
from kvsim.plan.search import Found
from kvsim.scenario import Scenario, scenario_from_mapping

AZURE_LENGTHS = {
    "prompt_tokens": {"kind": "lognormal", "mean_tokens": 1155, "cv": 0.96, "tokens_min": 2, "tokens_max": 14050},
    "output_tokens": {"kind": "lognormal", "mean_tokens": 211, "cv": 0.77, "tokens_min": 7, "tokens_max": 1000},
}
"""Mean, spread and limits of the lengths of AzureLLMInferenceTrace_conv.csv, as scenarios/azure_conv.yaml has them."""


PLAIN_H100 = {
    "name": "h100-sxm",
    "flop_rate": "989.4 TFLOP/s",
    "memory": "79.1 GiB",
    "memory_bandwidth": "3.35 TB/s",
    "gemm_efficiency": 0.72,
    "prefill_attention_efficiency": 0.5,
    "decode_attention_efficiency": 0.75,
    "memory_efficiency": 0.83,
    "collective_bandwidth": "360 GB/s",
    "collective_latency": "10 us",
    "launch": "12 us",
    "step": "500 us",
}
"""Of a plain roofline: plans are tested on a machine that a better fit of the preset does not change."""


def planned(**changes: Any) -> Scenario:
    """Llama 3.1 8B on one prefill and one decode H100, with the lengths of the Azure trace. Keys are top-level ones."""
    worker = {"count": 1, "gpu": PLAIN_H100, "nic": "cx7-400g"}
    mapping: dict[str, Any] = {
        "name": "planned",
        "seed": 1,
        "model": "llama-3.1-8b",
        "workers": {"prefill": {"role": "prefill", **worker}, "decode": {"role": "decode", **worker}},
        "workload": {"requests": 100, "arrivals": {"kind": "poisson", "rate": "1 req/s"}, "lengths": AZURE_LENGTHS},
        "slo": {"ttft": "500 ms", "tpot": "25 ms"},
        **changes,
    }
    return scenario_from_mapping(mapping)


def found_at(goodput: float) -> Found:
    """A search that ended at this goodput; 0 for one that found none."""
    blank = dict.fromkeys(("ttft_mean_s", "ttft_p90_s", "ttft_p99_s", "tpot_mean_s", "tpot_p90_s", "tpot_p99_s"))
    probe = Probe(
        rate_per_s=goodput or 1.0,
        seed=1,
        requests=100,
        attainment=0.95 if goodput else 0.1,
        low=0.9,
        high=0.99,
        effective_requests=100.0,
        duration_s=10.0,
        **blank,
        e2e_mean_s=1.0,
        e2e_p99_s=1.0,
        output_tokens_per_request=100.0,
        binding=None,
        binding_share=0.0,
        gpu_busy={},
        link_utilisation=0.0,
    )
    return Found(0.9, (probe,))
