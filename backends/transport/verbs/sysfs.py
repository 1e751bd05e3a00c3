"""RDMA devices, ports and GIDs as the kernel shows them in /sys, and the choice among them. Pure file reading.

Sources: Linux Documentation/ABI/stable/sysfs-class-infiniband; the PCI tree below /sys/devices. This module must not
know pyverbs, so that it can be tested, and asked what is wrong, without any.
"""

import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys")
_ZERO = ipaddress.IPv6Address(0)
_CHANNEL_ADAPTER = "1"  # RDMA_NODE_IB_CA of enum rdma_node_type


@dataclass(frozen=True, slots=True)
class Gid:
    """An entry of a port's GID table. ``kind`` is the kernel's word ("RoCE v2"); ``interface`` that of the network."""

    index: int
    address: ipaddress.IPv6Address
    kind: str
    interface: str


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a device. ``layer`` is "Ethernet" or "InfiniBand"; ``pci_path`` the device's place in the PCI tree,
    empty for devices of software; ``node_type`` the kernel's word for what the device is ("1: CA")."""

    device: str
    number: int
    layer: str
    active: bool
    state: str
    gids: tuple[Gid, ...]
    pci_path: tuple[str, ...]
    numa_node: int
    node_type: str

    @property
    def connects(self) -> bool:
        """Whether it has the connected queue pairs of InfiniBand and RoCE: channel adapters ("CA") do. iWARP ("RNIC")
        connects through rdma_cm alone, and others, such as EFA, know no such queue pairs."""
        return self.node_type.partition(":")[0] in ("", _CHANNEL_ADAPTER)

    @property
    def name(self) -> str:
        """For readers: "mlx5_0/1"."""
        return f"{self.device}/{self.number}"


def ports(root: Path = SYSFS) -> list[Port]:
    """All ports of all devices, by name and number."""
    return [
        _port(root, device, number)
        for device in entries(root / "class" / "infiniband")
        for number in _numbers(device / "ports")
    ]


def gid_of(port: Port) -> Gid | None:
    """The GID to connect with: RoCE v2 on Ethernet, with an IPv4 address if there is one, else a routable IPv6 one,
    else link-local; the first one on InfiniBand. None if there is none."""
    if port.layer != "Ethernet":
        return port.gids[0] if port.gids else None
    candidates = [gid for gid in port.gids if gid.kind == "RoCE v2"]
    return min(candidates, key=_gid_rank, default=None)


def still_there(gid: Gid, device: str, port: int, root: Path = SYSFS) -> bool:
    """Whether this entry of the table is what it was."""
    return _gid(port_folder(root, device, port), gid.index) == gid


def usable_ports(found: list[Port], device: str = "") -> list[Port]:
    """Those that are up, connect and have a GID, of this device if one is named."""
    return [port for port in found if port.active and port.connects and gid_of(port) and device in ("", port.device)]


def nearest(candidates: list[Port], gpu_pci_address: str, root: Path = SYSFS) -> Port:
    """The port whose device shares the longest way from the root of the PCI tree with the GPU, then the NUMA node; ties
    go to the first. ``gpu_pci_address`` like "0000:3b:00.0"; empty: the first port."""
    assert candidates, "a choice among no ports"
    if not gpu_pci_address:
        return candidates[0]
    gpu = root / "bus" / "pci" / "devices" / gpu_pci_address.lower()
    path, node = pci_path(gpu), read_number(gpu / "numa_node", -1)

    def closeness(port: Port) -> tuple[int, bool]:
        return shared_depth(path, port.pci_path), node >= 0 and node == port.numa_node

    return max(candidates, key=closeness)


