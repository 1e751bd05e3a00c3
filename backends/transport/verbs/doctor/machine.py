"""What the doctor is told about a machine: a root of the file system, and what no file says.

``this_machine`` collects it: whether pyverbs loads, what this process may lock, what the CUDA driver answers. torch is
not imported, since that takes seconds: its version is read from its own file. This module judges nothing.
"""

import ctypes
import importlib.util
import os
import re
import resource
import runpy
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backends.transport.port import TransportError
from backends.transport.verbs import gpu, library
from backends.transport.verbs.device import Device

_VERSION_IN_NAME = re.compile(r"libibverbs\.so\.\d+\.\d+\.(\d+)\.(\d+)$")  # of rdma-core, since release 16


@dataclass(frozen=True, slots=True)
class Opened:
    """What a device that was opened says: its active MTU, READs in flight per queue pair (as initiator and as owner),
    and whether it has memory windows of type 2."""

    mtu_bytes: int
    reads_out: int
    reads_in: int
    windows: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """``root`` is "/", or a tree that is laid out like it. ``python_tag`` names this Python in the file names of
    extension modules ("cpython-311"), ``packages`` is where it has its packages. ``pyverbs_problem`` is empty where
    pyverbs loads; ``rdma_core`` the version of the libibverbs that was loaded, empty where none is; ``memlock_bytes``
    is None where there is no limit; ``torch`` is "VERSION, CUDA VERSION", empty without torch; ``cuda_problem`` is
    empty where ``cuda`` is what its driver said. ``open_device`` raises TransportError, ``open_file`` OSError."""

    root: Path
    python_tag: str
    packages: Path
    pyverbs_problem: str
    rdma_core: str
    dmabuf_regions: bool
    memlock_bytes: int | None
    memory_files: bool
    torch: str
    cuda: gpu.Driver | None
    cuda_problem: str
    open_device: Callable[[str], Opened]
    open_file: Callable[[Path], None]

    @property
    def sys(self) -> Path:
        """Where sysfs is."""
        return self.root / "sys"

    @property
    def proc(self) -> Path:
        """Where procfs is."""
        return self.root / "proc"


def this_machine() -> Machine:
    """The machine and the process that this runs in."""
    problem, dmabuf_regions = "", False
    try:
        dmabuf_regions = library.load().dmabuf_mr is not None
    except TransportError as error:
        problem = str(error).removesuffix(f": {library.RECIPE}")
    cuda, cuda_problem = None, ""
    try:
        cuda = gpu.driver()
    except TransportError as error:
        cuda_problem = str(error)
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return Machine(
        root=Path("/"),
        python_tag=str(sys.implementation.cache_tag),
        packages=Path(sysconfig.get_path("platlib")),
        pyverbs_problem=problem,
        rdma_core=_rdma_core(),
        dmabuf_regions=dmabuf_regions,
        memlock_bytes=None if soft == resource.RLIM_INFINITY else soft,
        memory_files=_has_memory_files(),
        torch=_torch(),
        cuda=cuda,
        cuda_problem=cuda_problem,
        open_device=open_device,
        open_file=open_file,
    )


def open_device(name: str) -> Opened:
    """Open a device as the transport does, ask it, close it. Raises TransportError."""
    device = Device(name)
    try:
        _, mtu = device.lid_and_mtu()
        limits = device.limits
        return Opened(128 << mtu, limits.reads_out, limits.reads_in, limits.windows)  # enum ibv_mtu: 1 is 256 bytes
    finally:
        device.close()


def open_file(path: Path) -> None:
    """Whether this process may: asking for rights alone misses the device rules of a container. Raises OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))


def _rdma_core() -> str:
    """From the file name of the library that the process has loaded."""
    try:
        ctypes.CDLL("libibverbs.so.1")
    except OSError:
        return ""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        found = _VERSION_IN_NAME.search(os.path.realpath(line.split(maxsplit=5)[-1]))
        if found:
            return f"{found[1]}.{found[2]}"
    return "of unknown version"


def _has_memory_files() -> bool:
    try:
        os.close(os.memfd_create("kvsim-doctor", os.MFD_CLOEXEC))
    except OSError:
        return False
    return True


def _torch() -> str:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    said = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return f"{said['__version__']}, CUDA {said['cuda'] or 'none'}"
