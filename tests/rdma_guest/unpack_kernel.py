#!/usr/bin/env python3
"""Turns a Debian kernel package into the two files that QEMU boots.

usage: unpack_kernel.py UNPACKED_LINUX_IMAGE GUEST_INIT OUTDIR

OUTDIR/vmlinux     the uncompressed kernel.  QEMU starts it directly through its
                   PVH entry; under TCG this saves the ~9 s that the guest would
                   spend unpacking its own bzImage.
OUTDIR/initramfs   an uncompressed cpio with busybox, GUEST_INIT and the modules
                   that the guest loads, numbered in load order.

Standard library only; needs /bin/busybox (busybox-static).
"""

import lzma
import stat
import struct
import subprocess
import sys
from pathlib import Path

# Loaded by the first stage, to reach the host's files and its console.
BOOT = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"]
# Loaded afterwards.  crc32_generic, not crc32_pclmul: rxe checksums every
# packet, and TCG emulates PCLMULQDQ bit by bit.
RDMA = ["crc32_generic", "rdma_rxe", "rdma_ucm", "virtio_net", "dummy", "veth"]


def uncompressed_kernel(bzimage: bytes) -> bytes:
    """The ELF kernel inside a bzImage (Documentation/arch/x86/boot.rst)."""
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if payload.startswith(b"\xfd7zXZ\0"):  # Debian's 6.1
        elf = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):  # Debian's 6.12; the last 4 bytes are the size
        elf = subprocess.run(["zstd", "-dcq"], input=payload[:-4], stdout=subprocess.PIPE, check=True).stdout
    else:
        raise SystemExit(f"unknown kernel compression: {payload[:6].hex()}")
    assert elf.startswith(b"\x7fELF")
    return elf


class Modules:
    """The package's kernel modules, by name, with their dependencies."""

    def __init__(self, root: Path):
        self.paths = {}
        for path in root.rglob("*.ko*"):
            name = path.name.split(".")[0].replace("-", "_")
            self.paths[name] = path
        self.data: dict[str, bytes] = {}

    def load(self, name: str) -> bytes:
        if name not in self.data:
            raw = self.paths[name].read_bytes()
            self.data[name] = lzma.decompress(raw) if self.paths[name].suffix == ".xz" else raw
        return self.data[name]

    def depends(self, name: str) -> list[str]:
        for field in self.load(name).split(b"\0"):
            if field.startswith(b"depends="):
                return [d.replace("-", "_") for d in field[8:].decode().split(",") if d]
        return []

    def order(self, wanted: list[str], loaded: list[str]) -> list[str]:
        """Appends to `loaded` all that `wanted` needs; returns what is new."""
        before = len(loaded)

        def visit(name: str) -> None:
            if name in loaded:
                return
            if name not in self.paths:  # built into this kernel
                return
            for dependency in self.depends(name):
                visit(dependency)
            loaded.append(name)

        for name in wanted:
            visit(name)
        return loaded[before:]


def cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """A 'newc' archive of (path, mode, content)."""
    out = bytearray()
    for inode, (path, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % f for f in fields) + name
        out += b"\0" * (-len(out) % 4)
        out += content
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def main() -> None:
    package, init, outdir = map(Path, sys.argv[1:4])
    kernel = next((package / "boot").glob("vmlinuz-*"))
    (outdir / "vmlinux").write_bytes(uncompressed_kernel(kernel.read_bytes()))

    modules = Modules(package)
    if "rdma_rxe" not in modules.paths:
        raise SystemExit(f"{kernel.name} has no rdma_rxe module")
    directory, executable = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    entries = [(d, directory, b"") for d in ("bin", "proc", "sys", "dev", "modules")]
    entries.append(("init", executable, init.read_bytes()))
    entries.append(("bin/busybox", executable, Path("/bin/busybox").read_bytes()))
    loaded: list[str] = []
    for phase, wanted in (("boot", BOOT), ("rdma", RDMA)):
        entries.append((f"modules/{phase}", directory, b""))
        for number, name in enumerate(modules.order(wanted, loaded)):
            entries.append((f"modules/{phase}/{number:02}-{name}.ko", executable, modules.load(name)))
    (outdir / "initramfs").write_bytes(cpio(entries))


main()
