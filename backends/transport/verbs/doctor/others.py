"""What the other transports need: shared memory and TCP. They are what is left where verbs cannot be used.

Sources: memfd_create(2); tcp(7) for tcp_rmem and tcp_wmem.
"""

import os
from collections.abc import Iterator

from backends.transport.verbs.doctor.finding import Finding
from backends.transport.verbs.doctor.machine import Machine
from backends.transport.verbs.doctor.memory import available_memory
from backends.transport.verbs.sysfs import entries, read_number, read_text
from kvsim.units import format_bytes


def shared_memory(machine: Machine, wanted_bytes: int) -> Iterator[Finding]:
    """Pools of transport shm lie in memory files, which count as memory and not against the size of /dev/shm."""
    if not machine.memory_files:
        remedy = "the sandbox of this container must allow the system call"
        yield Finding("warning", "shm", "memfd_create is refused, so transport shm cannot be used", remedy)
        return
    free = available_memory(machine)
    text = f"pools in memory files can take {format_bytes(free)}, wanted {format_bytes(wanted_bytes)}"
    folder = machine.root / "dev" / "shm"
    if folder.is_dir():
        space = os.statvfs(folder)
        text += f"; /dev/shm, which Ray uses, has {format_bytes(space.f_bavail * space.f_frsize)} free"
    yield Finding("ok" if free >= wanted_bytes else "warning", "shm", text)


def tcp(machine: Machine) -> Iterator[Finding]:
    """Interfaces that lead out, and the most that one connection has on its way. Drivers without a notion of a carrier
    leave the state "unknown"."""
    up = []
    for interface in entries(machine.sys / "class" / "net"):
        if interface.name != "lo" and read_text(interface / "operstate") in ("up", "unknown"):
            speed = read_number(interface / "speed", -1)
            up.append(interface.name + (f" ({speed} Mbit/s)" if speed > 0 else ""))
    ipv4 = machine.proc / "sys" / "net" / "ipv4"
    window = min(
        int(size) for name in ("tcp_rmem", "tcp_wmem") for size in (read_text(ipv4 / name).split() or ["0"])[-1:]
    )
    buffers = f"; up to {format_bytes(window)} in flight per connection" if window else ""
    if up:
        yield Finding("ok", "tcp", f"interfaces up: {', '.join(up)}{buffers}")
    else:
        text = f"no interface but loopback is up{buffers}; peers must be processes of this machine"
        yield Finding("warning", "tcp", text, "ip link set INTERFACE up")
