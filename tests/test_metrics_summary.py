"""The numbers of the hand-written runs, worked out on paper, and what every summary must have."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from metrics_records import (
    COLOCATED,
    MESSAGE,
    PULL,
    PUSH,
    STREAMED,
    WAKE,
    D,
    P,
    arrived,
    assign,
    at,
    cluster_of,
    prefill,
    prefill_done,
    release,
    stop,
    transfer,
)

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import FinishRequest, Record, RequestId, TransferDone, TransferId, WorkerLost
from kvsim.metrics import DEFINITIONS, FirstToken, collect, definition_of, summarise

PAIR = cluster_of("prefill", "decode")
SINGLE = cluster_of("colocated", mode="colocated")
NS_PER_S = 1e9
KEYS = [
    "requests",
    "ttft_s",
    "tpot_s",
    "itl_s",
    "e2e_s",
    "transfer_s",
    "prefill_queue_s",
    "decode_queue_s",
    "stages_s",
    "gpu_busy",
    "kv_reserved_unfilled_block_s",
    "kv_held_block_s",
    "link_utilisation",
    "slo_attainment",
    "goodput_req_per_s",
    "throughput",
    "makespan_s",
    "transfers",
    "preemptions",
    "role_switches",
]


def summary_of(
    cluster: ClusterSpec,
    records: tuple[Record, ...],
    *,
    slo_ttft_ns: int | None = None,
    slo_tpot_ns: int | None = None,
    first_token: FirstToken = "prefill",
) -> dict[str, Any]:
    links = [10e9] * len(cluster.workers)
    return summarise(
        collect(cluster, records),
        cluster,
        links,
        slo_ttft_ns=slo_ttft_ns,
        slo_tpot_ns=slo_tpot_ns,
        first_token=first_token,
    )


def paths(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix


def test_latencies_of_a_pulled_request() -> None:
    summary = summary_of(PAIR, PULL)
    medians = {key: summary[key]["p50"] for key in KEYS[1:8]}
    assert medians == {
        "ttft_s": 250 / NS_PER_S,
        "tpot_s": 105 / NS_PER_S,
        "itl_s": 105 / NS_PER_S,
        "e2e_s": 460 / NS_PER_S,
        "transfer_s": 100 / NS_PER_S,
        "prefill_queue_s": 50 / NS_PER_S,
        "decode_queue_s": 80 / NS_PER_S,
    }


def test_the_decode_worker_as_sender_of_the_first_token_moves_ttft_and_tpot() -> None:
    summary = summary_of(PAIR, PULL, first_token="decode")
    assert summary["ttft_s"]["mean"] == 400 / NS_PER_S
    assert summary["tpot_s"]["mean"] == 30 / NS_PER_S
    assert summary["itl_s"]["p50"] == 30 / NS_PER_S


def test_use_of_the_hardware_by_a_pulled_request() -> None:
    summary = summary_of(PAIR, PULL)
    assert summary["gpu_busy"] == {"prefill": 200 / 460, "decode": 30 / 460}
    assert summary["link_utilisation"] == {
        "prefill": {"sent": pytest.approx(0.2), "received": 0.0},
        "decode": {"sent": 0.0, "received": pytest.approx(0.2)},
    }
    assert summary["transfers"] == {"count": 1, "bytes": 920, "operations": 5, "bytes_per_operation": 184.0}
    assert summary["makespan_s"] == 460 / NS_PER_S


def test_pull_reserves_decode_memory_for_the_transfer_only() -> None:
    """Prefill side: 2 blocks from 150 to 350, held to 510. Decode side: 2 blocks from 400 to 500."""
    summary = summary_of(PAIR, PULL)
    assert summary["kv_reserved_unfilled_block_s"] == {"prefill": 400 / NS_PER_S, "decode": 200 / NS_PER_S}
    assert summary["kv_held_block_s"] == {"prefill": 320 / NS_PER_S, "decode": 0.0}


def test_push_reserves_decode_memory_from_the_arrival_on() -> None:
    """Decode side: 2 blocks from 100 to 300, then half of their layers until 420. Prefill side: held 350 to 430."""
    summary = summary_of(PAIR, PUSH)
    assert summary["kv_reserved_unfilled_block_s"] == {"prefill": 400 / NS_PER_S, "decode": 520 / NS_PER_S}
    assert summary["kv_held_block_s"] == {"prefill": 160 / NS_PER_S, "decode": 0.0}
    assert summary["transfer_s"]["mean"] == 170 / NS_PER_S
    assert summary["decode_queue_s"]["mean"] == 0.0


def test_streamed_pull_reserves_decode_memory_from_the_start_of_the_prefill_on() -> None:
    """Decode side: 2 blocks from 150 to 300, then half of their layers until 420."""
    summary = summary_of(PAIR, STREAMED)
    assert summary["kv_reserved_unfilled_block_s"] == {"prefill": 400 / NS_PER_S, "decode": 420 / NS_PER_S}
    assert summary["transfers"]["count"] == 2


def test_a_message_lets_go_of_the_prefill_side_before_the_target_has_it() -> None:
    """Prefill side: held from 350 to 480, while the decode side waits until 500."""
    summary = summary_of(PAIR, MESSAGE)
    assert summary["kv_held_block_s"] == {"prefill": 260 / NS_PER_S, "decode": 0.0}
    assert summary["kv_reserved_unfilled_block_s"] == {"prefill": 400 / NS_PER_S, "decode": 200 / NS_PER_S}


def test_a_colocated_worker_is_busy_once_in_a_mixed_step() -> None:
    """Always busy from 0 to 305. Blocks wait for a chunk of 100, one of 50, and the second prompt's of 100."""
    summary = summary_of(SINGLE, COLOCATED)
    assert summary["gpu_busy"] == {"colocated": 1.0}
    assert summary["kv_reserved_unfilled_block_s"] == {"colocated": 250 / NS_PER_S}
    assert summary["kv_held_block_s"] == {"colocated": 0.0}
    assert summary["transfer_s"] is None
    assert summary["transfers"]["bytes_per_operation"] is None
    assert summary["throughput"] == {
        "requests_per_s": pytest.approx(2 / 305e-9),
        "output_tokens_per_s": pytest.approx(8 / 305e-9),
    }


