"""One opened RDMA device with its port, and the limits that queue pairs must keep to.

pyverbs objects belong to threads that take ``lock``: it keeps books of who uses what that are not made for threads.
They are closed by name, users before what they use; left to the garbage collector they go in any order, which ends the
process. This module must not know peers.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from backends.transport.port import TransportError
from backends.transport.verbs import sysfs
from backends.transport.verbs.library import Library, load


@dataclass(frozen=True, slots=True)
class Limits:
    """What the device allows. ``reads_out`` and ``reads_in``: READs in flight per queue pair as initiator and owner;
    ``windows``: memory windows of type 2, which its provider can bind."""

    work_requests: int
    completions: int
    reads_out: int
    reads_in: int
    message_bytes: int
    windows: bool


_CANNOT = "transport verbs cannot work here ('kvsim doctor' checks all that it needs): "


class Device:
    """An opened device. ``lock`` is held around every call of pyverbs but those of ``native``."""

    def __init__(self, name: str = "", gpu_pci_address: str = "") -> None:
        self.library: Library = load()
        found = sysfs.ports()
        problem = sysfs.problem(found, name)
        if problem:
            raise TransportError(_CANNOT + problem)
        self._port = sysfs.nearest(sysfs.usable_ports(found, name), gpu_pci_address)
        self._gid = sysfs.gid_of(self._port)
        self.lock = threading.RLock()
        try:
            self.context: Any = self.library.context(name=self._port.device)
            self.domain: Any = self.library.pd(self.context)
            self.limits = self._limits()
        except self.library.error as error:
            raise TransportError(
                f"cannot open RDMA device {self._port.device}: {error}; the device files /dev/infiniband/uverbs* must "
                "be there (modprobe ib_uverbs) and writable by this user (in a container: --device=/dev/infiniband)"
            ) from None

    @property
    def name(self) -> str:
        """The device's, as 'rdma link' shows it."""
        return self._port.device

    @property
    def port(self) -> int:
        """Number of the port that is used."""
        return self._port.number

    @property
    def ethernet(self) -> bool:
        """Whether it speaks RoCE."""
        return self._port.layer == "Ethernet"

    def gid(self) -> sysfs.Gid:
        """The GID to connect with, as of now: a network interface that goes down and up may give its addresses other
        places in the table. Raises TransportError if there is none any more."""
        if self._gid is None or not sysfs.still_there(self._gid, self.name, self.port):
            # the whole table is read only then: some have 1024 entries, each a file
            again = [port for port in sysfs.ports() if (port.device, port.number) == (self.name, self.port)]
            self._gid = sysfs.gid_of(again[0]) if again else None
        if self._gid is None:
            raise TransportError(f"port {self.port} of {self.name} has no GID any more: its interface lost its address")
        return self._gid

    def lid_and_mtu(self) -> tuple[int, int]:
        """The port's local identifier (0 on Ethernet) and its MTU as ``enum ibv_mtu``."""
        with self.calling("does not tell of its port"):
            attributes = self.context.query_port(self.port)
            return int(attributes.lid), int(attributes.active_mtu)

    @contextmanager
    def calling(self, problem: str) -> Iterator[None]:
        """Hold the lock around calls of pyverbs; its errors become TransportErrors, "DEVICE ``problem``: ..."."""
        with self.lock:
            try:
                yield
            except self.library.error as error:
                raise TransportError(f"{self.name} {problem}: {error}") from None

    def binding_queue_pair(self, send_cq: Any, receive_cq: Any, capacity: Any) -> Any:
        """pyverbs' RC queue pair that can bind memory windows. Raises pyverbs' error where the provider has no such
        queue pairs (rdma-core's irdma, and bnxt_re before 59), even if the device itself has windows."""
        library = self.library
        wanted = library.qp_init_ex(
            qp_type=library.constant("IBV_QPT_RC"),
            scq=send_cq,
            rcq=receive_cq,
            cap=capacity,
            pd=self.domain,
            comp_mask=library.flags("IBV_QP_INIT_ATTR_PD", "IBV_QP_INIT_ATTR_SEND_OPS_FLAGS"),
            send_ops_flags=library.flags("IBV_QP_EX_WITH_BIND_MW"),
        )
        return library.qp_ex(self.context, wanted)

    def close(self) -> None:
        """Everything that uses it must be closed."""
        with self.lock:
            self.domain.close()
            self.context.close()

    def _limits(self) -> Limits:
        device = self.context.query_device()
        windows = self.library.flags("IBV_DEVICE_MEM_WINDOW_TYPE_2A", "IBV_DEVICE_MEM_WINDOW_TYPE_2B")
        return Limits(
            work_requests=int(device.max_qp_wr),
            completions=int(device.max_cqe),
            reads_out=int(device.max_qp_init_rd_atom),
            reads_in=int(device.max_qp_rd_atom),
            message_bytes=int(self.context.query_port(self.port).max_msg_sz),
            windows=bool(int(device.device_cap_flags) & windows) and self._binds_windows(),
        )

    def _binds_windows(self) -> bool:
        """Whether the provider takes part: what the device says of windows is not enough."""
        library = self.library
        queue = library.cq(self.context, 1)
        try:
            capacity = library.qp_cap(max_send_wr=1, max_recv_wr=1, max_send_sge=1, max_recv_sge=1)
            self.binding_queue_pair(queue, queue, capacity).close()
        except library.error:
            return False
        finally:
            queue.close()
        return True


def missing(device: str = "") -> str:
    """Why transport verbs cannot be used here, and what to do about it; empty if it can."""
    try:
        load()
    except TransportError as error:
        return str(error)
    problem = sysfs.problem(sysfs.ports(), device)
    return _CANNOT + problem if problem else ""
