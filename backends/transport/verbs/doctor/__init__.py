"""``kvsim doctor``: whether this machine can use transport ``verbs``, and what to do where not. ``examine`` does it.

    machine      what cannot be read from files below one root: pyverbs, limits of the process, the CUDA driver
    finding      one thing found out, and all of them
    devices      RDMA devices, their drivers, the right to open them
    ports        ports, GIDs, MTU
    congestion   whether packets were lost, and what of PFC and ECN can be seen
    software     kernel, rdma-core, pyverbs, and whether a device really opens
    memory       limits of locked memory, memory that can be pinned
    gpus         GPUs: whether cards reach their memory, and which card is near
    others       what shared memory and TCP need

All of it works without pyverbs, torch, a GPU or an RDMA device, which is when it is needed most, and reads files below
a root that tests can choose. Nothing here changes anything.
"""

from dataclasses import dataclass

from backends.transport.verbs import sysfs
from backends.transport.verbs.doctor import congestion, devices, gpus, memory, others, ports, software
from backends.transport.verbs.doctor.finding import Finding, Report, Verdict
from backends.transport.verbs.doctor.machine import Machine, this_machine

__all__ = ["Finding", "Machine", "Needs", "Report", "Verdict", "examine", "this_machine"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What is to run here: ``workers`` processes that register ``pool_bytes`` of host memory each, and the RDMA device
    that they are to use (empty: those that the transport would choose)."""

    pool_bytes: int
    workers: int = 1
    device: str = ""


def examine(machine: Machine, needs: Needs) -> Report:
    """Look at everything that transport ``verbs`` needs on this machine."""
    found = sysfs.ports(machine.sys)
    usable = sysfs.usable_ports(found, needs.device)
    taken = gpus.ports_taken(machine, usable)
    named = [port for port in found if needs.device in ("", port.device)]
    opened, opening = software.opening(machine, taken)
    findings = [
        *software.kernel(machine),
        *software.pyverbs(machine),
        *devices.cards_without_driver(machine, found),
        *devices.devices(machine, named, taken),
        *ports.ports(machine, found, named, taken, needs.device),
        *opening,
        *ports.mtu(machine, usable, opened),
        *congestion.congestion(machine, usable),
        *memory.locked_memory(machine, needs.pool_bytes),
        *memory.pinnable_memory(machine, needs.pool_bytes * needs.workers),
        *gpus.gpus(machine, usable),
        *others.shared_memory(machine, needs.pool_bytes * needs.workers),
        *others.tcp(machine),
    ]
    return Report(tuple(findings), tuple(taken))
