"""What a record tells of things that went wrong, worked out on paper."""

from typing import Any

import msgspec
from metrics_records import (
    PULL,
    D,
    P,
    advanced,
    arrived,
    assign,
    at,
    cluster_of,
    decode,
    prefill,
    prefill_done,
    release,
    stop,
    transfer,
)

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import (
    DeadlineReached,
    DismissWorker,
    EndLease,
    FinishRequest,
    Record,
    RequestId,
    TransferDone,
    TransferFailed,
    TransferId,
    TransferReleased,
    WorkerId,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from kvsim.metrics import collect, summarise

CLUSTER = cluster_of("prefill", "decode", "decode")
OTHER = WorkerId(2)
AGAIN = msgspec.structs.replace(transfer(2, 0, 4, last=True), target=OTHER)

LOSS = (
    at(0, [arrived(0)], [assign(P, 0), prefill(P, 0, 0)]),
    at(100, [prefill_done(P, 0)], [assign(D, 0), transfer(0, 0, 4, last=True)]),
    at(120, [TransferFailed(TransferId(0))], [transfer(1, 0, 4, last=True)]),
    at(150, [TransferDone(TransferId(1)), TransferReleased(TransferId(1))], [release(P, 0), decode(D, 1, [0])]),
    at(170, [advanced(D, 1, 2, 10, ended=False)]),
    at(175, [WorkerLost(D)], [assign(P, 0, 3), prefill(P, 2, 0, tokens=9)]),
    at(275, [prefill_done(P, 2)], [assign(OTHER, 0, 3), AGAIN]),
    at(300, [TransferDone(TransferId(2)), TransferReleased(TransferId(2))], [release(P, 0), decode(OTHER, 3, [0])]),
    at(320, [advanced(OTHER, 3, 2, 10, finished=[0])], [release(OTHER, 0), stop(0)]),
    at(400, [WorkerJoined(D)]),
)
"""The decode worker is lost after three tokens; prompt and tokens are computed anew and decoded elsewhere."""


def failures(records: tuple[Record, ...], cluster: ClusterSpec = CLUSTER) -> dict[str, Any] | None:
    columns = collect(cluster, records)
    links = [1e9] * len(cluster.workers)
    summary = summarise(columns, cluster, links, slo_ttft_ns=None, slo_tpot_ns=None, first_token="prefill")
    return summary.get("failures")


def test_a_run_in_which_nothing_went_wrong_has_no_such_section() -> None:
    assert failures(PULL) is None


def test_a_loss_after_three_tokens() -> None:
    assert failures(LOSS) == {
        "struck": {},
        "workers_lost": 1,
        "workers_left": 0,
        "workers_joined": 1,
        "worker_absent_s": 225e-9,  # from 175 to 400
        "transfers_failed": 1,
        "transfers_cut": 0,
        "transfers_stale": 0,
        "transfers_rerouted": 0,
        "leases_expired": 0,
        "transfers_retried": 1,  # the one to the other worker is of another hand-over
        "requests_cancelled": 0,
        "requests_unfinished": 0,
        "requests_set_back": 1,
        "recomputed_tokens": 6,  # 6 + 9 were prefilled, in 9 places
        "recovery_s": dict.fromkeys(("mean", "p50", "p90", "p99"), 100e-9),  # from 175 to the token of 275
    }


def test_a_loss_without_an_end_leaves_a_request_that_never_recovered() -> None:
    found = failures(LOSS[:6])
    assert found is not None
    assert (found["requests_set_back"], found["requests_unfinished"], found["recovery_s"]) == (1, 1, None)


def test_a_request_that_had_left_a_lost_worker_is_not_set_back() -> None:
    """The prefill worker dies while the request decodes elsewhere; its blocks there were still held."""
    records = (
        *LOSS[:3],
        at(150, [TransferDone(TransferId(1))], [decode(D, 1, [0])]),
        at(165, [WorkerLost(P)]),
        at(190, [advanced(D, 1, 4, 10, finished=[0])], [release(D, 0), stop(0)]),
    )
    found = failures(records)
    assert found is not None
    assert (found["workers_lost"], found["requests_set_back"], found["recovery_s"]) == (1, 0, None)


def test_a_transfer_from_a_lost_worker_is_cut_and_what_replaces_it_a_retry() -> None:
    records = (
        *LOSS[:2],
        at(110, [WorkerLost(D)], [assign(OTHER, 0), AGAIN]),
        at(150, [TransferDone(TransferId(2))], [decode(OTHER, 3, [0])]),
    )
    found = failures(records)
    assert found is not None
    assert (found["transfers_failed"], found["transfers_cut"], found["transfers_retried"]) == (0, 1, 1)


def test_leases_that_end_stale_transfers_and_other_ways_are_counted() -> None:
    """Transfer 0 brings somebody else's KV, transfer 1 by the same way fails, transfer 2 takes another one; word that
    it has arrived never comes to the source."""
    by_other = msgspec.structs.replace(transfer(2, 0, 4, last=True), path=1)
    records = (
        *LOSS[:2],
        at(120, [TransferDone(TransferId(0), 7)], [transfer(1, 0, 4, last=True)]),
        at(130, [TransferFailed(TransferId(1))], [by_other]),
        at(150, [TransferDone(TransferId(2))], [decode(D, 1, [0])]),
        at(165, [DeadlineReached()], [EndLease(P, RequestId(0)), release(P, 0)]),
        at(190, [advanced(D, 1, 4, 10, finished=[0])], [release(D, 0), stop(0)]),
    )
    found = failures(records)
    assert found is not None
    kinds = "stale", "failed", "cut", "retried", "rerouted"
    assert {kind: found[f"transfers_{kind}"] for kind in kinds} == dict(zip(kinds, (1, 1, 0, 2, 1), strict=True))
    assert found["leases_expired"] == 1


def test_a_worker_that_leaves_and_one_that_comes_late_are_absent_for_so_long() -> None:
    """Worker 1 is let go at 130 of 500, worker 2 comes at 300: 370 + 300."""
    late = msgspec.structs.replace(CLUSTER.workers[2], present=False)
    cluster = msgspec.structs.replace(CLUSTER, workers=(*CLUSTER.workers[:2], late))
    records = (
        at(0, [arrived(0)], [assign(P, 0), prefill(P, 0, 0)]),
        at(130, [WorkerLeaving(D)], [DismissWorker(D)]),
        at(300, [WorkerJoined(OTHER)]),
        at(500, [prefill_done(P, 0, finished=[0])], [release(P, 0), stop(0)]),
    )
    found = failures(records, cluster)
    assert found is not None
    assert (found["workers_left"], found["workers_joined"], found["worker_absent_s"]) == (1, 1, 670e-9)


def test_cancelled_requests_are_counted_even_if_nothing_else_went_wrong() -> None:
    found = failures((*PULL, at(9_000, [arrived(5)], [FinishRequest(RequestId(5), "cancelled")])))
    assert found is not None
    assert (found["requests_cancelled"], found["workers_lost"]) == (1, 0)
