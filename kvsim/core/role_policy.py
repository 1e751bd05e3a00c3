"""When a worker is to change its role: plain functions from what the scheduler knows of the load to one move or none.

Two policies. ``threshold`` looks at the two queues against fixed marks. ``controller`` works out how many workers each
role needs to keep its service level objective, and evens out what they have.

All amounts are integers; shares are in thousandths (permille). They must not know workers, requests or the time.
"""

from dataclasses import dataclass

from kvsim.core.cluster import ControllerRoles, ThresholdRoles
from kvsim.core.messages import DedicatedRole

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RoleView:
    """The load of a cluster as a scheduler can know it.

    ``*_workers`` serve the role or are about to. ``prompt_tokens_queued`` wait for their prefill or are in it,
    ``prompt_tokens_per_s`` arrive, ``prefill_tokens_per_s`` is what one prefill worker has shown to compute (0: not
    known yet). ``context_tokens`` are those of the requests placed on decode workers, memory or not;
    ``capacity_tokens`` is the KV cache of one decode worker. ``tpot_ns`` is the mean time per output token of those
    that ended lately (0: none).
    """

    prefill_workers: int
    decode_workers: int
    prompt_tokens_queued: int
    prompt_tokens_per_s: int
    prefill_tokens_per_s: int
    context_tokens: int
    capacity_tokens: int
    tpot_ns: int


@dataclass(frozen=True, slots=True)
class Move:
    """One worker is to go from one role to the other, for ``reason``."""

    source: DedicatedRole
    target: DedicatedRole
    reason: str


def choose_move(policy: ThresholdRoles | ControllerRoles, view: RoleView) -> Move | None:
    """What this policy makes of the load; None: nothing."""
    if isinstance(policy, ThresholdRoles):
        return threshold_move(policy, view)
    return controller_move(policy, view)


def threshold_move(policy: ThresholdRoles, view: RoleView) -> Move | None:
    """Help the role whose queue is above its high mark if that of the other is below its low mark. The distance of the
    two marks is the hysteresis."""
    if not view.prefill_workers or not view.decode_workers:
        return None
    queue_tokens = view.prompt_tokens_queued // view.prefill_workers
    memory = memory_permille(view)
    if queue_tokens >= policy.prefill_queue_tokens_high and memory <= policy.decode_memory_permille_low:
        reason = f"{queue_tokens} prompt tokens queued per prefill worker, decode memory at {memory} permille"
        return Move("decode", "prefill", reason)
    if memory >= policy.decode_memory_permille_high and queue_tokens <= policy.prefill_queue_tokens_low:
        reason = f"decode memory at {memory} permille, {queue_tokens} prompt tokens queued per prefill worker"
        return Move("prefill", "decode", reason)
    return None


def controller_move(policy: ControllerRoles, view: RoleView) -> Move | None:
    """Help the role under the higher pressure, which is the workers that it needs over those that it has, in permille.

    It must reach ``pressure_permille``, and giving up a worker must leave the other role ``margin_permille`` below it:
    that is the hysteresis, as a move back would have to gain as much again.
    """
    if not view.prefill_workers or not view.decode_workers or not view.prefill_tokens_per_s:
        return None
    prefill_need, decode_need = prefill_need_permille(policy, view), decode_need_permille(policy, view)
    prefill, decode = prefill_need // view.prefill_workers, decode_need // view.decode_workers
    reason = f"pressure in permille: prefill {prefill}, decode {decode}"
    if prefill >= decode:
        relieved = _relieves(policy, prefill, decode_need, view.decode_workers - 1)
        return Move("decode", "prefill", reason) if relieved else None
    relieved = _relieves(policy, decode, prefill_need, view.prefill_workers - 1)
    return Move("prefill", "decode", reason) if relieved else None


def _relieves(policy: ControllerRoles, pressure: int, need_permille: int, left: int) -> bool:
    """Whether the pressure is worth a move that leaves the other role, which needs so many workers, with ``left``."""
    return left > 0 and pressure >= max(policy.pressure_permille, need_permille // left + policy.margin_permille)


def prefill_need_permille(policy: ControllerRoles, view: RoleView) -> int:
    """Thousandths of prefill workers that are needed: for the prompts that arrive, and for the part of the queue that
    those at hand do not compute within half the limit of the time to first token, to be computed in as much again."""
    speed = view.prefill_tokens_per_s
    within_tokens = view.prefill_workers * speed * policy.ttft_ns // (2 * NS_PER_S)
    late_tokens = max(0, view.prompt_tokens_queued - within_tokens)
    late_tokens_per_s = late_tokens * 2 * NS_PER_S // policy.ttft_ns
    return 1000 * (view.prompt_tokens_per_s + late_tokens_per_s) // speed


def decode_need_permille(policy: ControllerRoles, view: RoleView) -> int:
    """Thousandths of decode workers that are needed: for the memory of all that is placed there and, while outputs are
    slower than ``pressure_permille`` of their limit allows, for as much more as they are slow. Below that the time per
    token says nothing: weights are read for a small batch as well."""
    memory = 1000 * view.context_tokens // view.capacity_tokens
    slowness = 1000 * view.tpot_ns // policy.tpot_ns
    return max(memory, slowness * view.decode_workers) if slowness >= policy.pressure_permille else memory


def memory_permille(view: RoleView) -> int:
    """What is placed on the decode workers, as a share of their KV cache. Above 1000 some of it waits."""
    return 1000 * view.context_tokens // (view.decode_workers * view.capacity_tokens)
