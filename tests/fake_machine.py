"""Trees of files laid out as the kernel lays out /sys and /proc: with RDMA cards, with GPUs, with neither."""

import errno
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from backends.transport.port import TransportError
from backends.transport.verbs import gpu
from backends.transport.verbs.doctor import Machine
from backends.transport.verbs.doctor.machine import Opened

ZERO = ":".join(["0000"] * 8)
MIB, GIB = 2**20, 2**30
MELLANOX, NVIDIA = "0x15b3", "0x10de"
ETHERNET, INFINIBAND, DISPLAY = "0x020000", "0x020700", "0x030200"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="ascii")


def full(address: str) -> str:
    """An IPv6 address as the kernel writes GIDs."""
    return ipaddress.IPv6Address(address).exploded


class FakeSysfs:
    """A tree as the kernel lays it out below /sys."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def device(
        self,
        name: str,
        *,
        pci: str = "",
        node: int = 0,
        layer: str = "Ethernet",
        state: str = "4: ACTIVE",
        node_type: str = "1: CA",
        ports: int = 1,
    ) -> None:
        """A device; ``pci`` is its path below /sys/devices."""
        folder = self.root / "class" / "infiniband" / name
        write(folder / "node_type", node_type)
        for number in range(1, ports + 1):
            port = folder / "ports" / str(number)
            write(port / "state", state)
            write(port / "link_layer", layer)
            (port / "gids").mkdir()
        if pci:
            (folder / "device").symlink_to(self.pci(pci, node))

    def pci(self, path: str, node: int = 0, kind: str = "", vendor: str = "", driver: str = "") -> Path:
        """A PCI device, which may be there already."""
        place = self.root / "devices" / path
        write(place / "numa_node", str(node))
        for name, text in (("class", kind), ("vendor", vendor)):
            if text:
                write(place / name, text)
        if driver:
            module = self.root / "bus" / "pci" / "drivers" / driver
            module.mkdir(parents=True, exist_ok=True)
            (place / "driver").symlink_to(module)
        listed = self.root / "bus" / "pci" / "devices" / Path(path).name
        listed.parent.mkdir(parents=True, exist_ok=True)
        if not listed.exists():
            listed.symlink_to(place)
        return place

    def port(self, device: str, name: str, text: str, number: int = 1) -> None:
        """A file of a port, such as its rate or a counter."""
        write(self.root / "class" / "infiniband" / device / "ports" / str(number) / name, text)

    def gid(self, device: str, index: int, address: str, kind: str = "", interface: str = "", number: int = 1) -> None:
        """An entry of the GID table; those without a kind are not in use, and the kernel refuses to read their type."""
        port = self.root / "class" / "infiniband" / device / "ports" / str(number)
        write(port / "gids" / str(index), address)
        if kind:
            write(port / "gid_attrs" / "types" / str(index), kind)
            write(port / "gid_attrs" / "ndevs" / str(index), interface)

    def interface(self, name: str, mtu: int, *, operstate: str = "up", speed: int = -1) -> Path:
        """A network interface."""
        folder = self.root / "class" / "net" / name
        write(folder / "mtu", str(mtu))
        write(folder / "operstate", operstate)
        write(folder / "speed", str(speed))
        return folder

    def uverbs(self, device: str, number: int, dev: Path) -> Path:
        """What programs open to reach a device, in the folder that stands for /dev."""
        write(self.root / "class" / "infiniband_verbs" / f"uverbs{number}" / "ibdev", device)
        write(dev / "infiniband" / f"uverbs{number}", "")
        return dev / "infiniband" / f"uverbs{number}"


def answering(answers: dict[str, Opened | str]) -> Callable[[str], Opened]:
    """Devices that open, or say why not."""

    def open_device(name: str) -> Opened:
        found = answers[name]
        if isinstance(found, str):
            raise TransportError(found)
        return found

    return open_device


def open_file(path: Path) -> None:
    """As the doctor does, but for root too, whom rights do not bind: files without any are refused."""
    if not path.stat().st_mode & 0o777:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    path.read_bytes()


@dataclass(frozen=True)
class FakeMachine:
    """A root with an empty /sys, 16 GiB of memory of which 8 are free, and an interface eth0."""

    root: Path

    @property
    def kernel(self) -> FakeSysfs:
        return FakeSysfs(self.root / "sys")

    def machine(self, **changes: object) -> Machine:
        """What the doctor gets: pyverbs loads, no limit of locked memory, no GPU, no torch."""
        write(self.root / "proc" / "sys" / "kernel" / "osrelease", "6.1.0-30-amd64")
        write(self.root / "proc" / "meminfo", f"MemTotal: {16 * MIB} kB\nMemAvailable:   {8 * MIB} kB")
        for name in ("tcp_rmem", "tcp_wmem"):
            write(self.root / "proc" / "sys" / "net" / "ipv4" / name, "4096\t131072\t6291456")
        self.kernel.interface("eth0", 1500, speed=10_000)
        plain = Machine(
            root=self.root,
            python_tag="cpython-311",
            packages=Path("/venv/lib/python3.11/site-packages"),
            pyverbs_problem="",
            rdma_core="44.0",
            dmabuf_regions=True,
            memlock_bytes=None,
            memory_files=True,
            torch="",
            cuda=None,
            cuda_problem="the CUDA driver cannot be loaded",
            open_device=answering({}),
            open_file=open_file,
        )
        return replace(plain, **changes)  # type: ignore[arg-type]

    def with_connectx(self) -> None:
        """Two cards of one ConnectX-6 with a port each on Ethernet; the second one's cable is not plugged in."""
        kernel = self.kernel
        for number, state, physical in ((0, "4: ACTIVE", "5: LinkUp"), (1, "1: DOWN", "3: Disabled")):
            name, pci = f"mlx5_{number}", f"pci0000:3a/0000:3a:00.0/0000:3b:00.{number}"
            kernel.device(name, pci=pci, node=0, state=state)
            kernel.pci(pci, kind=ETHERNET, vendor=MELLANOX, driver="mlx5_core")
            folder = kernel.root / "class" / "infiniband" / name
            write(folder / "fw_ver", "20.31.1014")
            write(folder / "hca_type", "MT4123")
            kernel.port(name, "phys_state", physical)
            kernel.port(name, "rate", "100 Gb/sec (2X HDR)")
            kernel.port(name, "lid", "0x0")
            kernel.uverbs(name, number, self.root / "dev")
        kernel.gid("mlx5_0", 0, full("fe80::1"), "IB/RoCE v1", "ens1f0")
        kernel.gid("mlx5_0", 1, full("fe80::1"), "RoCE v2", "ens1f0")
        kernel.gid("mlx5_0", 2, full("::ffff:10.1.2.3"), "IB/RoCE v1", "ens1f0")
        kernel.gid("mlx5_0", 3, full("::ffff:10.1.2.3"), "RoCE v2", "ens1f0")
        for counter in ("packet_seq_err", "out_of_sequence", "local_ack_timeout_err", "np_cnp_sent"):
            kernel.port("mlx5_0", f"hw_counters/{counter}", "0")
        kernel.interface("ens1f0", 9000)
        kernel.interface("ens1f1", 1500, operstate="down")

    def with_soft_roce(self, mtu: int = 1500) -> None:
        """rxe0 above the interface eth0."""
        self.kernel.device("rxe0")
        self.kernel.uverbs("rxe0", 0, self.root / "dev")
        self.kernel.port("rxe0", "rate", "2.5 Gb/sec (1X)")
        self.kernel.port("rxe0", "hw_counters/retry_exceeded_err", "0")
        self.kernel.gid("rxe0", 0, full("fe80::2"), "RoCE v2", "rxenet")
        self.kernel.gid("rxe0", 1, full("::ffff:192.168.1.5"), "RoCE v2", "rxenet")
        self.kernel.interface("rxenet", mtu)

    def with_gpu(self, pci: str = "pci0000:3a/0000:3a:00.0/0000:3c:00.0", *, node: int = 0) -> str:
        """A GPU with its kernel driver; its address."""
        self.kernel.pci(pci, node, DISPLAY, NVIDIA, "nvidia")
        write(self.kernel.root / "module" / "nvidia" / "version", "550.90.07")
        return Path(pci).name


def cuda(*addresses: str, dmabuf: bool) -> gpu.Driver:
    """A CUDA driver that shows these GPUs."""
    return gpu.Driver((12, 4), tuple(gpu.CudaGpu(address, dmabuf) for address in addresses))
