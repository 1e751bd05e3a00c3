"""What the columns say of runs that were worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from metrics_records import (
    COLOCATED,
    PULL,
    PUSH,
    WAKE,
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

from kvsim.core.messages import FinishRequest, Record, RequestId, TransferDone, TransferId
from kvsim.metrics import MISSING, Collector, RunColumns, collect, stage_durations
from kvsim.metrics.intervals import requests_in_steps, token_gaps

PAIR = cluster_of("prefill", "decode")
SINGLE = cluster_of("colocated", mode="colocated")


def gaps_ns(columns: RunColumns) -> list[int]:
    """Every interval between tokens of finished requests, sorted."""
    values, weights = token_gaps(columns, columns.requests.finished, "prefill")
    return sorted(np.repeat(values, weights).tolist())


def instants(columns: RunColumns, row: int = 0) -> dict[str, int]:
    requests = columns.requests
    return {
        "arrival": int(requests.arrival_ns[row]),
        "prefill_start": int(requests.prefill_start_ns[row]),
        "prefill_end": int(requests.prefill_end_ns[row]),
        "decode_reserved": int(requests.decode_reserved_ns[row]),
        "transfer_start": int(requests.transfer_start_ns[row]),
        "transfer_end": int(requests.transfer_end_ns[row]),
        "decode_start": int(requests.decode_start_ns[row]),
        "last_token": int(requests.last_token_ns[row]),
        "finished": int(requests.finished_ns[row]),
    }


def stages(columns: RunColumns, row: int = 0) -> list[int]:
    return [int(durations[row]) for durations in stage_durations(columns.requests).values()]


def test_a_pulled_request_has_the_instants_of_its_messages() -> None:
    columns = collect(PAIR, PULL)
    assert instants(columns) == {
        "arrival": 100,
        "prefill_start": 150,
        "prefill_end": 350,
        "decode_reserved": 400,
        "transfer_start": 400,
        "transfer_end": 500,
        "decode_start": 530,
        "last_token": 560,
        "finished": 560,
    }
    requests = columns.requests
    assert (requests.prefill_worker[0], requests.decode_worker[0]) == (P, D)
    assert (requests.output_tokens[0], requests.transfer_bytes[0], requests.transfer_operations[0]) == (3, 920, 5)
    assert requests.finished[0]
    assert (columns.start_ns, columns.end_ns) == (100, 560)


def test_a_pulled_request_waits_for_memory_transfer_and_step_in_turn() -> None:
    assert stages(collect(PAIR, PULL)) == [50, 200, 50, 100, 30, 30]


def test_a_pushed_request_has_its_decode_memory_before_its_prefill() -> None:
    requests = collect(PAIR, PUSH).requests
    assert requests.decode_reserved_ns[0] == 100
    assert (requests.prefill_worker[0], requests.decode_worker[0]) == (P, D)
    assert (requests.transfer_start_ns[0], requests.transfer_end_ns[0]) == (250, 420)
    assert (requests.transfer_bytes[0], requests.transfer_operations[0]) == (1840, 10)


def test_a_pushed_request_shows_only_the_part_of_its_transfer_after_the_prefill() -> None:
    assert stages(collect(PAIR, PUSH)) == [50, 200, 0, 70, 0, 30]


def test_the_decode_worker_sends_the_first_token_when_the_transfer_is_done() -> None:
    requests = collect(PAIR, PULL).requests
    assert requests.first_token_ns("prefill")[0] == 350
    assert requests.first_token_ns("decode")[0] == 500
    assert collect(SINGLE, COLOCATED).requests.first_token_ns("decode").tolist() == [150, 250]


def test_growing_steps_are_counted_back_from_their_report() -> None:
    assert collect(PAIR, PULL).steps.end_ns.tolist() == [540, 560]
    assert gaps_ns(collect(PAIR, PULL)) == [20, 190]


def test_the_first_gap_is_measured_from_the_token_that_the_client_saw() -> None:
    columns = collect(PAIR, PULL)
    values, weights = token_gaps(columns, columns.requests.finished, "decode")
    assert sorted(np.repeat(values, weights).tolist()) == [20, 40]


def test_a_colocated_request_has_no_transfer_and_gets_tokens_in_mixed_steps() -> None:
    columns = collect(SINGLE, COLOCATED)
    first = instants(columns, 0)
    assert (first["prefill_start"], first["prefill_end"], first["decode_start"]) == (0, 150, 150)
    assert (first["decode_reserved"], first["transfer_start"], first["transfer_end"]) == (MISSING,) * 3
    assert columns.requests.output_tokens.tolist() == [4, 4]
    assert columns.requests.decode_worker.tolist() == [0, 0]
    assert columns.steps.end_ns.tolist() == [250, 270, 290, 305]
    assert requests_in_steps(columns.spans, columns.steps).tolist() == [1, 2, 2, 1]
    assert gaps_ns(columns) == [15, 20, 20, 20, 20, 100]
    assert stages(columns, 0) == [0, 150, 0, 0, 0, 140]


def test_a_prefill_that_nobody_decodes_beside_lengthens_the_gap_around_it() -> None:
    records = (
        at(0, [arrived(0)], [assign(0, 0), prefill(0, 1, 0)]),
        at(100, [prefill_done(0, 1)], [decode(0, 2, [0], 1)]),
        at(110, [advanced(0, 2, 1, 10), arrived(1)], [assign(0, 1), prefill(0, 3, 1)]),
        at(210, [prefill_done(0, 3)], [decode(0, 4, [0, 1])]),
        at(220, [advanced(0, 4, 1, 10, finished=[0, 1])], [release(0, 0), stop(0), release(0, 1), stop(1)]),
    )
    columns = collect(SINGLE, records)
    assert gaps_ns(columns) == [10, 10, 110]
    assert columns.requests.output_tokens.tolist() == [3, 2]


def preempted_run() -> tuple[Record, ...]:
    """Request 0 has tokens at 100, 110, 120, loses its blocks, is prefilled again with 9 tokens and goes on at 220."""
    return (
        at(0, [arrived(0)], [assign(0, 0), prefill(0, 1, 0)]),
        at(100, [prefill_done(0, 1)], [decode(0, 2, [0], 2)]),
        at(120, [advanced(0, 2, 2, 10)], [release(0, 0)]),
        at(150, [WAKE], [assign(0, 0, 3), prefill(0, 3, 0, tokens=9)]),
        at(220, [prefill_done(0, 3)], [decode(0, 4, [0])]),
        at(240, [advanced(0, 4, 2, 10, finished=[0])], [release(0, 0), stop(0)]),
    )


def test_a_preempted_request_keeps_the_stages_of_its_first_pass() -> None:
    columns = collect(SINGLE, preempted_run())
    assert columns.requests.preemptions.tolist() == [1]
    assert columns.requests.output_tokens.tolist() == [6]
    assert stages(columns) == [0, 100, 0, 0, 0, 140]
    assert gaps_ns(columns) == [10, 10, 10, 10, 100]


def test_a_preempted_request_grows_from_where_its_second_prefill_ended() -> None:
    """Steps write positions 6 and 7, then 9 and 10: no new block. Two more steps would write 11 and 12: one."""
    memory = collect(SINGLE, preempted_run()).memory
    assert sorted(memory.reserved.amount.tolist()) == [-3, -2, 2, 3]
    assert memory.grown.amount.tolist() == []
    longer = (
        *preempted_run()[:-1],
        at(260, [advanced(0, 4, 4, 10, finished=[0])], [release(0, 0), stop(0)]),
    )
    memory = collect(SINGLE, longer).memory
    assert (memory.grown.at_ns.tolist(), memory.grown.amount.tolist()) == ([260], [1])
    assert sorted(memory.reserved.amount.tolist()) == [-4, -2, 2, 3]


def test_a_request_that_loses_its_blocks_between_two_chunks_was_preempted() -> None:
    records = (
        at(0, [arrived(0)], [assign(0, 0, 1), prefill(0, 1, 0, tokens=4, completes=False)]),
        at(50, [prefill_done(0, 1)], [release(0, 0)]),
        at(60, [WAKE], [assign(0, 0), prefill(0, 2, 0)]),
        at(90, [prefill_done(0, 2, finished=[0])], [release(0, 0), stop(0)]),
    )
    columns = collect(SINGLE, records)
    assert columns.requests.preemptions.tolist() == [1]
    assert stages(columns) == [0, 90, 0, 0, 0, 0]


def test_decode_memory_that_is_freed_after_the_end_was_not_lost() -> None:
    """A pushed request that ends with its first token: its decode worker frees its blocks at the next boundary."""
    records = (
        at(0, [arrived(0)], [assign(D, 0), assign(P, 0), prefill(P, 1, 0)]),
        at(70, [prefill_done(P, 1, finished=[0])], [release(P, 0), stop(0)]),
        at(80, [WAKE], [release(D, 0)]),
    )
    assert collect(PAIR, records).requests.preemptions.tolist() == [0]


def test_a_request_that_is_left_out_of_a_batch_gets_no_token_until_it_is_back() -> None:
    records = (
        at(0, [arrived(0)], [assign(0, 0), prefill(0, 1, 0)]),
        at(10, [prefill_done(0, 1), arrived(1)], [assign(0, 1), prefill(0, 2, 1)]),
        at(20, [prefill_done(0, 2)], [decode(0, 3, [0, 1], 1)]),
        at(30, [advanced(0, 3, 1, 10)], [decode(0, 4, [1], 1)]),
        at(40, [advanced(0, 4, 1, 10)], [decode(0, 5, [0, 1], 1)]),
        at(50, [advanced(0, 5, 1, 10, finished=[0, 1])], [release(0, 0), release(0, 1), stop(0), stop(1)]),
    )
    columns = collect(SINGLE, records)
    assert columns.requests.output_tokens.tolist() == [3, 4]
    assert columns.requests.preemptions.tolist() == [0, 0]
    assert gaps_ns(columns) == [10, 10, 10, 20, 20]


def test_a_request_with_one_token_has_no_decode_stage() -> None:
    records = (
        at(0, [arrived(0)], [assign(P, 0), prefill(P, 1, 0)]),
        at(70, [prefill_done(P, 1, finished=[0])], [release(P, 0), stop(0)]),
    )
    columns = collect(PAIR, records)
    assert columns.requests.output_tokens.tolist() == [1]
    assert instants(columns)["decode_start"] == MISSING
    assert stages(columns) == [0, 70, 0, 0, 0, 0]
    assert gaps_ns(columns) == []


@pytest.mark.parametrize("why", ["timeout", "too_long"])
def test_a_rejected_request_has_only_its_arrival_and_its_end(why: str) -> None:
    reject = FinishRequest(RequestId(0), "timeout" if why == "timeout" else "too_long")
    columns = collect(PAIR, (at(5, [arrived(0)], [assign(D, 0)]), at(25, [WAKE], [release(D, 0), reject])))
    known = {name: instant for name, instant in instants(columns).items() if instant != MISSING}
    assert known == {"arrival": 5, "finished": 25}
    assert columns.requests.decode_worker.tolist() == [MISSING]
    assert columns.requests.rejected.tolist() == [True]
    assert columns.requests.finished.tolist() == [False]
    assert columns.memory.reserved.amount.tolist() == [2, -2]


def test_a_run_that_was_cut_short_keeps_what_had_happened() -> None:
    columns = collect(PAIR, PULL[:-1])
    assert not columns.requests.finished[0]
    assert columns.requests.output_tokens.tolist() == [1]
    assert instants(columns)["decode_start"] == 530
    assert collect(PAIR, PULL[:2]).requests.prefill_start_ns.tolist() == [150]
    assert len(collect(PAIR, PULL[:2]).prefills.worker) == 0
    assert len(collect(PAIR, PULL[:4]).transfers.source) == 0


def test_a_run_without_requests_has_empty_columns() -> None:
    columns = Collector(PAIR).finish()
    assert len(columns.requests.request) == 0
    assert columns.makespan_ns == 0


def test_late_and_repeated_reports_are_ignored() -> None:
    late: Sequence[Record] = (
        at(565, [advanced(D, 2, steps=3, first_ns=1)]),
        at(566, [TransferDone(TransferId(1))]),
        at(567, [prefill_done(P, 1)]),
    )
    columns = collect(PAIR, (*PULL, *late))
    assert columns.requests.output_tokens.tolist() == [3]
    assert columns.transfers.end_ns.tolist() == [500]
    assert columns.prefills.end_ns.tolist() == [350]


def test_reports_of_a_part_of_a_run_add_up() -> None:
    parts = (
        at(540, [advanced(D, 2, steps=1, first_ns=10, ended=False)]),
        at(560, [advanced(D, 2, steps=1, first_ns=20, finished=[0])], [release(D, 0), stop(0)]),
    )
    whole, split = collect(PAIR, PULL), collect(PAIR, (*PULL[:-1], *parts))
    assert split.steps.end_ns.tolist() == whole.steps.end_ns.tolist()
    assert split.steps.duration_ns.tolist() == whole.steps.duration_ns.tolist()
    assert gaps_ns(split) == gaps_ns(whole)


def test_requests_are_in_the_order_of_their_ids_whatever_the_order_of_arrival() -> None:
    records = (
        at(0, [arrived(7, 3)]),
        at(10, [arrived(2, 5)]),
        at(20, [WAKE], [FinishRequest(RequestId(2), "timeout")]),
    )
    requests = collect(PAIR, records).requests
    assert requests.request.tolist() == [2, 7]
    assert requests.prompt_tokens.tolist() == [5, 3]
    assert requests.finished_ns.tolist() == [20, MISSING]


def test_a_message_for_a_request_that_never_arrived_is_a_broken_invariant() -> None:
    with pytest.raises(AssertionError, match="requests \\[0\\] never arrived"):
        collect(PAIR, (at(0, [arrived(1)], [assign(D, 0), transfer(1, 0, 4, last=True)]),))
