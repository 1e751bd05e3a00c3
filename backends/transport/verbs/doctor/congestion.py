"""Whether a port has lost packets, and what of priority flow control and ECN can be seen from here.

Sources: names of counters from Linux drivers/infiniband/hw/mlx5/counters.c, hw/bnxt_re/hw_counters.c and
sw/rxe/rxe_hw_counters.c; ECN in sysfs from NVIDIA's MLNX_OFED documentation, "Explicit Congestion Notification": the
drivers of that package have /sys/class/net/INTERFACE/ecn and /qos, those in the kernel do not. PFC is told by netlink
(dcb(8)) and never by sysfs.
"""

from collections.abc import Iterator
from pathlib import Path

from backends.transport.verbs import sysfs
from backends.transport.verbs.doctor.finding import Finding
from backends.transport.verbs.doctor.machine import Machine
from backends.transport.verbs.sysfs import Port, read_number, read_text

_LOSSES = (
    "packet_seq_err",
    "out_of_sequence",
    "implied_nak_seq_err",
    "local_ack_timeout_err",
    "rx_icrc_encapsulated",
    "out_of_seq_request",
    "rcvd_seq_err",
    "completer_retry_err",
    "max_retry_exceeded",
    "seq_err_naks_rcvd",
    "oos_drop_count",
    "to_retransmits",
    "retry_exceeded_err",
)
"""Each counts packets or answers that did not come when they should have."""

_MARKS = ("np_ecn_marked_roce_packets", "np_cnp_sent", "rp_cnp_handled")
"""Congestion that was told in time: packets marked by a switch, and notifications sent and heeded."""

_PRIORITIES = range(8)


def congestion(machine: Machine, usable: list[Port]) -> Iterator[Finding]:
    """For each port that can be used: lost packets, and flow control where it is a card on Ethernet."""
    for port in usable:
        folder = sysfs.port_folder(machine.sys, port.device, port.number) / "hw_counters"
        yield _losses(port, folder)
        gid = sysfs.gid_of(port)
        if port.pci_path and port.layer == "Ethernet" and gid is not None and gid.interface:
            yield _flow_control(machine, port, gid.interface, folder)


def _losses(port: Port, counters: Path) -> Finding:
    counted = {counter: read_number(counters / counter, -1) for counter in _LOSSES}
    known = {counter: value for counter, value in counted.items() if value >= 0}
    if not known:
        return Finding("ok", "losses", f"{port.name}: its driver counts no lost packets")
    lost = [f"{counter} {value}" for counter, value in known.items() if value]
    if not lost:
        return Finding("ok", "losses", f"{port.name}: none counted by {', '.join(known)}")
    text = f"{port.name}: {', '.join(lost)} since the driver was loaded"
    remedy = (
        "look whether they grow while KV moves; if so, check cable and optics, then flow control"
        if port.pci_path
        else "look whether they grow while KV moves"
    )
    return Finding("warning", "losses", text, remedy)


def _flow_control(machine: Machine, port: Port, interface: str, counters: Path) -> Finding:
    """Always a warning, since half of it cannot be seen: whether switches and both ends agree."""
    net = machine.sys / "class" / "net" / interface
    parts = [port.name]
    if (net / "ecn").is_dir():
        for point in ("roce_np", "roce_rp"):
            on = [str(at) for at in _PRIORITIES if read_number(net / "ecn" / point / "enable" / str(at), 0)]
            parts.append(f"ECN {point} on for priorities {', '.join(on) or 'none'}")
    else:
        parts.append("this driver does not show ECN in sysfs")
    trust = read_text(net / "qos" / "trust")
    if trust:
        parts.append(f"priority is taken from {trust}")
    marked = [f"{name} {read_number(counters / name, 0)}" for name in _MARKS if read_number(counters / name, 0)]
    parts.append(", ".join(marked) if marked else "no congestion marks counted")
    remedy = (
        f"PFC is never in sysfs: 'dcb pfc show dev {interface}' or 'mlnx_qos -i {interface}'; RoCE wants one lossless "
        "priority or ECN, the same on both ends and on every switch between them; this transport sends with traffic "
        "class 0 unless the driver overrides it"
    )
    return Finding("warning", "flow control", "; ".join(parts), remedy)
