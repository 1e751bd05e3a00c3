"""Single trace events of a timeline, for processes that are workers.

Format: "Trace Event Format" (Chromium project), event phases B, E, C, M, i, s, t and f; ``ts`` is in µs. It must not
know records.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from kvsim.core.messages import RequestId, WorkerId

TraceEvent: TypeAlias = dict[str, Any]

COMPUTE_TRACK = 1


class TraceEvents:
    """Makes them. Worker w is process ``first_process + w``, the arrow of request r has the id ``first_flow + r``."""

    def __init__(self, first_process: int, first_flow: int) -> None:
        self._first_process = first_process
        self._first_flow = first_flow

    def event(self, now_ns: int, worker: WorkerId, track: int, phase: str, **fields: object) -> TraceEvent:
        """An event of any phase."""
        return {"ph": phase, "ts": now_ns / 1000, "pid": self._first_process + worker, "tid": track, **fields}

    def begin(
        self, now_ns: int, worker: WorkerId, track: int, name: str, category: str, arguments: Mapping[str, object]
    ) -> TraceEvent:
        """A span begins."""
        return self.event(now_ns, worker, track, "B", name=name, cat=category, args=arguments)

    def end(self, now_ns: int, worker: WorkerId, track: int, arguments: Mapping[str, object]) -> TraceEvent:
        """The span that is open on this track ends."""
        return self.event(now_ns, worker, track, "E", args=arguments)

    def moment(self, now_ns: int, worker: WorkerId, name: str) -> TraceEvent:
        """Something that happens to the worker as a whole."""
        return self.event(now_ns, worker, COMPUTE_TRACK, "i", name=name, cat="worker", s="p")

    def flow(self, now_ns: int, worker: WorkerId, track: int, request: RequestId, phase: str) -> TraceEvent:
        """A point of a request's arrow; it binds to the span that is open on this track at this instant."""
        event = self.event(now_ns, worker, track, phase, name="request", cat="request", id=self._first_flow + request)
        return {**event, "bp": "e"} if phase == "f" else event

    def metadata(self, worker: WorkerId, track: int, what: str, **arguments: object) -> TraceEvent:
        """How viewers are to call or to sort a worker or a track."""
        return named(self._first_process + worker, track, what, **arguments)


def named(process: int, track: int, what: str, **arguments: object) -> TraceEvent:
    """How viewers are to call or to sort a process or a track."""
    return {"ph": "M", "pid": process, "tid": track, "name": what, "args": arguments}
