"""Planned faults and those that struck as plain values, for the file ``faults.json`` of a run folder.

Instants are integer ns from the start of the run, workers are named, what does not apply is left out. It must not write
files.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from kvsim.sim.faults.plan import Fault, FaultPlan


def fault_document(
    plan: FaultPlan, struck: Iterable[Fault], workers: Sequence[str], answers: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """``planned``: what was to happen. ``chances``: what could happen to any transfer. ``struck``: what did, to whom
    and until when. ``answered``: what the scheduler did about it. ``workers`` are names by id."""
    return {
        "detection": asdict(plan.detection),
        "planned": [_entry(fault, workers) for fault in plan.timed],
        "chances": [{"entry": chance.entry, **asdict(chance.spec)} for chance in plan.chances],
        "struck": [_entry(fault, workers) for fault in struck],
        "answered": [dict(answer) for answer in answers],
    }


def struck_by_kind(struck: Iterable[Fault]) -> dict[str, int]:
    """How often each kind struck, by name."""
    return dict(sorted(Counter(fault.kind for fault in struck).items()))


def _entry(fault: Fault, workers: Sequence[str]) -> dict[str, Any]:
    entry: dict[str, Any] = msgspec.to_builtins(fault)
    if fault.worker is not None:
        entry["worker"] = workers[fault.worker]
    return entry