def shared_depth(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many steps from the root two paths in the PCI tree go together."""
    shared = 0
    for ours, theirs in zip(one, other, strict=False):
        if ours != theirs:
            break
        shared += 1
    return shared


def pci_path(link: Path) -> tuple[str, ...]:
    """From the root of the PCI tree down: ("pci0000:3a", "0000:3a:00.0", ..)."""
    parts = link.resolve().parts
    start = next((at for at, part in enumerate(parts) if part.startswith("pci") and ":" in part), len(parts))
    return parts[start:]


def port_folder(root: Path, device: str, number: int) -> Path:
    """Where the kernel tells about a port."""
    return root / "class" / "infiniband" / device / "ports" / str(number)


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing if there is no such folder."""
    return sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else []


def read_text(path: Path) -> str:
    """Empty where the kernel has nothing to say: entries of its tables that are not used give an error."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def read_number(path: Path, default: int) -> int:
    """A decimal number, or the default where there is none."""
    text = read_text(path)
    return int(text) if text.lstrip("-").isdigit() else default


def problem(found: list[Port], device: str = "", root: Path = SYSFS) -> str:
    """Why none of the ports can be used, and what to do about it; empty if one can."""
    what, remedy = diagnosis(found, device, root)
    return f"{what}: {remedy}" if what else ""


def diagnosis(found: list[Port], device: str = "", root: Path = SYSFS) -> tuple[str, str]:
    """Why none of the ports can be used, and apart from it what helps; both empty if one can."""
    if usable_ports(found, device):
        return "", ""
    if not (root / "class" / "infiniband").is_dir():
        return (
            "the kernel has no RDMA devices (no /sys/class/infiniband)",
            "load the driver of the card (for ConnectX: modprobe mlx5_ib), or rdma_rxe and 'rdma link add rxe0 type "
            "rxe netdev INTERFACE' for Soft-RoCE",
        )
    named = [port for port in found if device in ("", port.device)]
    if not named:
        have = ", ".join(sorted({port.device for port in found})) or "none"
        return f"there is no RDMA device {device or 'at all'} (have: {have})", "'rdma link' lists them"
    connecting = [port for port in named if port.connects]
    if not connecting:
        kinds = ", ".join(sorted({f"{port.device} is of type {port.node_type!r}" for port in named}))
        return (
            f"no device has the connected queue pairs of InfiniBand and RoCE ({kinds})",
            "iWARP and EFA cannot carry this transport; use tcp, or a card that speaks RoCE v2 or InfiniBand",
        )
    if not any(port.active for port in connecting):
        states = ", ".join(f"{port.name} is {port.state}" for port in connecting)
        return f"no port is active ({states})", "'ip link set INTERFACE up', or check cable and switch"
    return (
        "no active port has a RoCE v2 GID",
        "give its network interface an address ('ip addr add A/LEN dev INTERFACE'), 'rdma link' shows which interface "
        "belongs to which device",
    )


def _numbers(folder: Path) -> list[int]:
    """What lies in a folder whose entries are numbers, in their order."""
    return sorted(map(int, os.listdir(folder))) if folder.is_dir() else []


def _port(root: Path, device: Path, number: int) -> Port:
    folder = port_folder(root, device.name, number)
    state = read_text(folder / "state")
    pci = device / "device"
    return Port(
        device.name,
        number,
        read_text(folder / "link_layer"),
        state.endswith("ACTIVE"),
        state,
        tuple(_gids(folder)),
        pci_path(pci) if pci.exists() else (),
        read_number(pci / "numa_node", -1),
        read_text(device / "node_type"),
    )


def _gids(folder: Path) -> Iterator[Gid]:
    # Soft-RoCE's table has 1024 entries, a file each, of which a few are used: looked for without a Path for each
    table = str(folder / "gids")
    for index in _numbers(folder / "gids"):
        gid = _gid(folder, index) if _says_more_than_zeros(f"{table}/{index}") else None
        if gid is not None:
            yield gid


def _says_more_than_zeros(file: str) -> bool:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return bool(os.read(descriptor, 64).strip(b"0:\n"))
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _gid(folder: Path, index: int) -> Gid | None:
    text = read_text(folder / "gids" / str(index))
    address = ipaddress.IPv6Address(text) if text else _ZERO
    if address == _ZERO:
        return None
    attributes = folder / "gid_attrs"
    kind, interface = read_text(attributes / "types" / str(index)), read_text(attributes / "ndevs" / str(index))
    return Gid(index, address, kind, interface)


def _gid_rank(gid: Gid) -> tuple[int, int]:
    kind = 0 if gid.address.ipv4_mapped else 2 if gid.address.is_link_local else 1
    return kind, gid.index
