"""Notes everything that is said about roles, for ``kvsim.metrics.roles`` to make sense of later."""

from kvsim.core.messages import (
    DismissWorker,
    DrainWorker,
    KeepRole,
    RoleSwitched,
    SwitchRole,
    WorkerLeaving,
    WorkerLost,
)
from kvsim.metrics.columns import MISSING, ROLES, Integers
from kvsim.metrics.log import Log
from kvsim.metrics.roles import DRAINS, GOES, STAYS, SWITCHED, SWITCHES

RoleMessage = DrainWorker | KeepRole | SwitchRole | RoleSwitched | WorkerLost | WorkerLeaving | DismissWorker
ROLE_MESSAGES = (DrainWorker, KeepRole, SwitchRole, RoleSwitched, WorkerLeaving, DismissWorker)
"""All but ``WorkerLost``, which means more than this."""


class RoleLog:
    """One row a message: worker, at_ns, what, role, switch."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def take(self) -> Integers:
        """The log as an array, which is empty from then on."""
        return self._log.take()

    def note(self, now_ns: int, message: RoleMessage) -> None:
        """A worker begins or ends to change its role, or goes."""
        what, role, switch = GOES, MISSING, MISSING
        if isinstance(message, DrainWorker):
            what, role = DRAINS, ROLES.index(message.role)
        elif isinstance(message, KeepRole):
            what = STAYS
        elif isinstance(message, SwitchRole):
            what, role, switch = SWITCHES, ROLES.index(message.role), message.switch
        elif isinstance(message, RoleSwitched):
            what, switch = SWITCHED, message.switch
        self._log.put((message.worker, now_ns, what, role, switch))
