"""The numbers of a run that people compare: one nested dict of plain values, ready for JSON.

What each key means is in ``kvsim.metrics.definitions``. Statistics of requests are over those that finished with
output.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvsim.core.cluster import ClusterSpec, Role
from kvsim.metrics.columns import MISSING, NS_PER_S, Changes, FirstToken, Flags, Integers, RunColumns
from kvsim.metrics.distribution import exact_dot, ratio_statistics_s, statistics_s
from kvsim.metrics.failures import failures
from kvsim.metrics.intervals import PIECE_STEPS, token_gaps
from kvsim.metrics.stages import STAGES, stage_durations

Summary = dict[str, Any]


def summarise(
    columns: RunColumns,
    cluster: ClusterSpec,
    link_bytes_per_s: Sequence[float],
    *,
    slo_ttft_ns: int | None,
    slo_tpot_ns: int | None,
    first_token: FirstToken,
    struck: Mapping[str, int] | None = None,
) -> Summary:
    """Every metric of a run.

    ``cluster`` is the one that the columns were collected for. ``link_bytes_per_s`` has one entry a worker: what all
    its NICs together carry one way. An objective that is None is not asked for. Metrics without a sample are None.
    ``struck``: how often which kind of fault did, in simulation.
    """
    assert len(link_bytes_per_s) == len(cluster.workers), (
        f"{len(link_bytes_per_s)} links, {len(cluster.workers)} workers"
    )
    requests = columns.requests
    finished = requests.finished
    met = finished & _meets_slo(columns, slo_ttft_ns, slo_tpot_ns, first_token)
    asked = slo_ttft_ns is not None or slo_tpot_ns is not None
    arrived = len(requests.request)
    roles = columns.roles.roles()
    wrong = failures(columns, struck or {})
    return {
        "requests": {
            "arrived": arrived,
            "finished": int(finished.sum()),
            "rejected": int(requests.rejected.sum()),
            "shed": requests.ended_as("shed"),
            "failed": requests.ended_as("failed"),
        },
        **_latencies(columns, finished, first_token),
        "stages_s": _stage_means(columns, finished),
        "gpu_busy": {role: _gpu_busy(columns, role) for role in roles},
        "kv_reserved_unfilled_block_s": {role: _unfilled_block_s(columns, role) for role in roles},
        "kv_held_block_s": {role: _held_block_s(columns, role) for role in roles},
        "link_utilisation": {role: _link_utilisation(columns, role, link_bytes_per_s) for role in roles},
        "slo_attainment": int(met.sum()) / arrived if asked and arrived else None,
        "goodput_req_per_s": _per_second(int(met.sum()), columns),
        "throughput": {
            "requests_per_s": _per_second(int(finished.sum()), columns),
            "output_tokens_per_s": _per_second(int(requests.output_tokens.sum()), columns),
        },
        "makespan_s": columns.makespan_ns / NS_PER_S,
        "transfers": _transfers(columns),
        "preemptions": int(requests.preemptions.sum()),
        "role_switches": _role_switches(columns),
        **({} if wrong is None else {"failures": wrong}),
    }


def _latencies(columns: RunColumns, finished: Flags, first_token: FirstToken) -> Summary:
    requests = columns.requests
    first_ns = requests.first_token_ns(first_token)
    arrival_ns = requests.arrival_ns
    several = finished & (requests.output_tokens > 1)
    moved = finished & (requests.transfer_end_ns != MISSING)
    decoded = finished & (requests.decode_start_ns != MISSING)
    stages = stage_durations(requests)
    decode_queue_ns = stages["decode_memory_wait"] + stages["decode_wait"]
    return {
        "ttft_s": statistics_s((first_ns - arrival_ns)[finished]),
        "tpot_s": ratio_statistics_s(
            (requests.last_token_ns - first_ns)[several], (requests.output_tokens - 1)[several]
        ),
        "itl_s": statistics_s(*token_gaps(columns, finished, first_token), overwrite=True),
        "e2e_s": statistics_s((requests.finished_ns - arrival_ns)[finished]),
        "transfer_s": statistics_s((requests.transfer_end_ns - requests.transfer_start_ns)[moved]),
        "prefill_queue_s": statistics_s(stages["prefill_queue"][finished]),
        "decode_queue_s": statistics_s(decode_queue_ns[decoded]),
    }


def _stage_means(columns: RunColumns, finished: Flags) -> Summary:
    durations_ns = stage_durations(columns.requests)
    count = int(finished.sum())
    return {stage: int(durations_ns[stage][finished].sum()) / (count * NS_PER_S) if count else None for stage in STAGES}


def _meets_slo(columns: RunColumns, slo_ttft_ns: int | None, slo_tpot_ns: int | None, first_token: FirstToken) -> Flags:
    """Requests within every objective that is asked for. One with a single token has no TPOT to miss."""
    requests = columns.requests
    first_ns = requests.first_token_ns(first_token)
    met = np.ones(len(first_ns), dtype=np.bool_)
    if slo_ttft_ns is not None:
        met &= first_ns - requests.arrival_ns <= slo_ttft_ns
    if slo_tpot_ns is not None:
        gaps = requests.output_tokens - 1
        met &= (gaps < 1) | (requests.last_token_ns - first_ns <= slo_tpot_ns * gaps)
    return met


def _gpu_busy(columns: RunColumns, role: Role) -> float | None:
    prefills, steps, roles = columns.prefills, columns.steps, columns.roles
    busy_ns = int((prefills.end_ns - prefills.start_ns)[roles.has(role, prefills.worker, prefills.start_ns)].sum())
    for first in range(0, len(steps.worker), PIECE_STEPS):  # a long run has millions of steps
        piece = slice(first, first + PIECE_STEPS)
        chosen = roles.has(role, steps.worker[piece], steps.end_ns[piece] - 1)
        chosen &= ~steps.mixed[piece]  # those are prefill runs as well
        busy_ns += int((steps.duration_ns[piece] * chosen).sum(dtype=np.int64))
    available_ns = int(roles.time_ns(role, columns.start_ns, columns.end_ns).sum())
    return busy_ns / available_ns if available_ns else None


def _unfilled_block_s(columns: RunColumns, role: Role) -> float:
    """Blocks that decode steps took are filled as soon as they are reserved, so they are left out on both sides."""
    layers = columns.cluster.kv.layers
    reserved = columns.memory.reserved
    released = (reserved.amount < 0).astype(np.int64)
    reserved_area = _integral(columns, reserved, role, reserved.at_ns - released) * layers
    filled = columns.memory.filled
    return (reserved_area - _integral(columns, filled, role, filled.at_ns - 1)) / (layers * NS_PER_S)


def _held_block_s(columns: RunColumns, role: Role) -> float:
    held = columns.memory.held
    return _integral(columns, held, role, held.at_ns - 1) / (columns.cluster.kv.layers * NS_PER_S)


def _integral(columns: RunColumns, changes: Changes, role: Role, belongs_ns: Integers) -> int:
    """The quantity summed over ns up to the end: each change counts from its instant on, for the role that its worker
    had at ``belongs_ns``. What ends at the instant of a switch was of the old role."""
    chosen = columns.roles.has(role, changes.worker, belongs_ns)
    return exact_dot(columns.end_ns - changes.at_ns, changes.amount * chosen)


def _link_utilisation(columns: RunColumns, role: Role, link_bytes_per_s: Sequence[float]) -> Summary:
    transfers, roles = columns.transfers, columns.roles
    time_ns = roles.time_ns(role, columns.start_ns, columns.end_ns).tolist()
    makespan_ns = columns.makespan_ns
    shares = [had_ns / makespan_ns if makespan_ns else 0.0 for had_ns in time_ns]
    rate = math.fsum(rate * share for rate, share in zip(link_bytes_per_s, shares, strict=True))
    capacity_bytes = rate * makespan_ns / NS_PER_S
    return {
        way: int(transfers.size_bytes[roles.has(role, end, transfers.start_ns)].sum()) / capacity_bytes
        if capacity_bytes
        else None
        for way, end in (("sent", transfers.source), ("received", transfers.target))
    }


def _role_switches(columns: RunColumns) -> Summary:
    """How often workers changed, and the time that it took them altogether: that is lost in either role."""
    roles = columns.roles
    return {
        "count": int(roles.switches.sum()),
        "draining_worker_s": _time_s(roles.draining),
        "switching_worker_s": _time_s(roles.switching),
    }


def _time_s(level: Changes) -> float:
    """Worker-seconds at which a level of 0 or 1 was 1; every change has its opposite."""
    return -exact_dot(level.at_ns, level.amount) / NS_PER_S


def _per_second(count: int, columns: RunColumns) -> float | None:
    return count * NS_PER_S / columns.makespan_ns if columns.makespan_ns else None


def _transfers(columns: RunColumns) -> Summary:
    size_bytes, operations = int(columns.transfers.size_bytes.sum()), int(columns.transfers.operations.sum())
    return {
        "count": len(columns.transfers.size_bytes),
        "bytes": size_bytes,
        "operations": operations,
        "bytes_per_operation": size_bytes / operations if operations else None,
    }
