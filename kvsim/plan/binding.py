"""Which resource a layout runs short of first: the one to blame for most requests that miss a limit.

The rule reads the run at the lowest rate that misses the target, where the shortage shows. Every missed limit is one
vote, cast by where the request's time went:

- Time to first token. The longest of: wait for prefill, prefill, and, where the decode worker sends the first token,
  wait for decode memory and transfer. A prefill: prefill compute. A wait for memory: decode KV memory. A transfer:
  network. A wait for prefill: prefill compute if the worker computed for at least 80 % of it. Otherwise memory is what
  was missing: that of the decode side where push reserves it first and did so late; else the prefill pool was full of
  KV that nobody had fetched, because of what the requests of the run spend most time in behind their start: waiting for
  decode memory (decode KV memory), transfers (network), prefill itself (prefill KV memory).
- Time per output token. Preempted: decode KV memory. Decoding alone took at least 90 % of what the limit allows:
  decode compute. Otherwise the longest wait behind the first token: for memory (decode KV memory), the transfer
  (network), a step (decode compute).
- Colocated workers have one pool and one GPU. Preempted, or queued while the pool was full: KV memory. Otherwise
  compute: that of prefill if chunks of prompts fill more than half of the time of steps, else that of decode; a wait
  for prefill counts to prefill compute.

It must not know rates, layouts or costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kvsim.metrics import RunColumns
from kvsim.metrics.columns import FirstToken, Integers
from kvsim.plan.misses import Misses, Waits, misses_of, waits_of
from kvsim.scenario import Slo

PREFILL_COMPUTE, DECODE_COMPUTE = "prefill compute", "decode compute"
PREFILL_MEMORY, DECODE_MEMORY, KV_MEMORY = "prefill KV memory", "decode KV memory", "KV memory"
NETWORK = "network"
RESOURCES = (PREFILL_COMPUTE, DECODE_COMPUTE, PREFILL_MEMORY, DECODE_MEMORY, NETWORK, KV_MEMORY)
BUSY_SHARE = 0.8
STEPS_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Binding:
    """The resource with the most votes and its share of them; None where nothing was missed."""

    resource: str | None
    share: float
    votes: Mapping[str, int]


def binding_of(columns: RunColumns, slo: Slo, first_token: FirstToken) -> Binding:
    """Apply the rule to a run. Of resources with as many votes the first of ``RESOURCES`` binds."""
    misses, waits = misses_of(columns, slo, first_token), waits_of(columns)
    if columns.cluster.policy.transfer_mode == "colocated":
        blamed = _colocated(columns, misses, waits)
    else:
        blamed = np.concatenate(
            [_first_token(columns, misses, waits, first_token), _later_tokens(columns, misses, waits, slo, first_token)]
        )
    counts = np.bincount(blamed, minlength=len(RESOURCES))
    votes = {name: int(count) for name, count in zip(RESOURCES, counts, strict=True) if count}
    if not votes:
        return Binding(None, 0.0, votes)
    most = int(np.argmax(counts))
    return Binding(RESOURCES[most], float(counts[most] / counts.sum()), votes)


def _index(resource: str) -> int:
    return RESOURCES.index(resource)


def _first_token(columns: RunColumns, misses: Misses, waits: Waits, first_token: FirstToken) -> Integers:
    parts = [waits.queue, waits.prefill]
    if first_token == "decode":
        parts += [waits.memory, waits.transfer]
    longest = np.argmax(np.stack(parts), axis=0)
    pushed = columns.cluster.policy.transfer_mode == "push"
    memory_late = pushed & (2 * waits.queue_for_memory >= waits.queue)
    idle = np.where(memory_late, _index(DECODE_MEMORY), _index(_holder(columns, waits)))
    queued = np.where(waits.queue_busy >= BUSY_SHARE, _index(PREFILL_COMPUTE), idle)
    whole = np.full(len(longest), _index(PREFILL_COMPUTE))
    memory, transfer = np.full_like(whole, _index(DECODE_MEMORY)), np.full_like(whole, _index(NETWORK))
    blamed: Integers = np.choose(longest, [queued, whole, memory, transfer])[misses.ttft]
    return blamed


def _holder(columns: RunColumns, waits: Waits) -> str:
    """Why blocks of prefill workers are taken for long."""
    finished = columns.requests.finished
    spent = {
        DECODE_MEMORY: int(waits.memory[finished].sum()),
        NETWORK: int(waits.transfer[finished].sum()),
        PREFILL_MEMORY: int(waits.prefill[finished].sum()),
    }
    return max(spent, key=lambda resource: spent[resource])


def _later_tokens(columns: RunColumns, misses: Misses, waits: Waits, slo: Slo, first_token: FirstToken) -> Integers:
    allowed_ns = (slo.tpot_ns or 0) * (columns.requests.output_tokens - 1)
    none = np.zeros_like(waits.step)
    behind = first_token == "prefill"
    parts = np.stack([waits.memory if behind else none, waits.transfer if behind else none, waits.step])
    causes = np.array([_index(DECODE_MEMORY), _index(NETWORK), _index(DECODE_COMPUTE)])
    blamed = causes[np.argmax(parts, axis=0)]
    blamed = np.where(waits.decode >= STEPS_SHARE * allowed_ns, _index(DECODE_COMPUTE), blamed)
    blamed = np.where(columns.requests.preemptions > 0, _index(DECODE_MEMORY), blamed)
    return blamed[misses.tpot]


def _colocated(columns: RunColumns, misses: Misses, waits: Waits) -> Integers:
    steps = columns.steps
    plain_ns = steps.duration_ns[~steps.mixed]
    mixed_ns = steps.duration_ns[steps.mixed]
    plain_mean_ns = float(plain_ns.mean()) if len(plain_ns) else 0.0
    chunks_ns = float(mixed_ns.sum()) - plain_mean_ns * len(mixed_ns)
    slow = PREFILL_COMPUTE if 2 * chunks_ns > float(steps.duration_ns.sum()) else DECODE_COMPUTE
    short_of_memory = columns.requests.preemptions > 0
    late = np.where(short_of_memory, _index(KV_MEMORY), _index(slow))[misses.tpot]
    queued_for_memory = short_of_memory | (waits.pool_full & (waits.queue >= waits.prefill))
    first = np.where(queued_for_memory, _index(KV_MEMORY), _index(PREFILL_COMPUTE))[misses.ttft]
    return np.concatenate([first, late])
