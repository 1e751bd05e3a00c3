"""Blocks of KV cache over time: reserved, filled, and kept after their prefill.

A *residency* is the time in which a request has blocks on one worker. Its blocks are reserved when they are assigned.
They are filled, on a worker that prefills, when the chunk that first writes to them is over and, on one that receives,
when a transfer is over, in proportion to its layers. A block that a decode step takes counts as reserved and filled
from the end of that step. Amounts stay integers: blocks, or blocks x layers.
"""

import numpy as np

from kvsim.core.cluster import ClusterSpec
from kvsim.metrics.columns import MISSING, Changes, Integers, MemoryColumns, StepColumns, TokenSpans
from kvsim.metrics.logs import Logs, begins_ns, first_by_row, total_by_row
from kvsim.metrics.roles import RoleColumns


def memory_columns(
    cluster: ClusterSpec,
    logs: Logs,
    spans: TokenSpans,
    steps: StepColumns,
    prompt_tokens: Integers,
    roles: RoleColumns,
) -> MemoryColumns:
    """All changes of the run. ``prompt_tokens`` has one entry a request, in the rows that ``spans`` names."""
    layers = cluster.kv.layers
    _, worker, released_ns = logs.residencies
    short_worker = worker.astype(np.int32)
    count = len(worker)
    assigned_residency, assigned_ns, assigned = logs.assigns
    assigned_total = total_by_row(assigned_residency, assigned, count)
    grown_residency, grown_ns = block_growth(spans, steps, prompt_tokens, _block_tokens(cluster)[worker])
    grown_total = np.bincount(grown_residency, minlength=count).astype(np.int64)
    filled_residency, filled_ns, filled = _fills(logs, cluster, assigned_total * layers)
    filled_total = total_by_row(filled_residency, filled, count)

    released = np.flatnonzero(released_ns != MISSING)
    prefills = roles.has("prefill", worker, begins_ns(logs))
    prefill_over_ns = first_by_row(filled_residency[::-1], filled_ns[::-1], count)
    held = np.flatnonzero(prefills & (prefill_over_ns != MISSING))
    held_released = held[released_ns[held] != MISSING]

    def changes(*parts: tuple[Integers, Integers, Integers]) -> Changes:
        residency, at_ns, amount = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return Changes(short_worker[residency], at_ns, amount)

    return MemoryColumns(
        reserved=changes(
            (assigned_residency, assigned_ns, assigned),
            (released, released_ns[released], -(assigned_total + grown_total)[released]),
        ),
        filled=changes(
            (filled_residency, filled_ns, filled),
            (released, released_ns[released], -(filled_total + grown_total * layers)[released]),
        ),
        held=changes(
            (held, prefill_over_ns[held], filled_total[held]),
            (held_released, released_ns[held_released], -filled_total[held_released]),
        ),
        grown=Changes(short_worker[grown_residency], grown_ns, np.broadcast_to(np.int64(1), grown_ns.shape)),
    )


def block_growth(
    spans: TokenSpans, steps: StepColumns, prompt_tokens: Integers, block_tokens: Integers
) -> tuple[Integers, Integers]:
    """Residency and instant of every block that a decode step took.

    A step writes the KV of the request's latest token, which with n tokens out is at position ``prompt + n - 1``. It
    takes a new block where that position is a multiple of ``block_tokens``, which has one entry a residency.
    """
    stint = np.flatnonzero((spans.first_step != MISSING) & (spans.residency != MISSING))
    position = prompt_tokens[spans.row[stint]] + spans.tokens_before[stint] - 1
    tokens = block_tokens[spans.residency[stint]]
    offset = -position % tokens  # steps before the first one that takes a block
    blocks = np.maximum(0, (spans.tokens[stint] - offset + tokens - 1) // tokens)
    index = np.repeat(np.arange(len(stint)), blocks)
    place = np.arange(len(index)) - (np.cumsum(blocks) - blocks)[index]
    step = spans.first_step[stint][index] + offset[index] + place * tokens[index]
    return spans.residency[stint][index], steps.end_ns[step]


def _fills(logs: Logs, cluster: ClusterSpec, capacity: Integers) -> tuple[Integers, Integers, Integers]:
    """Residency, instant and blocks x layers of every fill, in order of time within each residency.

    No residency is ever more than full: layers of a block that come twice, as they do where two chunks of a prompt
    share the block, count once.
    """
    _, run, chunk_residency, start_token, tokens = logs.chunks
    block_tokens = _block_tokens(cluster)[logs.residencies[1]][chunk_residency]  # of any where that is MISSING
    chunk_blocks = _ceil_div(start_token + tokens, block_tokens) - _ceil_div(start_token, block_tokens)
    transfer_end_ns, transfer_amount, transfer_residency = logs.transfers[4], logs.transfers[7], logs.transfers[9]
    residency = np.concatenate([chunk_residency, transfer_residency])
    at_ns = np.concatenate([logs.prefill_runs[2][run], transfer_end_ns])
    amount = np.concatenate([chunk_blocks * cluster.kv.layers, transfer_amount])

    known = np.flatnonzero((residency != MISSING) & (at_ns != MISSING))
    order = known[np.lexsort((at_ns[known], residency[known]))]
    residency, at_ns, amount = residency[order], at_ns[order], amount[order]
    before = np.cumsum(amount) - amount
    before -= before[np.searchsorted(residency, residency)]
    limit = capacity[residency]
    return residency, at_ns, np.minimum(before + amount, limit) - np.minimum(before, limit)


def _block_tokens(cluster: ClusterSpec) -> Integers:
    """Token slots of a block of each worker."""
    return np.array([cluster.block_tokens(worker.id) for worker in cluster.workers], dtype=np.int64)


def _ceil_div(tokens: Integers, block_tokens: Integers) -> Integers:
    return -(-tokens // block_tokens)
