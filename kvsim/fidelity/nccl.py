"""NCCL between two GPUs, and all-reduces within a node: every third size, under a fit to the others."""

from pathlib import Path

import numpy as np

from kvsim.fidelity.rows import Row
from kvsim.profile.nccl_import import Group, held_out_errors, read_groups

LIMIT_LARGE = 0.10
LIMIT_SMALL = 0.20

_DISTURBED = (
    "all-reduces: sizes that were disturbed count as points. Below 0.3 MB repetitions of one size lie up to four times "
    "apart (15 and 62 us over two GPUs), which no curve over sizes can follow"
)
_WORDS = {"within_node": "NVLink", "across_nodes": "across nodes"}


def rows(folder: Path) -> list[Row]:
    """Rows of ``a100_nccl`` in the folder with the public measurements; none without it."""
    tables = folder / "a100_nccl"
    if not tables.is_dir():
        return []
    found: list[Row] = []
    for group in read_groups(tables):
        if group.kind == "send_recv" or group.per_node == group.ranks:
            found += _rows(group)
    return found


def _rows(group: Group) -> list[Row]:
    sends = group.kind == "send_recv"
    what = f"A100 send/receive, {_WORDS[group.name]}" if sends else f"A100 all-reduce, {group.ranks} GPUs"
    errors = held_out_errors(group.points)
    found = []
    for size, signed, limit in (
        ("from 64 KiB", errors.large, LIMIT_LARGE),
        ("below 64 KiB", errors.small, LIMIT_SMALL),
    ):
        if not len(signed):
            continue
        bias, shares = float(signed.mean()), np.abs(signed)
        note = "" if sends else _DISTURBED
        found.append(
            Row(what, f"mean, {size}", float(shares.mean()), limit if sends else None, len(shares), bias, note)
        )
        found.append(Row(what, f"worst, {size}", float(shares.max()), None, len(shares)))
    return found
