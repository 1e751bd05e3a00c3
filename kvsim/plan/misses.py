"""Which requests of a run missed which limit, and the instants that tell why.

It must not know rates or layouts.
"""

from dataclasses import dataclass

import numpy as np

from kvsim.metrics import RunColumns, stage_durations
from kvsim.metrics.columns import MISSING, FirstToken, Flags, Integers
from kvsim.scenario import Slo


@dataclass(frozen=True, slots=True)
class Misses:
    """One entry a request. A rejected request missed the limit of the first token, or, without one, the other."""

    ttft: Flags
    tpot: Flags

    @property
    def met(self) -> Flags:
        """Requests that finished within every limit, in order of arrival."""
        return ~(self.ttft | self.tpot)


def misses_of(columns: RunColumns, slo: Slo, first_token: FirstToken) -> Misses:
    """Judge every request. The same limits as for ``slo_attainment`` of the summary, but each told apart."""
    requests = columns.requests
    first_ns = requests.first_token_ns(first_token)
    finished = requests.finished
    ttft = tpot = np.zeros(len(first_ns), dtype=np.bool_)
    if slo.ttft_ns is not None:
        ttft = ~finished | (first_ns - requests.arrival_ns > slo.ttft_ns)
    if slo.tpot_ns is not None:
        gaps = requests.output_tokens - 1
        late = (gaps >= 1) & (requests.last_token_ns - first_ns > slo.tpot_ns * gaps)
        tpot = (finished & late) | (~finished if slo.ttft_ns is None else np.zeros_like(late))
    return Misses(ttft, tpot)


@dataclass(frozen=True, slots=True)
class Waits:
    """What a request's time to its first decode step consists of, in ns; one entry a request.

    ``queue_busy`` is the share of its wait for prefill in which its prefill worker computed, ``queue_for_memory`` the
    part of it before decode memory was reserved (mode push), ``pool_full`` whether that worker's blocks were taken in
    the middle of the wait.
    """

    queue: Integers
    prefill: Integers
    memory: Integers
    transfer: Integers
    step: Integers
    decode: Integers
    queue_busy: np.ndarray
    queue_for_memory: Integers
    pool_full: Flags


FULL_SHARE = 0.9
"""A pool of which so much is taken counts as full: the rest may not hold the next request."""


def waits_of(columns: RunColumns) -> Waits:
    """The stages of every request and what its prefill worker did while it queued."""
    requests = columns.requests
    started = requests.prefill_start_ns != MISSING
    start_ns = np.where(started, requests.prefill_start_ns, requests.finished_ns)
    queue = start_ns - requests.arrival_ns
    stages = stage_durations(requests)
    reserved_ns = np.where(requests.decode_reserved_ns != MISSING, requests.decode_reserved_ns, start_ns)
    busy, full = np.zeros(len(queue)), np.zeros(len(queue), dtype=np.bool_)
    for worker, spec in enumerate(columns.cluster.workers):
        mine = requests.prefill_worker == worker
        if spec.role == "decode" or not mine.any():
            continue
        busy[mine] = _busy_ns(columns, worker, start_ns[mine]) - _busy_ns(columns, worker, requests.arrival_ns[mine])
        taken = _taken_blocks(columns, worker, (start_ns[mine] + requests.arrival_ns[mine]) // 2)
        full[mine] = taken >= FULL_SHARE * spec.kv_blocks
    return Waits(
        queue=queue,
        prefill=np.where(started, stages["prefill"], 0),
        memory=stages["decode_memory_wait"],
        transfer=stages["transfer_exposed"],
        step=stages["decode_wait"],
        decode=stages["decode"],
        queue_busy=busy / np.maximum(queue, 1),
        queue_for_memory=np.clip(reserved_ns - requests.arrival_ns, 0, queue),
        pool_full=full,
    )


def _busy_ns(columns: RunColumns, worker: int, at_ns: Integers) -> np.ndarray:
    """How long a worker has computed up to these instants: its steps and prefills do not overlap."""
    prefills, steps = columns.prefills, columns.steps
    of_steps = (steps.worker == worker) & ~steps.mixed
    of_prefills = prefills.worker == worker
    start_ns = np.concatenate([prefills.start_ns[of_prefills], (steps.end_ns - steps.duration_ns)[of_steps]])
    end_ns = np.concatenate([prefills.end_ns[of_prefills], steps.end_ns[of_steps]])
    order = np.argsort(start_ns, kind="stable")
    start_ns, end_ns = start_ns[order], end_ns[order]
    total = np.cumsum(end_ns - start_ns)
    instants = np.stack([start_ns, end_ns], axis=1).ravel()
    levels = np.stack([total - (end_ns - start_ns), total], axis=1).ravel()
    return np.interp(at_ns, instants, levels) if len(instants) else np.zeros(len(at_ns))


def _taken_blocks(columns: RunColumns, worker: int, at_ns: Integers) -> Integers:
    """Blocks that requests hold on a worker at these instants."""
    taken = np.zeros(len(at_ns), dtype=np.int64)
    for changes in columns.memory.reserved_parts:
        mine = changes.worker == worker
        order = np.argsort(changes.at_ns[mine], kind="stable")
        levels = np.concatenate([[0], np.cumsum(changes.amount[mine][order])])
        taken += levels[np.searchsorted(changes.at_ns[mine][order], at_ns, side="right")]
    return taken
