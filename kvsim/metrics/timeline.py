"""Time series of workers: levels and rates in equal bins over the makespan, for tables and figures.

Levels are summed exactly in integers within each bin and divided once. This module must not know how blocks or batches
came about.
"""

from dataclasses import dataclass

import numpy as np

from kvsim.metrics.columns import Changes, Floats, Integers, RunColumns, TransferColumns
from kvsim.metrics.intervals import requests_in_steps

BINS_MAX = 400
BIN_NS_MIN = 1_000_000


@dataclass(frozen=True, slots=True)
class Timeline:
    """Bins ``[edges_ns[i], edges_ns[i + 1])`` and arrays of shape (workers, bins): means over the bin."""

    edges_ns: Integers
    busy: Floats
    requests_running: Floats
    kv_reserved_blocks: Floats
    kv_filled_blocks: Floats
    sent_bytes_per_s: Floats
    received_bytes_per_s: Floats


def worker_timeline(columns: RunColumns) -> Timeline:
    """What each worker did over time. Without a makespan there are no bins."""
    edges_ns = bin_edges(columns.start_ns, columns.end_ns)
    workers = len(columns.cluster.workers)
    transfers = columns.transfers
    interval_ns = np.diff(edges_ns)

    def mean(changes: Changes, units: int = 1) -> Floats:
        means: Floats = binned_area(changes, workers, edges_ns) / (interval_ns * units)
        return means

    def rate(worker: Integers) -> Floats:
        rates: Floats = transferred_bytes(transfers, worker, workers, edges_ns) * 1e9 / interval_ns
        return rates

    busy, running = _activity(columns)
    return Timeline(
        edges_ns=edges_ns,
        busy=mean(busy),
        requests_running=mean(running),
        kv_reserved_blocks=mean(columns.memory.reserved),
        kv_filled_blocks=mean(columns.memory.filled, columns.cluster.kv.layers),
        sent_bytes_per_s=rate(transfers.source),
        received_bytes_per_s=rate(transfers.target),
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


def binned_area(changes: Changes, workers: int, edges_ns: Integers) -> Integers:
    """The level of each worker summed over the ns of each bin: integers of shape (workers, bins)."""
    bins = len(edges_ns) - 1
    area = np.zeros((workers, bins), dtype=np.int64)
    if not bins:
        return area
    order = np.argsort(changes.worker, kind="stable")
    parts = np.searchsorted(changes.worker[order], np.arange(workers + 1))
    for worker in range(workers):
        part = order[parts[worker] : parts[worker + 1]]
        area[worker] = _area(changes.at_ns[part], changes.amount[part], edges_ns)
    return area


def _area(at_ns: Integers, amount: Integers, edges_ns: Integers) -> Integers:
    """Edges are merged into the changes as changes of 0, so each stretch of constant level lies in one bin."""
    points = np.concatenate([edges_ns, np.clip(at_ns, edges_ns[0], edges_ns[-1])])
    order = np.argsort(points, kind="stable")
    points = points[order]
    level = np.cumsum(np.concatenate([np.zeros_like(edges_ns), amount])[order])
    first = np.searchsorted(points, edges_ns)
    return np.add.reduceat(level[:-1] * np.diff(points), first[:-1])


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


def _activity(columns: RunColumns) -> tuple[Changes, Changes]:
    """Whether a worker computes, and for how many requests."""
    prefills, steps = columns.prefills, columns.steps
    decode = np.flatnonzero(~steps.mixed)
    worker = np.concatenate([prefills.worker, steps.worker[decode]])
    end_ns = np.concatenate([prefills.end_ns, steps.end_ns[decode]])
    start_ns = np.concatenate([prefills.start_ns, (steps.end_ns - steps.duration_ns)[decode]])
    requests = np.concatenate([prefills.requests, requests_in_steps(columns.spans, steps)[decode]])

    def during(amount: Integers) -> Changes:
        return Changes(
            np.concatenate([worker, worker]), np.concatenate([start_ns, end_ns]), np.concatenate([amount, -amount])
        )

    return during(np.ones_like(worker)), during(requests)
