"""Block tables side by side: where both tables of a transfer run on through consecutive blocks.

Pure arithmetic over ``BlockRuns``. This module must not know tensors, ranks or bytes.
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.core.messages import BlockRuns

Int64s: TypeAlias = NDArray[np.int64]

LOOP_RUNS_MAX: Final = 100
"""Both tables together: up to here a plain loop over the runs is faster than building numpy arrays."""


def count_blocks(blocks: BlockRuns) -> int:
    """How many blocks a table holds."""
    total = 0
    for _, run_blocks in blocks:
        total += run_blocks
    return total


def in_parts(blocks: BlockRuns, parts: int, count: int) -> BlockRuns:
    """The first ``count`` of the parts of these blocks, of which each has so many; part p of block b has the number
    ``b * parts + p``. AssertionError if there are fewer."""
    cut: list[tuple[int, int]] = []
    left = count
    for first, run_blocks in blocks:
        if not left:
            break
        taken = min(left, run_blocks * parts)
        cut.append((first * parts, taken))
        left -= taken
    assert not left, f"{left} of {count} parts are missing in {blocks}"
    return tuple(cut)


def block_ids(blocks: BlockRuns) -> Int64s:
    """Every block id of a table in order, shape ``(blocks,)``."""
    # two lists of numbers: numpy takes several times longer to convert tuples of pairs
    firsts = np.array([first for first, _ in blocks], dtype=np.int64)
    counts = np.array([count for _, count in blocks], dtype=np.int64)
    return spread_runs(firsts, counts)


def spread_runs(firsts: Int64s, counts: Int64s) -> Int64s:
    """``firsts[i], firsts[i] + 1, ..`` (``counts[i]`` of them) for each i, one after the other."""
    begins = np.cumsum(counts) - counts
    return np.repeat(firsts - begins, counts) + np.arange(counts.sum())


def joint_runs(source_blocks: BlockRuns, target_blocks: BlockRuns) -> tuple[tuple[int, int, int], ...]:
    """Maximal runs ``(first source block, first target block, blocks)`` that are consecutive on both sides.

    The two tables pair up in order and hold the same number of blocks, none of them twice. Ascending by source block,
    so neighbours are found even where the tables name them apart.
    """
    _assert_same_length(source_blocks, target_blocks)
    pieces = []
    targets = iter(target_blocks)
    target_first = target_left = 0
    for run_first, run_blocks in source_blocks:
        source_first, source_left = run_first, run_blocks
        while source_left:
            if not target_left:
                target_first, target_left = next(targets)
                continue
            blocks = min(source_left, target_left)
            pieces.append((source_first, target_first, blocks))
            source_first, source_left = source_first + blocks, source_left - blocks
            target_first, target_left = target_first + blocks, target_left - blocks
    pieces.sort()
    joined: list[tuple[int, int, int]] = []
    for source_first, target_first, blocks in pieces:
        if joined:
            last_source, last_target, last_blocks = joined[-1]
            if last_source + last_blocks == source_first and last_target + last_blocks == target_first:
                joined[-1] = (last_source, last_target, last_blocks + blocks)
                continue
        joined.append((source_first, target_first, blocks))
    return tuple(joined)


def count_joint_runs(source_blocks: BlockRuns, target_blocks: BlockRuns) -> int:
    """``len(joint_runs(source_blocks, target_blocks))``, fast for tables of one run and of thousands."""
    if len(source_blocks) == len(target_blocks) == 1:
        _assert_same_length(source_blocks, target_blocks)
        return 1
    if len(source_blocks) + len(target_blocks) <= LOOP_RUNS_MAX:
        return len(joint_runs(source_blocks, target_blocks))
    return len(joint_run_arrays(source_blocks, target_blocks)[0])


def joint_run_arrays(source_blocks: BlockRuns, target_blocks: BlockRuns) -> tuple[Int64s, Int64s, Int64s]:
    """``joint_runs`` as three columns, block by block in numpy."""
    source_ids, target_ids = block_ids(source_blocks), block_ids(target_blocks)
    assert len(source_ids) == len(target_ids), f"{len(source_ids)} source blocks, {len(target_ids)} target blocks"
    order = np.argsort(source_ids)
    source_ids, target_ids = source_ids[order], target_ids[order]
    breaks = (np.diff(source_ids) != 1) | (np.diff(target_ids) != 1)
    starts = np.concatenate(([0], np.flatnonzero(breaks) + 1)) if len(order) else np.zeros(0, dtype=np.int64)
    return source_ids[starts], target_ids[starts], np.diff(starts, append=len(order))


def _assert_same_length(source_blocks: BlockRuns, target_blocks: BlockRuns) -> None:
    source, target = count_blocks(source_blocks), count_blocks(target_blocks)
    assert source == target, f"{source} source blocks, {target} target blocks"
