"""What struck a simulated run, as a process of its own in a timeline: one track for each worker, link and so on.

It must not know how faults work, nor the records that the rest of a timeline is made of.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvsim.report.trace_events import TraceEvent, named

_TITLES = {"at_ns", "until_ns", "kind", "worker", "uplink"}  # shown by place and name, not as arguments


def fault_events(variant: str, struck: Sequence[Mapping[str, Any]], process: int) -> Iterator[TraceEvent]:
    """Trace events of the entries ``struck`` of ``faults.json``. Phases M, X (``dur``: how long it lasted) and i."""
    yield named(process, 0, "process_name", name=f"{variant}: faults")
    tracks: dict[str, int] = {}
    for fault in struck:
        lane = fault.get("worker") or fault.get("uplink") or fault["kind"]
        if lane not in tracks:
            tracks[lane] = len(tracks) + 1
            yield named(process, tracks[lane], "thread_name", name=lane)
        event: TraceEvent = {"ph": "i", "s": "t"}
        if "until_ns" in fault:
            event = {"ph": "X", "dur": (fault["until_ns"] - fault["at_ns"]) / 1000}
        arguments = {key: value for key, value in fault.items() if key not in _TITLES}
        place = {"ts": fault["at_ns"] / 1000, "pid": process, "tid": tracks[lane]}
        yield {**event, **place, "name": fault["kind"], "cat": "fault", "args": arguments}
