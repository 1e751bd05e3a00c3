"""Which role each worker had when, and how long it drained and switched.

A worker has its new role from the order to switch on; until ``RoleSwitched`` it can do nothing in it. What happens at
that very instant is told apart by its kind: blocks are assigned in the new role, all that ends then was of the old one.

It must not know what workers did in their roles.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from kvsim.core.cluster import ClusterSpec, Role
from kvsim.metrics.columns import ROLES, Changes, Flags, Integers, ShortIntegers

DRAINS, STAYS, SWITCHES, SWITCHED, GOES = range(5)
"""What the log of roles notes: DrainWorker, KeepRole, SwitchRole, RoleSwitched; and that the worker was lost, leaves or
may go, which ends whatever it was about to do."""


class RoleColumns(msgspec.Struct, frozen=True):
    """``first`` are the roles at the beginning, as places in ``ROLES``; ``later`` has, for each worker that changed,
    the instants and roles that followed. ``draining`` and ``switching`` are 1 while a worker does that, else 0;
    ``switches`` counts the orders to switch. Arrays have one entry a worker."""

    first: NDArray[np.int8]
    later: dict[int, tuple[Integers, NDArray[np.int8]]]
    draining: Changes
    switching: Changes
    switches: Integers

    def roles(self) -> tuple[Role, ...]:
        """Those that some worker had at some time."""
        present = {int(role) for role in self.first}
        for _, roles in self.later.values():
            present.update(int(role) for role in roles)
        return tuple([role for place, role in enumerate(ROLES) if place in present])

    def has(self, role: Role, worker: ShortIntegers, at_ns: Integers) -> Flags:
        """Whether each of ``worker`` had the role at its instant of ``at_ns``: arrays of the same shape."""
        place = ROLES.index(role)
        if not self.later:
            flags: Flags = (self.first == place).take(worker)
            return flags
        changing: Flags = self.places(worker, at_ns) == place
        return changing

    def places(self, worker: ShortIntegers, at_ns: Integers) -> NDArray[np.int8]:
        """The role that each of ``worker`` had at its instant of ``at_ns``, as place in ``ROLES``."""
        places = self.first[worker]
        for changed, (from_ns, roles) in self.later.items():
            mine = np.flatnonzero(worker == changed)
            known = np.concatenate([self.first[changed : changed + 1], roles])
            places[mine] = known[np.searchsorted(from_ns, at_ns[mine], side="right")]
        return places

    def time_ns(self, role: Role, start_ns: int, end_ns: int) -> Integers:
        """For how long between two instants each worker had the role: shape (workers,)."""
        place = ROLES.index(role)
        time_ns = np.where(self.first == place, end_ns - start_ns, 0).astype(np.int64)
        for changed, (from_ns, roles) in self.later.items():
            edges_ns = np.clip(np.concatenate([[start_ns], from_ns, [end_ns]]), start_ns, end_ns)
            known = np.concatenate([self.first[changed : changed + 1], roles])
            time_ns[changed] = np.diff(edges_ns)[known == place].sum()
        return time_ns


def role_columns(cluster: ClusterSpec, log: Integers, end_ns: int) -> RoleColumns:
    """From the log: worker, at_ns, what (see above), role as place in ``ROLES`` or -1, switch id or -1."""
    later: dict[int, list[tuple[int, int]]] = {}
    drains: dict[int, int] = {}
    switching: dict[int, tuple[int, int]] = {}
    drained: list[tuple[int, int, int]] = []
    switched: list[tuple[int, int, int]] = []
    for worker, at_ns, what, role, switch in log.T.tolist():
        if worker in drains and what != DRAINS:
            drained.append((worker, drains.pop(worker), at_ns))
        if worker in switching and (what == GOES or (what == SWITCHED and switching[worker][0] == switch)):
            switched.append((worker, switching.pop(worker)[1], at_ns))
        if what == DRAINS:
            drains[worker] = at_ns
        elif what == SWITCHES:
            switching[worker] = switch, at_ns
            later.setdefault(worker, []).append((at_ns, role))
    drained += [(worker, since_ns, end_ns) for worker, since_ns in drains.items()]
    switched += [(worker, since_ns, end_ns) for worker, (_, since_ns) in switching.items()]
    return RoleColumns(
        first=np.array([ROLES.index(spec.role) for spec in cluster.workers], dtype=np.int8),
        later={
            worker: (
                np.array([at_ns for at_ns, _ in stints], dtype=np.int64),
                np.array([r for _, r in stints], np.int8),
            )
            for worker, stints in sorted(later.items())
        },
        draining=_during(drained),
        switching=_during(switched),
        switches=np.array([len(later.get(spec.id, ())) for spec in cluster.workers], dtype=np.int64),
    )


def _during(intervals: list[tuple[int, int, int]]) -> Changes:
    """1 from the beginning to the end of each interval of a worker."""
    worker, begin_ns, end_ns = np.array(intervals, dtype=np.int64).reshape(-1, 3).T
    one = np.ones_like(worker)
    return Changes(np.concatenate([worker, worker]), np.concatenate([begin_ns, end_ns]), np.concatenate([one, -one]))
