"""What a worker does about its role, as spans of a track of its own in a timeline: it drains, then it switches.

It must not know trace events.
"""

from typing import Any, NamedTuple

from kvsim.core.messages import (
    DismissWorker,
    DrainWorker,
    KeepRole,
    RoleSwitched,
    SwitchId,
    SwitchRole,
    WorkerId,
    WorkerLeaving,
    WorkerLost,
)

RoleMessage = DrainWorker | KeepRole | SwitchRole | RoleSwitched | WorkerLost | WorkerLeaving | DismissWorker


class RoleChange(NamedTuple):
    """What a message means for the track: the open span ends, or a span of this name begins, or both, or neither."""

    ends: bool
    begins: str | None
    arguments: dict[str, Any]


class RoleSpans:
    """At most one span of each worker is open: the drain, or the switch with its id."""

    def __init__(self) -> None:
        self._open: dict[WorkerId, SwitchId | None] = {}

    def note(self, message: RoleMessage) -> RoleChange:
        """Take in what is said of a worker; a late report of another switch changes nothing."""
        worker = message.worker
        match message:
            case DrainWorker(role=role, reason=reason):
                ends = worker in self._open
                self._open[worker] = None
                return RoleChange(ends, f"drains for {role}", {"reason": reason})
            case SwitchRole(switch=switch, role=role):
                ends = worker in self._open
                self._open[worker] = switch
                return RoleChange(ends, f"switches to {role}", {"switch": switch})
            case RoleSwitched(switch=switch) if self._open.get(worker) != switch:
                return RoleChange(ends=False, begins=None, arguments={})
            case KeepRole(reason=reason):
                return RoleChange(self._close(worker), None, {"kept": reason})
            case _:
                return RoleChange(self._close(worker), None, {})

    def open(self) -> list[WorkerId]:
        """The workers with an open span."""
        return list(self._open)

    def _close(self, worker: WorkerId) -> bool:
        known = worker in self._open
        self._open.pop(worker, None)
        return known
