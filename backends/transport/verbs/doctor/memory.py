"""Host memory that a card is to reach: it must be locked, and then nothing can move it out.

Sources: the limit and who is exempt from it: getrlimit(2), capabilities(7), Linux drivers/infiniband/core/umem.c; what
is free: proc_meminfo(5); limits of control groups: Linux Documentation/admin-guide/cgroup-v2.rst (memory.max) and
cgroup-v1/memory.rst.
"""

from collections.abc import Iterator
from pathlib import Path

from backends.transport.verbs.doctor.finding import Finding
from backends.transport.verbs.doctor.machine import Machine
from backends.transport.verbs.sysfs import read_number, read_text
from kvsim.units import format_bytes

_IPC_LOCK = 1 << 14  # CAP_IPC_LOCK
_LIFT = "'ulimit -l unlimited' (systemd: LimitMEMLOCK=infinity; Slurm: PropagateResourceLimitsExcept=MEMLOCK; Docker: "
_LIFT += "--ulimit memlock=-1; Ray and Kubernetes: the limit of the container runtime)"
_NEVER_V1 = 2**62
"""Version 1 writes "no limit" as a number near 2**63."""


def locked_memory(machine: Machine, pool_bytes: int) -> Iterator[Finding]:
    """Whether one process may lock this much."""
    limit = machine.memlock_bytes
    if limit is None:
        yield Finding("ok", "memlock", "this process may lock any amount of memory")
    elif _exempt(machine):
        text = f"the limit of {format_bytes(limit)} does not bind this process, which has CAP_IPC_LOCK"
        yield Finding("ok", "memlock", text)
    elif limit < pool_bytes:
        text = f"this process may lock {format_bytes(limit)}, a worker's pool takes {format_bytes(pool_bytes)}"
        yield Finding("missing", "memlock", text, _LIFT)
    else:
        text = f"this process may lock {format_bytes(limit)}, enough for {format_bytes(pool_bytes)}"
        yield Finding("ok", "memlock", text, f"for larger pools: {_LIFT}")


def pinnable_memory(machine: Machine, wanted_bytes: int) -> Iterator[Finding]:
    """Whether so much can be pinned at once: pinned pages cannot be swapped, so what is not free now will not be."""
    free = available_memory(machine)
    if not free:
        yield Finding("warning", "memory", "how much memory is free cannot be read from /proc/meminfo")
        return
    group = _group_left(machine)
    left = free if group is None else min(free, group)
    source = "MemAvailable" if left == free else "what is left of the control group's limit"
    text = f"{format_bytes(left)} can be pinned ({source}), pools take {format_bytes(wanted_bytes)}"
    if wanted_bytes > left:
        yield Finding(
            "missing", "memory", text, "smaller pools, fewer workers here, or a higher limit of the container"
        )
    else:
        yield Finding("ok", "memory", text)


def available_memory(machine: Machine) -> int:
    """MemAvailable in bytes, 0 if it is not told."""
    for line in read_text(machine.proc / "meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 0


def _group_left(machine: Machine) -> int | None:
    """What the tightest control group above this process leaves, in bytes; None without a limit."""
    left = [
        max(0, limit - used)
        for folder, names in _groups(machine)
        if (limit := read_number(folder / names[0], -1)) >= 0 and limit < _NEVER_V1
        for used in (read_number(folder / names[1], 0),)
    ]
    return min(left, default=None)


def _groups(machine: Machine) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Each control group that holds this process, up to the root, with its files for limit and use."""
    root = machine.sys / "fs" / "cgroup"
    for line in read_text(machine.proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        below = Path(path.lstrip("/"))
        for folder in (below, *below.parents):
            yield top / folder, names


def _exempt(machine: Machine) -> bool:
    for line in read_text(machine.proc / "self" / "status").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _IPC_LOCK)
    return False
