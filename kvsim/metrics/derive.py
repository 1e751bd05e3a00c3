"""From the collector's logs to columns: first instants, workers and counts of every request, all requests at once.

Who got a token in which step is worked out in ``kvsim.metrics.intervals``, what was in which block in
``kvsim.metrics.memory``.
"""

import msgspec
import numpy as np

from kvsim.core.cluster import ClusterSpec
from kvsim.metrics.columns import (
    MISSING,
    REJECTED,
    SERVING_MODES,
    Integers,
    PrefillColumns,
    RequestColumns,
    RunColumns,
    TokenSpans,
    TransferColumns,
)
from kvsim.metrics.intervals import expand_steps, token_spans
from kvsim.metrics.logs import Logs, begins_ns, first_by_row, rows_of, total_by_row
from kvsim.metrics.memory import memory_columns
from kvsim.metrics.roles import RoleColumns, role_columns


def derive_columns(cluster: ClusterSpec, logs: Logs) -> RunColumns:
    """The columns of the run that the logs tell."""
    ids, order = np.unique(logs.arrivals[0], return_index=True)
    assert len(ids) == len(order) == logs.arrivals.shape[1], f"{logs.arrivals.shape[1]} arrivals of {len(ids)} requests"
    prompt_tokens, arrival_ns = logs.arrivals[1:, order]
    roles = role_columns(cluster, logs.role_changes, logs.end_ns)
    steps = expand_steps(logs.segments, len(cluster.workers))
    spans = token_spans(logs.spans, rows_of(ids, logs.spans[0]), steps)
    return RunColumns(
        cluster=cluster,
        start_ns=int(arrival_ns.min()) if len(ids) else logs.end_ns,
        end_ns=logs.end_ns,
        requests=_requests(cluster, logs, ids, order, spans, roles),
        steps=steps,
        spans=spans,
        prefills=_prefills(logs.prefill_runs),
        transfers=_transfers(logs.transfers),
        memory=memory_columns(cluster, logs, spans, steps, prompt_tokens, roles),
        roles=roles,
        mishaps=logs.mishaps,
        recomputed_tokens=_recomputed_tokens(logs, ids),
    )


def _recomputed_tokens(logs: Logs, ids: Integers) -> int:
    """Tokens of all prefill chunks but one for each place in a context."""
    request, _, _, start_token, tokens = logs.chunks
    reached = np.zeros(len(ids), dtype=np.int64)
    np.maximum.at(reached, rows_of(ids, request), start_token + tokens)
    return int(tokens.sum() - reached.sum())


def _requests(
    cluster: ClusterSpec, logs: Logs, ids: Integers, order: Integers, spans: TokenSpans, roles: RoleColumns
) -> RequestColumns:
    count = len(ids)
    _, prompt_tokens, arrival_ns = logs.arrivals[:, order]
    ended, ended_ns, why = logs.finishes
    ended_rows = rows_of(ids, ended)
    outcome = first_by_row(ended_rows, why, count)
    finished_ns = first_by_row(ended_rows, ended_ns, count)
    first_pass = _first_pass(roles, logs, ids)
    transfers = _request_transfers(logs, ids)
    prefill_tokens = spans.first_step == MISSING
    rejected = np.isin(outcome, REJECTED)

    def unless_rejected(column: Integers) -> Integers:
        return np.where(rejected, MISSING, column)

    return RequestColumns(
        request=ids,
        outcome=outcome,
        mode=unless_rejected(_modes(cluster, logs, ids)),
        prompt_tokens=prompt_tokens,
        output_tokens=total_by_row(spans.row, spans.tokens, count),
        prefill_worker=unless_rejected(first_pass.prefill_worker),
        decode_worker=unless_rejected(first_pass.decode_worker),
        arrival_ns=arrival_ns,
        prefill_start_ns=unless_rejected(first_pass.prefill_start_ns),
        prefill_end_ns=first_by_row(spans.row[prefill_tokens], spans.first_ns[prefill_tokens], count),
        decode_reserved_ns=unless_rejected(first_pass.decode_reserved_ns),
        transfer_start_ns=unless_rejected(transfers.start_ns),
        transfer_end_ns=unless_rejected(transfers.end_ns),
        decode_start_ns=unless_rejected(first_pass.decode_start_ns),
        last_token_ns=first_by_row(spans.row[::-1], spans.last_ns[::-1], count),
        finished_ns=finished_ns,
        preemptions=_preemptions(roles, logs, ids, finished_ns),
        transfer_bytes=transfers.size_bytes,
        transfer_operations=transfers.operations,
    )


