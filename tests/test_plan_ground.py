"""What a plan takes from a scenario, and what it makes of a layout."""

import pytest
from plan_worlds import planned

from kvsim.plan.errors import PlanError
from kvsim.plan.ground import ground_of, possible_degrees
from kvsim.plan.layouts import Layout, Side

POOL = {"gpu": "h100-sxm", "nic": "cx7-400g"}
PULL = Layout(Side(3, 2), Side(1, 4), "pull")


def two_pools(prefill: dict[str, object], decode: dict[str, object]) -> dict[str, object]:
    return {"prefill": {"role": "prefill", **POOL, **prefill}, "decode": {"role": "decode", **POOL, **decode}}


def test_a_layout_becomes_a_scenario_with_its_workers() -> None:
    variant = ground_of(planned()).scenario_of(PULL).variants[0]
    workers = [(worker.name, worker.role, worker.tensor_parallel) for worker in variant.cluster.workers]
    assert workers == [
        ("prefill0", "prefill", 2),
        ("prefill1", "prefill", 2),
        ("prefill2", "prefill", 2),
        ("decode0", "decode", 4),
    ]
    assert variant.cluster.policy.transfer_mode == "pull"


def test_colocated_workers_do_both() -> None:
    variant = ground_of(planned()).scenario_of(Layout(Side(2, 1), None, "colocated")).variants[0]
    assert [worker.role for worker in variant.cluster.workers] == ["colocated", "colocated"]


def test_every_gpu_keeps_its_share_of_the_network() -> None:
    """Two NICs for four GPUs: two GPUs have one, eight have four, and one GPU half the rates of one."""
    ground = ground_of(planned(workers=two_pools({"tensor_parallel": 4, "nics": 2}, {"tensor_parallel": 4, "nics": 2})))
    whole = ground.checked.workers["prefill"].nic.rate
    for degree, nics, rate in ((1, 1, whole / 2), (2, 1, whole), (8, 4, whole)):
        side = Side(1, degree)
        hardware = ground.scenario_of(Layout(side, side, "pull")).variants[0].hardware.workers[0]
        assert hardware.nics == nics
        assert hardware.nic.rate_bytes_per_s == pytest.approx(rate)
    assert ground.nics(PULL) == 5.0
    assert ground.nics(Layout(Side(4, 2), None, "colocated")) == 0.0


def test_kv_memory_is_what_fits_unless_the_scenario_gives_less() -> None:
    free = ground_of(planned())
    assert free.kv_blocks("decode", 1) == free.variant.cluster.workers[1].kv_blocks
    assert free.kv_blocks("decode", 2) > 2 * free.kv_blocks("decode", 1)  # the weights are shared, too
    given = ground_of(planned(workers=two_pools({}, {"kv_memory": "8 GiB"})))
    assert given.kv_blocks("decode", 2) == 2 * given.kv_blocks("decode", 1)
    assert given.kv_blocks("prefill", 1) == free.kv_blocks("prefill", 1)


def test_the_named_variant_is_the_ground() -> None:
    scenario = planned(variants={"a": {}, "b": {"workers.decode.nic": "cx5-100g", "slo.attainment": 0.99}})
    assert ground_of(scenario).variant.slo.attainment == 0.9
    ground = ground_of(scenario, "b")
    assert ground.variant.slo.attainment == 0.99
    assert ground.scenario_of(PULL).variants[0].hardware.workers[3].nic.name == "cx5-100g"
    with pytest.raises(PlanError, match="found no variant 'c', expected one of: a, b"):
        ground_of(scenario, "c")


def test_a_plan_needs_limits() -> None:
    with pytest.raises(PlanError, match="slo: found neither ttft nor tpot"):
        ground_of(planned(slo={}))


def test_a_plan_counts_gpus_of_one_kind() -> None:
    with pytest.raises(PlanError, match=r"different GPUs \(h100-sxm, a100-sxm-80g\), expected one kind"):
        ground_of(planned(workers=two_pools({}, {"gpu": "a100-sxm-80g"})))


def test_degrees_hold_the_model_and_the_longest_request() -> None:
    ground = ground_of(
        planned(model="llama-3.1-70b", workers=two_pools({"tensor_parallel": 4}, {"tensor_parallel": 4}))
    )
    degrees, notes = possible_degrees(ground, 16, 15_000)
    assert degrees == {"prefill": [2, 4, 8], "decode": [2, 4, 8], "colocated": [2, 4, 8]}
    assert notes == ()
    degrees, notes = possible_degrees(ground, 16, 20_000)
    assert degrees == {"prefill": [4, 8], "decode": [4, 8], "colocated": [2, 4, 8]}
    assert notes == (
        "left out, as the longest request has 20,000 tokens: prefill tp2 holds 19,824 tokens; "
        "decode tp2 holds 19,824 tokens",
    )


def test_too_few_gpus_for_the_model_are_refused_with_the_number_that_it_needs() -> None:
    ground = ground_of(
        planned(model="llama-3.1-70b", workers=two_pools({"tensor_parallel": 4}, {"tensor_parallel": 4}))
    )
    with pytest.raises(PlanError, match=r"--gpus: found 1 GPU \(h100-sxm, 79.1 GiB\), expected at least 2: llama-3.1"):
        possible_degrees(ground, 1, 1000)
    with pytest.raises(PlanError, match="expected more: no worker holds a request of 90,000 tokens"):
        possible_degrees(ground, 2, 90_000)
