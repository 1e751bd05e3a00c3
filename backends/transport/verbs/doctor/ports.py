"""Ports: whether they are up, the GID that the transport would connect with, and the MTU.

Sources: Linux Documentation/ABI/stable/sysfs-class-infiniband (state, phys_state, rate, lid) and
sysfs-class-net (mtu, which exists only in the interface's own network namespace); the MTU of RoCE is what is left of
the interface's after the largest headers, ``iboe_get_mtu`` in Linux include/rdma/ib_addr.h.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from backends.transport.verbs import sysfs
from backends.transport.verbs.doctor.finding import Finding, gid_text
from backends.transport.verbs.doctor.machine import Machine, Opened
from backends.transport.verbs.sysfs import Gid, Port, read_number, read_text

_HEADER_BYTES = 40 + 8 + 12 + 4 + 28 + 4  # GRH (the size of IPv6), UDP, BTH, XRC, atomic, ICRC
_MTUS_BYTES = (4096, 2048, 1024, 512, 256)


def ports(machine: Machine, found: list[Port], named: list[Port], taken: list[Port], device: str) -> Iterator[Finding]:
    """The state of every port of these devices, the GIDs of those that are up, and why none can be used if so."""
    for port in named:
        if not port.connects:
            continue
        yield _state(machine, port, taken=port in taken)
        gid = sysfs.gid_of(port)
        if port.active and gid is not None:
            yield _gid(machine, port, gid, needed=port in taken)
    what, remedy = sysfs.diagnosis(found, device, machine.sys)
    if what:
        yield Finding("missing", "port", what, remedy)


def mtu(machine: Machine, usable: list[Port], opened: Mapping[str, Opened]) -> Iterator[Finding]:
    """The MTU of each port that can be used, against that of its interface. Sysfs has only the latter; the device tells
    its own once it is open, which those that are taken are."""
    for port in usable:
        active = opened[port.device].mtu_bytes if port.device in opened else 0
        gid = sysfs.gid_of(port)
        if port.layer != "Ethernet" or gid is None:
            yield _infiniband_mtu(port, active)
            continue
        interface_bytes = read_number(_interface(machine, gid) / "mtu", 0)
        if interface_bytes:
            yield _ethernet_mtu(port, gid, interface_bytes, active)


def roce_mtu(interface_bytes: int) -> int:
    """The MTU that RoCE has on an interface of this MTU, both in bytes; 0 if not even the smallest fits."""
    return next((size for size in _MTUS_BYTES if interface_bytes - _HEADER_BYTES >= size), 0)


def _state(machine: Machine, port: Port, *, taken: bool) -> Finding:
    folder = sysfs.port_folder(machine.sys, port.device, port.number)
    rate = read_text(folder / "rate") or "unknown rate"
    lid = f", LID {read_text(folder / 'lid')}" if port.layer == "InfiniBand" else ""
    text = f"{port.name}: {port.state or 'state unknown'}, {port.layer or 'link layer unknown'}, {rate}{lid}"
    if not port.active:
        physical = read_text(folder / "phys_state")
        if port.layer == "InfiniBand" and physical.endswith("LinkUp"):
            remedy = "the link is up, but no subnet manager has configured it: start opensm, or the switch's own"
        else:
            remedy = (
                "'ip link set INTERFACE up', else cable and switch" if port.layer == "Ethernet" else "check the cable"
            )
        return Finding("warning", "port", f"{text}, physically {physical or 'unknown'}", remedy)
    return Finding("ok", "port", text + (" (the transport takes this one)" if taken else ""))


def _gid(machine: Machine, port: Port, gid: Gid, *, needed: bool) -> Finding:
    text = f"{port.name}: {gid_text(gid)} of {len(port.gids)}"
    if port.layer != "Ethernet":
        return Finding("ok", "gid", text)
    if gid.interface and not _interface(machine, gid).exists():
        return Finding(
            "missing" if needed else "warning",
            "gid",
            f"{text}: its interface is not in this network namespace, so nothing leaves through it",
            "in a container: the host's network, or a plugin that moves the interface in",
        )
    if gid.address.is_link_local:
        remedy = f"ip addr add A/LEN dev {gid.interface or 'INTERFACE'}"
        return Finding("warning", "gid", f"{text}: link-local, so it reaches one Ethernet segment only", remedy)
    return Finding("ok", "gid", text)


def _ethernet_mtu(port: Port, gid: Gid, interface_bytes: int, active: int) -> Finding:
    allowed = roce_mtu(interface_bytes)
    text = f"{port.name}: {active or allowed} bytes, {gid.interface} has {interface_bytes}"
    if active and active < allowed:
        return Finding(
            "warning", "mtu", f"{text}, which allows {allowed}", f"ip link set {gid.interface} down, then up"
        )
    if allowed < _MTUS_BYTES[0]:
        enough = _MTUS_BYTES[0] + _HEADER_BYTES
        remedy = (
            f"ip link set {gid.interface} mtu 9000 (at least {enough}), at both ends and on the switches between them; "
            "the smaller of the two ends counts"
        )
        return Finding("warning", "mtu", f"{text}: more packets and more work than with {_MTUS_BYTES[0]}", remedy)
    return Finding("ok", "mtu", text)


def _infiniband_mtu(port: Port, active: int) -> Finding:
    if not active:
        return Finding("ok", "mtu", f"{port.name}: not in sysfs; 'ibv_devinfo -d {port.device}' prints active_mtu")
    if active < _MTUS_BYTES[0]:
        remedy = "set it where the subnet manager is configured (opensm: partitions.conf, mtu=5)"
        return Finding("warning", "mtu", f"{port.name}: {active} bytes of {_MTUS_BYTES[0]}", remedy)
    return Finding("ok", "mtu", f"{port.name}: {active} bytes")


def _interface(machine: Machine, gid: Gid) -> Path:
    return machine.sys / "class" / "net" / gid.interface
