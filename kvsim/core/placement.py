"""Which worker serves a request: plain functions over integers.

They must not know what a worker is; they see its id and its load.
"""

from collections.abc import Sequence
from typing import Final

from kvsim.core.cluster import DecodePlacement
from kvsim.core.messages import WorkerId

LOAD_SCALE: Final = 1_000_000
NEAR: Final = 2


def relative_load(outstanding_tokens: int, capacity_tokens: int) -> int:
    """Outstanding work in millionths of what the worker can hold, so that unequal workers compare."""
    return outstanding_tokens * LOAD_SCALE // capacity_tokens


def choose_worker(policy: DecodePlacement, candidates: Sequence[tuple[int, WorkerId]], turn: int) -> WorkerId:
    """Pick one of ``candidates``, given as (load, worker) in order of worker id.

    ``least_loaded`` (and ``link_aware`` where links do not matter): the smallest load, the lowest id where loads are
    equal. ``round_robin``: the ``turn``-th in rotation.
    """
    assert candidates, "no candidate to place a request on"
    if policy == "round_robin":
        return candidates[turn % len(candidates)][1]
    least, chosen = candidates[0]
    for load, worker in candidates:  # ``min`` would compare tuples
        if load < least:
            least, chosen = load, worker
    return chosen


def choose_near(
    candidates: Sequence[tuple[int, WorkerId]],
    hand_overs_ns: Sequence[int],
    decodes_ns: Sequence[int],
    own_loads: Sequence[int],
) -> WorkerId:
    """Pick the least loaded of the workers that a hand-over reaches soon, or that are worth the way.

    ``hand_overs_ns`` say how long the hand-over to each takes beside what is on the links already, ``decodes_ns`` how
    long an output takes there (0 where nobody knows), ``own_loads`` what the request adds to each load. Room for the
    request comes first: without it the KV waits, however fast the link. Near are those that the hand-over reaches
    within twice the time of the fastest: what is on a link changes from one instant to the next, what a worker decodes
    stays. One further off is worth the way if hand-over and output together are over before they are at any near one.
    """
    assert candidates, "no candidate to place a request on"
    near_ns = NEAR * min(hand_overs_ns)
    totals_ns = [hand_over_ns + decode_ns for hand_over_ns, decode_ns in zip(hand_overs_ns, decodes_ns, strict=True)]
    near_totals_ns = [
        total_ns for total_ns, hand_over_ns in zip(totals_ns, hand_overs_ns, strict=True) if hand_over_ns <= near_ns
    ]
    near_best_ns = min(near_totals_ns)
    ranked = [
        (load + own > LOAD_SCALE, hand_over_ns > near_ns and total_ns >= near_best_ns, load, worker)
        for (load, worker), hand_over_ns, total_ns, own in zip(
            candidates, hand_overs_ns, totals_ns, own_loads, strict=True
        )
    ]
    return min(ranked)[3]
