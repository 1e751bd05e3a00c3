"""The numbers of what went wrong: how much was lost, done again, and how long it took to recover.

Only runs in which something went wrong have them. What each means is in ``kvsim.metrics.definitions``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvsim.metrics.columns import FINISH_REASONS, MISSING, NS_PER_S, Integers, RunColumns
from kvsim.metrics.distribution import statistics_s
from kvsim.metrics.mishaps import (
    JOINED,
    LEASE_OVER,
    LEFT,
    LOST,
    REROUTED,
    SET_BACK,
    TRANSFER_CUT,
    TRANSFER_FAILED,
    TRANSFER_RETRIED,
    TRANSFER_STALE,
)


def failures(columns: RunColumns, struck: Mapping[str, int]) -> dict[str, Any] | None:
    """The section ``failures`` of a summary; None where nothing of the kind happened. ``struck``: how often which kind
    of fault did, of which a record only tells what was noticed."""
    requests, what = columns.requests, columns.mishaps[0]
    cancelled = requests.ended_as("cancelled")
    unfinished = int((requests.outcome == MISSING).sum())
    if not (len(what) or cancelled or unfinished or requests.ended_as("failed") or struck):
        return None
    return {
        "struck": dict(struck),
        "workers_lost": int((what == LOST).sum()),
        "workers_left": int((what == LEFT).sum()),
        "workers_joined": int((what == JOINED).sum()),
        "worker_absent_s": _absent_s(columns),
        "transfers_failed": int((what == TRANSFER_FAILED).sum()),
        "transfers_cut": int((what == TRANSFER_CUT).sum()),
        "transfers_stale": int((what == TRANSFER_STALE).sum()),
        "transfers_retried": int((what == TRANSFER_RETRIED).sum()),
        "transfers_rerouted": int((what == REROUTED).sum()),
        "leases_expired": int((what == LEASE_OVER).sum()),
        "requests_cancelled": cancelled,
        "requests_unfinished": unfinished,
        "requests_set_back": len(np.unique(set_backs(columns)[0])),
        "recomputed_tokens": columns.recomputed_tokens,
        "recovery_s": statistics_s(recoveries_ns(columns)),
    }


_ANSWERS = {
    TRANSFER_STALE: ("transfer_stale", "transfer"),
    TRANSFER_RETRIED: ("transfer_retried", "transfer"),
    REROUTED: ("transfer_rerouted", "transfer"),
    LEASE_OVER: ("lease_expired", "request"),
}


def answers(columns: RunColumns) -> list[dict[str, Any]]:
    """What the scheduler did about faults, and when: what, at_ns, and the id of the transfer or request."""
    return [
        {"at_ns": at_ns, "what": _ANSWERS[kind][0], _ANSWERS[kind][1]: subject}
        for kind, at_ns, subject in columns.mishaps.T.tolist()
        if kind in _ANSWERS
    ]


def set_backs(columns: RunColumns) -> tuple[Integers, Integers, Integers]:
    """For each request and loss of a worker that stopped it: row of the request, instant of the loss, and that of the
    first token after it (``MISSING`` if there was none).

    A request that had blocks on the worker but decodes on without a break, as it does once its KV has been moved from
    there, was not stopped.
    """
    what, at_ns, subject = columns.mishaps
    spans = columns.spans
    found: list[tuple[int, int, int]] = []
    for loss_ns, request in zip(at_ns[what == SET_BACK].tolist(), subject[what == SET_BACK].tolist(), strict=True):
        row = int(np.searchsorted(columns.requests.request, request))
        first, end = np.searchsorted(spans.row, [row, row + 1])
        later = first + int(np.searchsorted(spans.last_ns[first:end], loss_ns, side="right"))
        if later == end:
            if columns.requests.outcome[row] not in _WITH_OUTPUT:
                found.append((row, loss_ns, MISSING))
        elif spans.first_ns[later] > loss_ns:
            found.append((row, loss_ns, int(spans.first_ns[later])))
    rows, losses_ns, next_ns = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return rows, losses_ns, next_ns


_WITH_OUTPUT = (FINISH_REASONS.index("stop"), FINISH_REASONS.index("length"))


def recoveries_ns(columns: RunColumns) -> Integers:
    """From each loss to the next token of a request that it stopped, in ns."""
    _, losses_ns, next_ns = set_backs(columns)
    recovered = next_ns != MISSING
    waits_ns: Integers = next_ns[recovered] - losses_ns[recovered]
    return waits_ns


def _absent_s(columns: RunColumns) -> float:
    """Summed over the workers, within the makespan."""
    what, at_ns, subject = columns.mishaps
    absent_ns = 0
    for worker in columns.cluster.workers:
        there, since_ns = worker.present, columns.start_ns
        mine = (subject == worker.id) & np.isin(what, (LOST, LEFT, JOINED))
        for change, change_ns in zip(what[mine].tolist(), at_ns[mine].tolist(), strict=True):
            if not there:
                absent_ns += max(0, change_ns - since_ns)
            there, since_ns = change == JOINED, max(change_ns, columns.start_ns)
        if not there:
            absent_ns += columns.end_ns - since_ns
    return absent_ns / NS_PER_S
