"""GPUs: whether an RDMA card can reach their memory, and which card is near.

Sources: NVIDIA GPUDirect RDMA documentation (nvidia-peermem; PCIe peer-to-peer wants the IOMMU off or in passthrough);
CUDA driver API for dmabuf (CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED); Linux 5.12 for the RDMA side of dmabuf; the terms in
brackets are those of ``nvidia-smi topo -m``. PCI class 03h are display controllers, vendor 10de is NVIDIA.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backends.transport.verbs import sysfs
from backends.transport.verbs.doctor.finding import Finding
from backends.transport.verbs.doctor.machine import Machine
from backends.transport.verbs.sysfs import Port, entries, pci_path, read_number, read_text

_DISPLAY_CLASS, _NVIDIA = "0x03", "0x10de"
_DMABUF_KERNEL = (5, 12)


@dataclass(frozen=True, slots=True)
class _Gpu:
    address: str
    path: tuple[str, ...]
    numa_node: int
    folder: Path


def gpus(machine: Machine, usable: list[Port]) -> Iterator[Finding]:
    """Nothing but a line where there is no GPU: CPU workers need none."""
    found = _nvidia_gpus(machine)
    if not found:
        yield Finding("ok", "gpu", "no NVIDIA GPU on the PCI bus; KV caches lie in host memory")
        return
    yield _driver(machine, found)
    yield _reach(machine)
    for gpu in found:
        yield from _nearest(machine, gpu, usable)
        translated = read_text(gpu.folder / "iommu_group" / "type")
        if translated.startswith("DMA"):
            text = f"{gpu.address}: behind a translating IOMMU (type {translated}), through which cards reach it slowly"
            yield Finding("warning", "gpu", text, "boot with iommu=pt, or off; in a virtual machine: ATS on the host")


def ports_taken(machine: Machine, usable: list[Port]) -> list[Port]:
    """The ports that workers here would take: for each GPU the one nearest to it, without a GPU the first."""
    found = _nvidia_gpus(machine)
    nearest = [sysfs.nearest(usable, gpu.address, machine.sys) for gpu in found] if usable else []
    return [port for port in usable if port in nearest] or usable[:1]


def distance(gpu_path: tuple[str, ...], gpu_node: int, port: Port) -> tuple[str, bool]:
    """How far a card is from a GPU, and whether that is near enough for full speed."""
    shared = sysfs.shared_depth(gpu_path, port.pci_path)
    if shared >= 2:
        return "below the same PCIe root port (PIX or PXB)", True
    if shared == 1:
        return "at the same PCIe host bridge (PHB)", True
    if gpu_node >= 0 and gpu_node == port.numa_node:
        return "at another host bridge of the same NUMA node (NODE)", False
    return "at another NUMA node, or it is unknown (SYS)", False


def _nvidia_gpus(machine: Machine) -> list[_Gpu]:
    return [
        _Gpu(device.name, pci_path(device), read_number(device / "numa_node", -1), device)
        for device in entries(machine.sys / "bus" / "pci" / "devices")
        if read_text(device / "vendor") == _NVIDIA and read_text(device / "class").startswith(_DISPLAY_CLASS)
    ]


def _driver(machine: Machine, found: list[_Gpu]) -> Finding:
    module = read_text(machine.sys / "module" / "nvidia" / "version") or "not loaded"
    text = f"{len(found)} NVIDIA on the PCI bus, kernel driver {module}"
    if machine.cuda is None:
        return Finding("warning", "gpu", f"{text}; {machine.cuda_problem}", "install the driver that fits the GPU")
    major, minor = machine.cuda.version
    return Finding("ok", "gpu", f"{text}, CUDA driver {major}.{minor}, {len(machine.cuda.gpus)} GPUs visible to CUDA")


def _reach(machine: Machine) -> Finding:
    """Peer memory or dmabuf: one of them must be there for KV caches on GPUs."""
    modules = [name for name in ("nvidia_peermem", "nv_peer_mem") if (machine.sys / "module" / name).is_dir()]
    lacks = []
    release = read_text(machine.proc / "sys" / "kernel" / "osrelease")
    if _version(release) < _DMABUF_KERNEL:
        lacks.append(f"Linux {release or 'of unknown version'} is older than 5.12")
    if not machine.dmabuf_regions:
        lacks.append("pyverbs without DmaBufMR" if not machine.pyverbs_problem else "no pyverbs")
    if machine.cuda is None:
        lacks.append("no CUDA driver")
    elif not machine.cuda.gpus or not all(gpu.dmabuf for gpu in machine.cuda.gpus):
        lacks.append("the CUDA driver exports none (that takes the open kernel modules, 515 or later)")
    dmabuf = f"no dmabuf ({'; '.join(lacks)})" if lacks else "dmabuf, where the card's driver takes it (mlx5 does)"
    if modules:
        return Finding("ok", "gpu memory", f"cards reach it by peer memory ({modules[0]}); besides: {dmabuf}")
    if not lacks:
        return Finding("ok", "gpu memory", f"cards reach it by {dmabuf}; no peer memory (nvidia_peermem)")
    text = f"KV caches on GPUs cannot be registered: no peer memory (nvidia_peermem), {dmabuf}"
    return Finding("warning", "gpu memory", text, "modprobe nvidia_peermem")


def _nearest(machine: Machine, gpu: _Gpu, usable: list[Port]) -> Iterator[Finding]:
    cards = [port for port in usable if port.pci_path]
    if not cards:
        return
    port = sysfs.nearest(cards, gpu.address, machine.sys)
    words, near = distance(gpu.path, gpu.numa_node, port)
    text = f"GPU {gpu.address}: {port.name} is the nearest, {words}"
    if near:
        yield Finding("ok", "distance", text)
    else:
        remedy = "place workers on GPUs with a card at their own root, where the machine has any"
        yield Finding("warning", "distance", text, remedy)


def _version(release: str) -> tuple[int, int]:
    numbers = release.split(".")[:2]
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 and all(n.isdigit() for n in numbers) else (0, 0)