def test_layers_of_a_block_that_come_twice_fill_it_once() -> None:
    records = (
        at(0, [arrived(0)], [assign(D, 0, 2), transfer(1, 0, 4, last=False, blocks=2)]),
        at(10, [TransferDone(TransferId(1))], [transfer(2, 0, 4, last=True, blocks=1)]),
        at(30, [TransferDone(TransferId(2))]),
    )
    assert summary_of(PAIR, records)["kv_reserved_unfilled_block_s"]["decode"] == 20 / NS_PER_S


@pytest.mark.parametrize(("cluster", "records"), [(PAIR, PULL), (PAIR, PUSH), (SINGLE, COLOCATED)])
def test_the_stages_add_up_to_e2e(cluster: ClusterSpec, records: tuple[Record, ...]) -> None:
    summary = summary_of(cluster, records)
    assert sum(summary["stages_s"].values()) == pytest.approx(summary["e2e_s"]["mean"], rel=1e-12)


@pytest.mark.parametrize(
    ("slo_ttft_ns", "slo_tpot_ns", "met"),
    [(250, 105, 1), (249, None, 0), (None, 104, 0), (250, None, 1), (None, 105, 1)],
)
def test_every_objective_that_is_given_must_be_met(slo_ttft_ns: int | None, slo_tpot_ns: int | None, met: int) -> None:
    summary = summary_of(PAIR, PULL, slo_ttft_ns=slo_ttft_ns, slo_tpot_ns=slo_tpot_ns)
    assert summary["slo_attainment"] == met
    assert summary["goodput_req_per_s"] == pytest.approx(met / 460e-9)


def test_without_an_objective_goodput_counts_all_that_finished() -> None:
    summary = summary_of(PAIR, PULL)
    assert summary["slo_attainment"] is None
    assert summary["goodput_req_per_s"] == pytest.approx(1 / 460e-9)


def test_a_rejected_request_misses_every_objective_and_has_no_latency() -> None:
    reject = at(570, [WAKE], [FinishRequest(RequestId(1), "timeout")])
    summary = summary_of(PAIR, (*PULL, at(565, [arrived(1)]), reject), slo_ttft_ns=10**9)
    assert summary["requests"] == {"arrived": 2, "finished": 1, "rejected": 1, "shed": 0, "failed": 0}
    assert summary["slo_attainment"] == 0.5
    assert summary["e2e_s"]["p99"] == 460 / NS_PER_S


def test_a_single_token_has_no_tpot_to_miss() -> None:
    records = (
        at(0, [arrived(0)], [assign(P, 0), prefill(P, 1, 0)]),
        at(70, [prefill_done(P, 1, finished=[0])], [release(P, 0), stop(0)]),
    )
    summary = summary_of(PAIR, records, slo_tpot_ns=0)
    assert summary["slo_attainment"] == 1.0
    assert summary["tpot_s"] is None
    assert summary["itl_s"] is None
    assert summary["decode_queue_s"] is None


def test_a_run_in_which_nothing_happened_has_no_rates() -> None:
    summary = summary_of(PAIR, ())
    assert list(summary) == KEYS
    assert summary["requests"] == {"arrived": 0, "finished": 0, "rejected": 0, "shed": 0, "failed": 0}
    assert summary["goodput_req_per_s"] is None
    assert summary["gpu_busy"] == {"prefill": None, "decode": None}
    assert set(summary["stages_s"].values()) == {None}


def test_a_summary_is_plain_json_with_the_agreed_keys() -> None:
    summary = summary_of(PAIR, PULL, slo_ttft_ns=1)
    assert list(summary) == KEYS
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert list(summary["ttft_s"]) == ["mean", "p50", "p90", "p99"]


def test_every_key_of_a_summary_is_defined_and_every_definition_is_of_a_key() -> None:
    lost = at(10_000, [WorkerLost(D)])
    found = list(paths(summary_of(PAIR, (*PULL, lost), slo_ttft_ns=1)))
    for path in found:
        assert definition_of(path).text.endswith(".")
    for key in DEFINITIONS:
        own = key == "failures.struck"  # which a record does not tell
        assert own or any(path == key or path.startswith(f"{key}.") for path in found), key


def test_an_unknown_key_has_no_definition() -> None:
    with pytest.raises(KeyError, match="happiness"):
        definition_of("happiness.p99")
