"""The logs that a collector hands over at the end of a run, and how to find the rows of requests in them.

A log is an integer array with one row a column, so ``request, at_ns = log`` names what it holds.
"""

import msgspec
import numpy as np

from kvsim.metrics.columns import MISSING, Integers


class Logs(msgspec.Struct, frozen=True):
    """What was noted during a run, in order of time. ``MISSING`` is "not (yet)".

    arrivals: request, prompt_tokens, at_ns
    prefill_runs: worker, start_ns, end_ns, requests
    chunks: request, row of prefill_runs, residency, start_token, tokens; in the order in which their runs ended
    spans: request, worker, first step, last step, residency, at_ns; the token of a prefill has request and instant only
    segments: worker, end_ns, first_step_fs, step_growth_fs, carry_fs, steps, whether the step computed prompts as well
    residencies: request, worker, released_ns; a residency is the time in which a request has blocks on a worker
    assigns: residency, at_ns, blocks
    transfers: request, source, target, start_ns, end_ns, size_bytes, operations, blocks x layers, last, residency
    choices: request, mode as an index of SERVING_MODES; none where all requests are served alike
    finishes: request, at_ns, outcome
    mishaps: what (``kvsim.metrics.mishaps``), at_ns, worker, transfer or request
    role_changes: worker, at_ns, what, role, switch; see kvsim.metrics.roles

    Steps count from 0 on each worker. A span's ``at_ns`` is the command that the stint began with.
    """

    arrivals: Integers
    prefill_runs: Integers
    chunks: Integers
    spans: Integers
    segments: Integers
    residencies: Integers
    assigns: Integers
    transfers: Integers
    choices: Integers
    finishes: Integers
    mishaps: Integers
    role_changes: Integers
    end_ns: int


def begins_ns(logs: Logs) -> Integers:
    """When each residency began: the instant of its first blocks."""
    residency, at_ns, _ = logs.assigns
    return first_by_row(residency, at_ns, logs.residencies.shape[1])


def rows_of(ids: Integers, requests: Integers) -> Integers:
    """Where each of ``requests`` stands in the sorted ``ids``."""
    if not len(ids):
        assert not len(requests), f"requests {requests[:5].tolist()} never arrived"
        return requests
    if ids[-1] - ids[0] == len(ids) - 1:  # no id is left out, as in every whole run
        rows: Integers = np.clip(requests - ids[0], 0, len(ids) - 1)
    else:
        rows = np.minimum(np.searchsorted(ids, requests), len(ids) - 1)
    unknown = requests[ids[rows] != requests]
    assert not len(unknown), f"requests {unknown[:5].tolist()} never arrived"
    return rows


def first_by_row(rows: Integers, values: Integers, count: int) -> Integers:
    """For each row in ``[0, count)`` the first of its values, or ``MISSING``."""
    place = np.full(count, len(rows), dtype=np.int64)
    np.minimum.at(place, rows, np.arange(len(rows)))
    present = place < len(rows)
    first = np.full(count, MISSING, dtype=np.int64)
    first[present] = values[place[present]]
    return first


def total_by_row(rows: Integers, values: Integers, count: int) -> Integers:
    """For each row in ``[0, count)`` the sum of its values."""
    total = np.zeros(count, dtype=np.int64)
    np.add.at(total, rows, values)
    return total
