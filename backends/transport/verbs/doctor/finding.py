"""What the doctor found out: one line each, and the whole report. This module must not know where a finding is from."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from backends.transport.verbs.sysfs import Gid, Port, gid_of

Verdict: TypeAlias = Literal["ok", "warning", "missing"]
"""``missing``: without it the transport cannot be used. ``warning``: it can, but something will be slow, lost or
refused, or cannot be seen from here."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found out. ``remedy`` is what helps, empty where there is nothing to do."""

    verdict: Verdict
    topic: str
    text: str
    remedy: str = ""

    def line(self) -> str:
        """As it is printed."""
        return f"{self.verdict:<8} {self.topic}: {self.text}" + (f" -> {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, slots=True)
class Report:
    """Everything, in the order in which it is worth reading; and the ports that workers here would take, which all have
    a GID to connect with."""

    findings: tuple[Finding, ...]
    ports: tuple[Port, ...]

    @property
    def usable(self) -> bool:
        """Whether the transport can be used."""
        return not self.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """The topics of what is missing, each once."""
        return tuple(dict.fromkeys(finding.topic for finding in self.findings if finding.verdict == "missing"))

    def verdict(self) -> str:
        """The last line."""
        if not self.usable:
            return f"transport verbs cannot be used here; missing: {', '.join(self.missing)}"
        return f"transport verbs can be used here: {'; '.join(self._taken(port) for port in self.ports)}"

    def document(self) -> dict[str, Any]:
        """For programs: JSON values."""
        return {
            "usable": self.usable,
            "missing": list(self.missing),
            "ports": [_port_document(port) for port in self.ports],
            "findings": [asdict(finding) for finding in self.findings],
        }

    def _taken(self, port: Port) -> str:
        return f"{port.device} port {port.number}, {gid_text(_gid_taken(port))}"


def gid_text(gid: Gid) -> str:
    """A GID for readers."""
    about = ", ".join(part for part in (gid.kind, gid.interface) if part)
    return f"GID {gid.index} {_address(gid)}" + (f" ({about})" if about else "")


def _gid_taken(port: Port) -> Gid:
    gid = gid_of(port)
    assert gid is not None, f"{port.name} is taken without a GID"
    return gid


def _address(gid: Gid) -> str:
    """An IPv4 address as one."""
    return str(gid.address.ipv4_mapped or gid.address)


def _port_document(port: Port) -> dict[str, Any]:
    gid = _gid_taken(port)
    shown = {"index": gid.index, "address": _address(gid), "interface": gid.interface}
    return {"device": port.device, "port": port.number, "gid": shown}
