"""The software below the transport: kernel, rdma-core, pyverbs; and whether a device really opens."""

import platform
from collections.abc import Iterator
from pathlib import Path

from backends.transport.port import TransportError
from backends.transport.verbs import library
from backends.transport.verbs.doctor.finding import Finding
from backends.transport.verbs.doctor.machine import Machine, Opened
from backends.transport.verbs.sysfs import Port, read_text


def kernel(machine: Machine) -> Iterator[Finding]:
    """Versions, for whoever reads the report elsewhere."""
    release = read_text(machine.proc / "sys" / "kernel" / "osrelease") or "of unknown version"
    core = f"rdma-core {machine.rdma_core}" if machine.rdma_core else "no libibverbs"
    yield Finding(
        "ok",
        "versions",
        f"Linux {release}, {core}, Python {platform.python_version()}, torch {machine.torch or 'not installed'}",
    )


def pyverbs(machine: Machine) -> Iterator[Finding]:
    """Whether the Python side of rdma-core loads; if not, whether the distribution has it for this Python."""
    if not machine.pyverbs_problem:
        yield Finding("ok", "pyverbs", f"loads, with the libibverbs of rdma-core {machine.rdma_core}")
        return
    remedy = library.RECIPE
    installed = {path.parent: _tag(path) for path in _distribution_pyverbs(machine.root)}
    for folder, tag in installed.items():
        shown = f"/{folder.relative_to(machine.root)}"
        if tag == machine.python_tag:
            remedy = f"the distribution has it: ln -s {shown} {machine.packages}/"
            break
        remedy = (
            f"the distribution has it for {tag}, and this is {machine.python_tag}: make the virtual environment with "
            f"the distribution's Python (/usr/bin/python3 -m venv), and link {shown} into that"
        )
    yield Finding("missing", "pyverbs", machine.pyverbs_problem, remedy)


def opening(machine: Machine, taken: list[Port]) -> tuple[dict[str, Opened], list[Finding]]:
    """Open the devices that workers here would take, where pyverbs loads: what each says, by name, and what is to be
    said about that."""
    opened: dict[str, Opened] = {}
    findings = []
    for name in dict.fromkeys(port.device for port in taken) if not machine.pyverbs_problem else ():
        try:
            opened[name] = machine.open_device(name)
        except TransportError as error:
            findings.append(Finding("missing", "open", str(error)))
        else:
            findings.append(_opened(name, opened[name]))
    return opened, findings


def _opened(name: str, opened: Opened) -> Finding:
    rights = (
        "memory windows of type 2: a peer's keys hold on its own queue pairs only, until it is disconnected"
        if opened.windows
        else "no memory windows of type 2 that its provider can bind: a region's key opens it to every connected peer"
    )
    reads = f"{opened.reads_out} READs in flight per queue pair ({opened.reads_in} as owner)"
    return Finding("ok", "open", f"{name} opens; {reads}; {rights}")


def _distribution_pyverbs(root: Path) -> list[Path]:
    """One extension module of each pyverbs that a package of the distribution has put where it belongs."""
    places = ("lib/python3/dist-packages", "lib/python3*/site-packages", "lib64/python3*/site-packages")
    return [path for place in places for path in sorted((root / "usr").glob(f"{place}/pyverbs/device.*.so"))]


def _tag(module: Path) -> str:
    """ "cpython-311" of device.cpython-311-x86_64-linux-gnu.so."""
    return "-".join(module.name.split(".")[1].split("-")[:2])
