"""Whether requests fit the model's context and the block pools: on loading as far as can be told, then one by one.

A request whose context outgrows every pool would be cut short or turned away by the scheduler; a study over such
requests answers another question than the one asked. It must not know YAML.
"""

from kvsim.core.cluster import ClusterSpec, Role, WorkerSpec
from kvsim.errors import Problem
from kvsim.scenario.problems import Report
from kvsim.scenario.values import Variant
from kvsim.workload import Workload
from kvsim.workload.spec import (
    FixedLength,
    GeneratedWorkload,
    LengthPairs,
    LengthSpec,
    PhasedWorkload,
    TraceWorkload,
)


def request_tokens_max(variant: Variant) -> tuple[int, str]:
    """The longest request, prompt and output together, that can be served to its end, and what sets that limit."""
    model = variant.hardware.model
    limits = [(model.context_tokens_max, f"the context limit of {model.name}")]
    for worker in _largest_workers(variant.cluster):
        blocks = f"{worker.kv_blocks} blocks of {variant.cluster.block_tokens(worker.id)} tokens"
        tokens = variant.cluster.capacity_tokens(worker.id)
        limits.append((tokens, f"the KV cache of {worker.role} worker {worker.name} ({blocks})"))
    return min(limits, key=lambda limit: limit[0])


def check_lengths(variant: Variant, report: Report) -> None:
    """The longest request that a distribution can draw fits. Files are checked when they have been read."""
    workload = variant.workload
    lengths: list[LengthPairs] = []
    key = "lengths"
    if isinstance(workload, PhasedWorkload):
        lengths, key = [phase.lengths for phase in workload.phases], "phases"
    elif isinstance(workload, GeneratedWorkload) and isinstance(workload.lengths, LengthPairs):
        lengths = [workload.lengths]
    limit, why = request_tokens_max(variant)
    for pairs in lengths:
        prompt, output = _longest(pairs.prompt_tokens), _longest(pairs.output_tokens)
        if workload.output_tokens_max is not None:
            output = min(output, workload.output_tokens_max)
        if prompt + output <= limit:
            continue
        report.add(
            ["workload", key],
            f"found requests of up to {prompt} + {output} tokens (prompt + output), expected at most {limit}: {why}",
        )


def check_fits(variant: Variant, workload: Workload, file: str = "workload") -> list[Problem]:
    """One problem if requests of a generated workload are too long for this variant, none if all fit.

    ``file`` is what the problem names as its place: the scenario's or the trace's path.
    """
    output_tokens = workload.output_tokens
    if workload.output_tokens_max is not None:
        output_tokens = output_tokens.clip(max=workload.output_tokens_max)
    tokens = workload.prompt_tokens + output_tokens
    limit, why = request_tokens_max(variant)
    too_long = (tokens > limit).nonzero()[0]
    if len(too_long) == 0:
        return []
    first = int(too_long[0])
    count = f"{len(too_long)} of {len(workload)} requests" if len(too_long) > 1 else "one request"
    key, remedy = _remedy(variant, limit)
    lengths = f"{workload.prompt_tokens[first]} + {output_tokens[first]} tokens (prompt + output)"
    message = f"found {count} too long, first request {first} of {lengths}, expected at most {limit}: {why}; {remedy}"
    return [Problem(file, 0, 0, key, message)]


def _remedy(variant: Variant, limit: int) -> tuple[str, str]:
    """The key that mends it, and how."""
    if isinstance(variant.workload, TraceWorkload):
        key = "workload.trace.request_tokens_max"
        return key, f"--set {key}={limit} leaves them out"
    return "workload.lengths", "take shorter lengths, or workers with more KV cache"


def _largest_workers(cluster: ClusterSpec) -> list[WorkerSpec]:
    """Of each role the worker with room for the most tokens: a request that outgrows that one has nowhere to go."""
    largest: dict[Role, WorkerSpec] = {}
    for worker in cluster.workers:
        known = largest.get(worker.role)
        if known is None or cluster.capacity_tokens(worker.id) > cluster.capacity_tokens(known.id):
            largest[worker.role] = worker
    return list(largest.values())


def _longest(length: LengthSpec) -> int:
    return length.tokens if isinstance(length, FixedLength) else length.tokens_max
