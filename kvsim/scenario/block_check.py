"""Lengths of KV blocks against each other: where KV moves, a block is to be a whole number of the other side's blocks.

It must not know YAML.
"""

from itertools import combinations

from kvsim.scenario.problems import Report
from kvsim.scenario.roles_schema import FixedRoles
from kvsim.scenario.schema import Document


def check_blocks(document: Document, report: Report) -> None:
    """One problem for each pool whose blocks do not go with those of an earlier one between which KV may move."""
    if document.transfer.mode == "colocated":
        return
    fixed = isinstance(document.scheduling.roles, FixedRoles)
    pools = [(name, pool) for name, pool in document.workers.items() if pool.count]
    named: set[str] = set()
    for (name, pool), (other, its) in combinations(pools, 2):
        mine, theirs = (one.block_tokens_of(document.cache) for one in (pool, its))
        if other in named or (fixed and pool.role == its.role) or max(mine, theirs) % min(mine, theirs) == 0:
            continue
        named.add(other)
        report.add(
            ["workers", other, "block_tokens"],
            f"found {theirs} beside {mine} of {pool.role} pool {name}, expected one to be a multiple of the other",
        )