def _modes(cluster: ClusterSpec, logs: Logs, ids: Integers) -> Integers:
    """How each request was served: as was first chosen for it, or as all are."""
    policy = cluster.policy.transfer_mode
    if policy == "adaptive":
        request, mode = logs.choices
        return first_by_row(rows_of(ids, request), mode, len(ids))
    return np.full(len(ids), SERVING_MODES.index("local" if policy == "colocated" else policy), dtype=np.int64)


class _FirstPass(msgspec.Struct, frozen=True):
    prefill_worker: Integers
    prefill_start_ns: Integers
    decode_worker: Integers
    decode_reserved_ns: Integers
    decode_start_ns: Integers


def _first_pass(roles: RoleColumns, logs: Logs, ids: Integers) -> _FirstPass:
    """Where and when each request was first prefilled, given decode memory, and decoded.

    Decode memory is the first blocks on a worker other than the prefill worker; a colocated worker is its own.
    """
    count = len(ids)
    run_worker, run_start_ns, _, _ = logs.prefill_runs
    chunk_rows, chunk_runs = rows_of(ids, logs.chunks[0]), logs.chunks[1]
    prefill_worker = first_by_row(chunk_rows, run_worker[chunk_runs], count)

    residency, assigned_ns, _ = logs.assigns
    rows, worker = rows_of(ids, logs.residencies[0])[residency], logs.residencies[1][residency]
    elsewhere = (worker != prefill_worker[rows]) & ~roles.has("colocated", worker, assigned_ns)
    reserved_worker = first_by_row(rows[elsewhere], worker[elsewhere], count)

    request, span_worker, _, _, _, span_start_ns = logs.spans[:, logs.spans[1] != MISSING]
    stint_rows = rows_of(ids, request)
    stint_worker = first_by_row(stint_rows, span_worker, count)
    return _FirstPass(
        prefill_worker=prefill_worker,
        prefill_start_ns=first_by_row(chunk_rows, run_start_ns[chunk_runs], count),
        decode_worker=np.where(reserved_worker != MISSING, reserved_worker, stint_worker),
        decode_reserved_ns=first_by_row(rows[elsewhere], assigned_ns[elsewhere], count),
        decode_start_ns=first_by_row(stint_rows, span_start_ns, count),
    )


class _RequestTransfers(msgspec.Struct, frozen=True):
    start_ns: Integers
    end_ns: Integers
    size_bytes: Integers
    operations: Integers


def _request_transfers(logs: Logs, ids: Integers) -> _RequestTransfers:
    """First start and first complete hand-over of each request, and what all its completed transfers moved."""
    count = len(ids)
    request, _, _, start_ns, end_ns, size_bytes, operations, _, last, _ = logs.transfers
    rows = rows_of(ids, request)
    done = end_ns != MISSING
    complete = done & (last == 1)
    return _RequestTransfers(
        start_ns=first_by_row(rows, start_ns, count),
        end_ns=first_by_row(rows[complete], end_ns[complete], count),
        size_bytes=total_by_row(rows[done], size_bytes[done], count),
        operations=total_by_row(rows[done], operations[done], count),
    )


def _preemptions(roles: RoleColumns, logs: Logs, ids: Integers, finished_ns: Integers) -> Integers:
    """How often each request lost its blocks where it decodes or was to decode.

    A release at its end or later is no loss: a decode worker frees what a finished request had at a step boundary.
    """
    request, worker, released_ns = logs.residencies
    rows = rows_of(ids, request)
    decodes = ~roles.has("prefill", worker, begins_ns(logs))
    ended_ns = finished_ns[rows]
    lost = (released_ns != MISSING) & ((ended_ns == MISSING) | (released_ns < ended_ns)) & decodes
    return np.bincount(rows[lost], minlength=len(ids)).astype(np.int64)


def _prefills(log: Integers) -> PrefillColumns:
    worker, start_ns, end_ns, requests = log[:, log[2] != MISSING]
    return PrefillColumns(worker, start_ns, end_ns, requests)


def _transfers(log: Integers) -> TransferColumns:
    _, source, target, start_ns, end_ns, size_bytes, operations, _, _, _ = log[:, log[4] != MISSING]
    return TransferColumns(source, target, start_ns, end_ns, size_bytes, operations)
