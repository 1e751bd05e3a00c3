"""Which worker serves a request: plain functions over integers.

They must not know what a worker is; they see its id and its load.
"""

from collections.abc import Sequence

from kvsim.core.cluster import Placement
from kvsim.core.messages import WorkerId

LOAD_SCALE = 1_000_000


def relative_load(outstanding_tokens: int, capacity_tokens: int) -> int:
    """Outstanding work in millionths of what the worker can hold, so that unequal workers compare."""
    return outstanding_tokens * LOAD_SCALE // capacity_tokens


def choose_worker(policy: Placement, candidates: Sequence[tuple[int, WorkerId]], turn: int) -> WorkerId:
    """Pick one of ``candidates``, given as (load, worker) in order of worker id.

    ``least_loaded``: the smallest load, the lowest id where loads are equal. ``round_robin``: the ``turn``-th in
    rotation.
    """
    assert candidates, "no candidate to place a request on"
    if policy == "round_robin":
        return candidates[turn % len(candidates)][1]
    return min(candidates)[1]
