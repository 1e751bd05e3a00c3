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

    ``*_workers`` serve the role or are about to. ``prompt_tokens_queued`` are those of requests whose prefill is not
    over, ``prompt_tokens_per_s`` arrive, ``prefill_tokens_per_s`` is what one prefill worker has shown to compute (0:
    not known yet). ``prefills_blocked``: prefill workers stand still, so it is not for lack of them that prompts wait.
    ``context_tokens`` are those of the ``requests_prefilled``, which decode or wait for that; ``capacity_tokens`` is
    the KV cache of one decode worker, ``batch_requests`` the places of its batch. ``tpot_ns`` is the mean time per
    output token of those that ended lately (0: none).
    """

    prefill_workers: int
    decode_workers: int
    prompt_tokens_queued: int
    prompt_tokens_per_s: int
    prefill_tokens_per_s: int
    prefills_blocked: bool
    context_tokens: int
    requests_prefilled: int
    capacity_tokens: int
    batch_requests: int
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
    queue_tokens = 0 if view.prefills_blocked else view.prompt_tokens_queued // view.prefill_workers
    load = decode_load_permille(view) // view.decode_workers
    if queue_tokens >= policy.prefill_queue_tokens_high and load <= policy.decode_load_permille_low:
        reason = f"{queue_tokens} prompt tokens queued per prefill worker, decode workers filled to {load} permille"
        return Move("decode", "prefill", reason)
    if load >= policy.decode_load_permille_high and queue_tokens <= policy.prefill_queue_tokens_low:
        reason = f"decode workers filled to {load} permille, {queue_tokens} prompt tokens queued per prefill worker"
        return Move("prefill", "decode", reason)
    return None


def controller_move(policy: ControllerRoles, view: RoleView) -> Move | None:
    """Help the role under the higher pressure, which is the workers that it needs over those that it has, in permille.

    It must reach ``pressure_permille``, and giving up a worker must leave the other role ``margin_permille`` below it:
    that is the hysteresis, as a move back would have to gain as much again.
    """
    if not view.prefill_workers or not view.decode_workers or not view.prefill_tokens_per_s:
        return None
    prefill = prefill_need_permille(policy, view, view.prefill_workers) // view.prefill_workers
    decode_need = decode_need_permille(policy, view)
    decode = decode_need // view.decode_workers
    reason = f"pressure in permille: prefill {prefill}, decode {decode}"
    if prefill >= decode:
        left = view.decode_workers - 1
        return Move("decode", "prefill", reason) if _relieves(policy, prefill, decode_need, left) else None
    left = view.prefill_workers - 1
    prefill_need = prefill_need_permille(policy, view, left)
    return Move("prefill", "decode", reason) if _relieves(policy, decode, prefill_need, left) else None


def _relieves(policy: ControllerRoles, pressure: int, need_permille: int, left: int) -> bool:
    """Whether the pressure is worth a move that leaves the other role, which needs so many workers, with ``left``."""
    return left > 0 and pressure >= max(policy.pressure_permille, need_permille // left + policy.margin_permille)


def prefill_need_permille(policy: ControllerRoles, view: RoleView, workers: int) -> int:
    """Thousandths of prefill workers that are needed: for the prompts that arrive, and for the part of the queue that
    ``workers`` do not compute within half the limit of the time to first token, to be made good within the window."""
    speed = view.prefill_tokens_per_s
    within_tokens = workers * speed * policy.ttft_ns // (2 * NS_PER_S)
    late_tokens = 0 if view.prefills_blocked else max(0, view.prompt_tokens_queued - within_tokens)
    return 1000 * (view.prompt_tokens_per_s + late_tokens * NS_PER_S // policy.window_ns) // speed


def decode_need_permille(policy: ControllerRoles, view: RoleView) -> int:
    """Thousandths of decode workers that are needed: for all that is prefilled and, while outputs are slower than
    ``pressure_permille`` of their limit allows, for as much more as they are slow. Below that the time per token says
    nothing: weights are read for a small batch as well."""
    load = decode_load_permille(view)
    slowness = 1000 * view.tpot_ns // policy.tpot_ns
    return max(load, slowness * view.decode_workers) if slowness >= policy.pressure_permille else load


def decode_load_permille(view: RoleView) -> int:
    """Thousandths of decode workers that all that is prefilled takes: of their memory or of their batches, whichever is
    more."""
    return max(
        1000 * view.context_tokens // view.capacity_tokens, 1000 * view.requests_prefilled // view.batch_requests
    )
