"""Time series of workers: levels and rates in equal bins over the makespan, for tables and figures.

Levels are summed exactly in integers within each bin and divided once. This module must not know how blocks or batches
came about.
"""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from kvsim.metrics.columns import Changes, Floats, Integers, RunColumns, TransferColumns
from kvsim.metrics.intervals import requests_in_steps

BINS_MAX = 400
BIN_NS_MIN = 1_000_000
PIECE = 1 << 16
"""Changes that are looked at together."""


class Timeline(msgspec.Struct, frozen=True):
    """Bins ``[edges_ns[i], edges_ns[i + 1])`` and arrays of shape (workers, bins): means over the bin."""

    edges_ns: Integers
    busy: Floats
    requests_running: Floats
    kv_reserved_blocks: Floats
    kv_filled_blocks: Floats
    sent_bytes_per_s: Floats
    received_bytes_per_s: Floats
    draining: Floats
    switching: Floats


def worker_timeline(columns: RunColumns) -> Timeline:
    """What each worker did over time. Without a makespan there are no bins."""
    edges_ns = bin_edges(columns.start_ns, columns.end_ns)
    workers = len(columns.cluster.workers)
    transfers = columns.transfers
    interval_ns = np.diff(edges_ns)

    def mean(*parts: Changes) -> Floats:
        means: Floats = binned_area(parts, workers, edges_ns) / interval_ns
        return means

    def filled() -> Floats:
        layers, memory = columns.cluster.kv.layers, columns.memory
        area = binned_area([memory.filled], workers, edges_ns)
        area += binned_area([memory.grown], workers, edges_ns) * layers
        means: Floats = area / (interval_ns * layers)
        return means

    def rate(worker: Integers) -> Floats:
        rates: Floats = transferred_bytes(transfers, worker, workers, edges_ns) * 1e9 / interval_ns
        return rates

    def while_computing(begins: list[Changes], ends: list[Changes]) -> Floats:
        area = binned_area(begins, workers, edges_ns)
        area -= binned_area(ends, workers, edges_ns)
        means: Floats = area / interval_ns
        return means

    (begin_busy, begin_running), (end_busy, end_running) = _activity(columns)
    return Timeline(
        edges_ns=edges_ns,
        busy=while_computing(begin_busy, end_busy),
        requests_running=while_computing(begin_running, end_running),
        kv_reserved_blocks=mean(*columns.memory.reserved_parts),
        kv_filled_blocks=filled(),
        sent_bytes_per_s=rate(transfers.source),
        received_bytes_per_s=rate(transfers.target),
        draining=mean(columns.roles.draining),
        switching=mean(columns.roles.switching),
    )


def bin_edges(start_ns: int, end_ns: int) -> Integers:
    """Edges of at most ``BINS_MAX`` bins from start to end, of 1, 2 or 5 times a power of ten ns, at least 1 ms.

    The last bin ends at ``end_ns`` and may be shorter.
    """
    width_ns = BIN_NS_MIN
    factors = (2, 5, 10)
    step = 0
    while width_ns * BINS_MAX < end_ns - start_ns:
        width_ns = BIN_NS_MIN * 10 ** (step // 3) * factors[step % 3]
        step += 1
    return np.append(np.arange(start_ns, end_ns, width_ns, dtype=np.int64), np.int64(end_ns))


def binned_area(parts: Sequence[Changes], workers: int, edges_ns: Integers) -> Integers:
    """The level of each worker summed over the ns of each bin: integers of shape (workers, bins).

    ``parts`` add up, in any order. A change counts for the rest of its own bin and for every later one whole. They are
    taken a piece at a time: a long run has millions.
    """
    bins = len(edges_ns) - 1
    if not bins:
        return np.zeros((workers, 0), dtype=np.int64)
    area, change = np.zeros((2, workers * bins), dtype=np.int64)
    for part in parts:
        for first in range(0, len(part.worker), PIECE):
            piece = slice(first, first + PIECE)
            at_ns = np.clip(part.at_ns[piece], edges_ns[0], edges_ns[-1])
            place = np.minimum(np.searchsorted(edges_ns, at_ns, side="right") - 1, bins - 1)
            cell = part.worker[piece] * bins + place
            amount = part.amount[piece]
            np.add.at(area, cell, amount * (edges_ns[place + 1] - at_ns))
            np.add.at(change, cell, amount)
    by_bin = change.reshape(workers, bins)
    return area.reshape(workers, bins) + (np.cumsum(by_bin, axis=1) - by_bin) * np.diff(edges_ns)


def transferred_bytes(transfers: TransferColumns, worker: Integers, workers: int, edges_ns: Integers) -> Floats:
    """Bytes of each worker's transfers in each bin, shape (workers, bins). ``worker`` is one end of each transfer.

    Bytes are spread evenly over start to end; a transfer that takes no time falls in the bin that it begins in.
    """
    bins = len(edges_ns) - 1
    if not bins:
        return np.zeros((workers, 0))
    first = np.clip(np.searchsorted(edges_ns, transfers.start_ns, side="right") - 1, 0, bins - 1)
    last = np.maximum(first, np.searchsorted(edges_ns, transfers.end_ns, side="left") - 1)
    touched = last - first + 1
    index = np.repeat(np.arange(len(worker)), touched)
    place = first[index] + np.arange(len(index)) - (np.cumsum(touched) - touched)[index]
    start_ns, end_ns = transfers.start_ns[index], transfers.end_ns[index]
    overlap_ns = np.minimum(end_ns, edges_ns[place + 1]) - np.maximum(start_ns, edges_ns[place])
    share = np.where(end_ns > start_ns, overlap_ns / np.maximum(end_ns - start_ns, 1), 1.0)
    weights = transfers.size_bytes[index] * share
    total = np.bincount(worker[index] * bins + place, weights=weights, minlength=workers * bins)
    return total.astype(np.float64).reshape(workers, bins)


_Activity: TypeAlias = tuple[list[Changes], list[Changes]]
"""Whether a worker computes, and for how many requests: what both change by, at the beginning or at the end."""


def _activity(columns: RunColumns) -> tuple[_Activity, _Activity]:
    """How each piece of computing begins, and how it ends: by the same amounts, which are kept once."""
    prefills, steps = columns.prefills, columns.steps
    of_steps = requests_in_steps(columns.spans, steps)
    worker, end_ns, duration_ns = steps.worker, steps.end_ns, steps.duration_ns
    if steps.mixed.any():  # those are prefills as well
        decode = np.flatnonzero(~steps.mixed)
        worker, end_ns, duration_ns, of_steps = (column[decode] for column in (worker, end_ns, duration_ns, of_steps))
    begins: _Activity = ([], [])
    ends: _Activity = ([], [])
    for who, start_ns, over_ns, requests in (
        (prefills.worker, prefills.start_ns, prefills.end_ns, prefills.requests),
        (worker, end_ns - duration_ns, end_ns, of_steps),
    ):
        for place, amount in enumerate((np.broadcast_to(np.int64(1), who.shape), requests)):
            begins[place].append(Changes(who, start_ns, amount))
            ends[place].append(Changes(who, over_ns, amount))
    return begins, ends
