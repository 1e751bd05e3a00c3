"""RDMA devices: whether each card has its driver, what it is, and whether this process may open it.

Sources: Linux Documentation/ABI/stable/sysfs-class-infiniband (fw_ver, hca_type, node_type) and
Documentation/infiniband/user_verbs (uverbs devices); class codes of PCI devices: PCI Code and ID Assignment
Specification, 02h network, 0207h InfiniBand; vendor 15b3 is Mellanox, now NVIDIA (pci-ids.ucw.cz).
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from backends.transport.verbs.doctor.finding import Finding, Verdict
from backends.transport.verbs.doctor.machine import Machine
from backends.transport.verbs.sysfs import Port, entries, read_text

_NETWORK_CLASS, _INFINIBAND_CLASS, _MELLANOX = "0x02", "0x0207", "0x15b3"
_OPEN_RIGHTS = (
    "give this user the rights (rdma-core's udev rules set mode 0666); in a container: --device=/dev/infiniband and, "
    "where a plugin hands out devices, ask for the RDMA resource"
)


def cards_without_driver(machine: Machine, found: list[Port]) -> Iterator[Finding]:
    """Cards on the PCI bus that should be RDMA devices, and are none."""
    have = {port.pci_path[-1] for port in found if port.pci_path}
    for card in entries(machine.sys / "bus" / "pci" / "devices"):
        kind, vendor = read_text(card / "class"), read_text(card / "vendor")
        mellanox = vendor == _MELLANOX and kind.startswith(_NETWORK_CLASS)
        if card.name in have or not (mellanox or kind.startswith(_INFINIBAND_CLASS)):
            continue
        name = f"the card {card.name} ({vendor[2:]}:{read_text(card / 'device')[2:]})"
        driver = _driver(card)
        if driver == "vfio-pci":
            yield Finding("warning", "card", f"{name} is given to a virtual machine (driver vfio-pci)")
        elif driver:
            remedy = "modprobe mlx5_ib (ConnectX-3: mlx4_ib)" if mellanox else "load its RDMA driver"
            remedy += "; in a container 'rdma system' on the host tells whether it shares its devices"
            yield Finding("warning", "card", f"{name} has the driver {driver}, but is no RDMA device here", remedy)
        else:
            remedy = "modprobe mlx5_core mlx5_ib (ConnectX-3: mlx4_core mlx4_ib)" if mellanox else "load its driver"
            yield Finding("warning", "card", f"{name} has no driver", remedy)


def devices(machine: Machine, named: list[Port], taken: list[Port]) -> Iterator[Finding]:
    """What each device is, and whether it can be opened, which must be so for those that are taken."""
    for name in sorted({port.device for port in named}):
        folder = machine.sys / "class" / "infiniband" / name
        driver = _driver(folder / "device") or "of software"
        firmware, kind = read_text(folder / "fw_ver"), read_text(folder / "hca_type")
        facts = [f"driver {driver}"]
        facts += [f"{what} {value}" for what, value in (("firmware", firmware), ("type", kind)) if value]
        connects = any(port.connects for port in named if port.device == name)
        if not connects:
            facts.append(f"node type {read_text(folder / 'node_type')!r}: it has no connected queue pairs")
        yield Finding("ok" if connects else "warning", "device", f"{name}: {', '.join(facts)}")
        if connects:
            yield _access(machine, name, needed=any(port.device == name for port in taken))


def _access(machine: Machine, name: str, *, needed: bool) -> Finding:
    """Whether the device's file is there and opens."""
    worst: Verdict = "missing" if needed else "warning"
    listed = machine.sys / "class" / "infiniband_verbs"
    numbers = [entry.name for entry in listed.glob("uverbs*") if read_text(entry / "ibdev") == name]
    if not numbers:
        text = f"{name} has no uverbs device, through which programs reach it"
        return Finding(worst, "access", text, "modprobe ib_uverbs")
    file = machine.root / "dev" / "infiniband" / min(numbers)
    shown = f"/dev/infiniband/{file.name}"
    try:
        machine.open_file(file)
    except OSError as error:
        if error.errno == errno.ENOENT:
            remedy = "in a container: --device=/dev/infiniband; else: udev, which makes it, must run"
            return Finding(worst, "access", f"{shown} ({name}) is not there", remedy)
        reason = os.strerror(error.errno or 0)
        return Finding(worst, "access", f"{shown} ({name}) cannot be opened: {reason}", _OPEN_RIGHTS)
    return Finding("ok", "access", f"{shown} ({name}) can be opened")


def _driver(device: Path) -> str:
    """The kernel driver that is bound to a device, or an empty text."""
    link = device / "driver"
    return link.resolve().name if link.exists() else ""
