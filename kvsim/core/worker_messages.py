"""Events and commands about workers as a whole: who is there, who goes, and who changes its role.

Part of the vocabulary of ``kvsim.core.messages``, which takes all of it in and is where to import it from. It must not
know what a worker is made of.
"""

from typing import Literal, TypeAlias

from kvsim.core.message_base import Message, SwitchId, WorkerId

DedicatedRole: TypeAlias = Literal["prefill", "decode"]
"""The roles between which a worker can change."""


# --- events ---


class WorkerLost(Message, frozen=True, gc=False):
    """Nothing of this worker exists any more: no KV, no run, no transfer. Reported after every other worker has let go
    of its transfers with it; whatever is reported of those later is ignored."""

    worker: WorkerId


class WorkerJoined(Message, frozen=True, gc=False):
    """This worker of the ``ClusterSpec`` is there, for the first time or again, with an empty pool."""

    worker: WorkerId


class WorkerLeaving(Message, frozen=True, gc=False):
    """This worker is to leave: it gets nothing new and finishes what it has; then ``DismissWorker`` lets it go."""

    worker: WorkerId


class RoleSwitched(Message, frozen=True, gc=False):
    """The worker has taken the role that ``SwitchRole`` gave it: it can be ordered work of it."""

    worker: WorkerId
    switch: SwitchId


# --- commands ---


class DismissWorker(Message, frozen=True, gc=False):
    """This worker was to leave and has nothing left: it may end. It counts as absent until ``WorkerJoined``."""

    worker: WorkerId


class DrainWorker(Message, frozen=True, gc=False):
    """This worker is to change to ``role``, for ``reason``. It gets nothing new of the role that it has; ``SwitchRole``
    comes when it has nothing left, unless ``KeepRole`` comes first. There is nothing to carry out."""

    worker: WorkerId
    role: DedicatedRole
    reason: str


class KeepRole(Message, frozen=True, gc=False):
    """The worker that was to change its role keeps it after all, for ``reason``. There is nothing to carry out."""

    worker: WorkerId
    reason: str


class SwitchRole(Message, frozen=True, gc=False):
    """This worker, which has nothing left, takes ``role`` from now on. It gets work after ``RoleSwitched``."""

    worker: WorkerId
    switch: SwitchId
    role: DedicatedRole
