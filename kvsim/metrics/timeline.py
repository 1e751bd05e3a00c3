"""Time series of workers: levels and rates in equal bins over the makespan, for tables and figures.

Levels are summed exactly in integers within each bin and divided once. This module must not know how blocks or batches
came about.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from kvsim.metrics.columns import Changes, Floats, Integers, RunColumns, ShortIntegers, TransferColumns
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


class Stays(msgspec.Struct, frozen=True):
    """Stretches of time on workers, each with an amount, such as the requests that a step is for."""

    worker: ShortIntegers
    begin_ns: Integers
    end_ns: Integers
    amount: ShortIntegers


def worker_timeline(columns: RunColumns) -> Timeline:
    """What each worker did over time. Without a makespan there are no bins."""
    edges_ns = bin_edges(columns.start_ns, columns.end_ns)
    workers = len(columns.cluster.workers)
    transfers = columns.transfers
    interval_ns = np.diff(edges_ns)

    def area(changes: Changes) -> Integers:
        return binned_area([changes], workers, edges_ns)

    def rate(worker: Integers) -> Floats:
        rates: Floats = transferred_bytes(transfers, worker, workers, edges_ns) * 1e9 / interval_ns
        return rates

    busy, running = _computing(columns, edges_ns)
    layers, memory = columns.cluster.kv.layers, columns.memory
    grown = area(memory.grown)
    return Timeline(
        edges_ns=edges_ns,
        busy=busy / interval_ns,
        requests_running=running / interval_ns,
        kv_reserved_blocks=(area(memory.reserved) + grown) / interval_ns,
        kv_filled_blocks=(area(memory.filled) + grown * layers) / (interval_ns * layers),
        sent_bytes_per_s=rate(transfers.source),
        received_bytes_per_s=rate(transfers.target),
        draining=area(columns.roles.draining) / interval_ns,
        switching=area(columns.roles.switching) / interval_ns,
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
    taken a piece at a time: a long run has millions. ``edges_ns`` is as ``bin_edges`` makes it.
    """
    bins = len(edges_ns) - 1
    if not bins:
        return np.zeros((workers, 0), dtype=np.int64)
    area, change = np.zeros((2, workers * bins), dtype=np.int64)
    for part in parts:
        for first in range(0, len(part.worker), PIECE):
            piece = slice(first, first + PIECE)
            at_ns = np.clip(part.at_ns[piece], edges_ns[0], edges_ns[-1])
            place, until_ns = _bins_of(at_ns, edges_ns)
            cell = part.worker[piece] * bins + place
            amount = part.amount[piece].astype(np.int64, copy=False)  # adding another type is several times slower
            np.add.at(area, cell, amount * (until_ns - at_ns))
            np.add.at(change, cell, amount)
    by_bin = change.reshape(workers, bins)
    return area.reshape(workers, bins) + (np.cumsum(by_bin, axis=1) - by_bin) * np.diff(edges_ns)


def binned_stays(stays: Stays, workers: int, edges_ns: Integers) -> Integers:
    """What ``binned_area`` gives for the number of stays of each worker, and for their amounts: shape (2, workers,
    bins). Most stays begin and end in one bin, and add to that alone."""
    bins = len(edges_ns) - 1
    area = np.zeros((2, workers * bins), dtype=np.int64)
    if not bins:
        return area.reshape(2, workers, 0)
    rest = np.ones(len(stays.worker), dtype=np.bool_)
    for first in range(0, len(rest), PIECE):
        piece = slice(first, first + PIECE)
        begin_ns, end_ns = (np.clip(ns[piece], edges_ns[0], edges_ns[-1]) for ns in (stays.begin_ns, stays.end_ns))
        place, until_ns = _bins_of(begin_ns, edges_ns)
        within = end_ns <= until_ns
        cell = stays.worker[piece] * bins + place
        lasts_ns = (end_ns - begin_ns) * within
        np.add.at(area[0], cell, lasts_ns)
        np.add.at(area[1], cell, stays.amount[piece] * lasts_ns)
        rest[piece] = ~within
    worker, begin_ns, end_ns = stays.worker[rest], stays.begin_ns[rest], stays.end_ns[rest]
    by_bin = area.reshape(2, workers, bins)
    for kind, amount in enumerate((np.ones(len(worker), dtype=np.int64), stays.amount[rest].astype(np.int64))):
        by_bin[kind] += binned_area(
            [Changes(worker, begin_ns, amount), Changes(worker, end_ns, -amount)], workers, edges_ns
        )
    return by_bin


def _bins_of(at_ns: Integers, edges_ns: Integers) -> tuple[Integers, Integers]:
    """The bin of each instant, and where that ends. All bins but the last are equal, so nothing need be searched."""
    width_ns = edges_ns[1] - edges_ns[0]
    place = np.minimum((at_ns - edges_ns[0]) // width_ns, len(edges_ns) - 2)  # the last one holds the last edge too
    return place, np.minimum(edges_ns[0] + (place + 1) * width_ns, edges_ns[-1])


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


def _computing(columns: RunColumns, edges_ns: Integers) -> Integers:
    """For how long each worker computes in each bin, and for how many requests that long: shape (2, workers, bins)."""
    prefills, steps = columns.prefills, columns.steps
    of_steps = requests_in_steps(columns.spans, steps)
    worker, end_ns, duration_ns = steps.worker, steps.end_ns, steps.duration_ns
    if steps.mixed.any():  # those are prefills as well
        decode = np.flatnonzero(~steps.mixed)
        worker, end_ns, duration_ns, of_steps = (column[decode] for column in (worker, end_ns, duration_ns, of_steps))
    workers = len(columns.cluster.workers)
    area = binned_stays(Stays(worker, end_ns - duration_ns, end_ns, of_steps), workers, edges_ns)
    area += binned_stays(
        Stays(prefills.worker, prefills.start_ns, prefills.end_ns, prefills.requests), workers, edges_ns
    )
    return area
