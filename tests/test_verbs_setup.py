"""What transport verbs finds out before anything moves: devices, ports and GIDs, pyverbs, and limits of memory."""

import ipaddress
import resource
import socket
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import msgspec
import pytest
from fake_machine import ZERO, FakeSysfs, full

from backends.transport.choose import TRANSPORTS, open_transport
from backends.transport.port import TransportError
from backends.transport.verbs import gpu, library, sysfs, wire
from backends.transport.verbs.regions import refusal


@pytest.fixture
def kernel(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


# --- GIDs ------------------------------------------------------------------------------------------------------------


def test_the_gid_is_chosen_by_type_and_address_and_not_by_its_place(kernel: FakeSysfs) -> None:
    kernel.device("mlx5_0")
    kernel.gid("mlx5_0", 0, full("fe80::1"), "IB/RoCE v1", "eth2")
    kernel.gid("mlx5_0", 1, full("fe80::1"), "RoCE v2", "eth2")
    kernel.gid("mlx5_0", 2, full("2001:db8::5"), "RoCE v2", "eth2")
    kernel.gid("mlx5_0", 3, full("::ffff:10.1.2.3"), "IB/RoCE v1", "eth2")
    kernel.gid("mlx5_0", 10, full("::ffff:10.1.2.3"), "RoCE v2", "eth2")
    kernel.gid("mlx5_0", 4, ZERO)
    (port,) = sysfs.ports(kernel.root)
    assert sysfs.gid_of(port) == sysfs.Gid(10, ipaddress.IPv6Address("::ffff:10.1.2.3"), "RoCE v2", "eth2")
    assert [gid.index for gid in port.gids] == [0, 1, 2, 3, 10]  # by number, and without the one that is not in use


@pytest.mark.parametrize(
    ("addresses", "chosen"),
    [(["fe80::1", "2001:db8::5"], 1), (["fe80::1"], 0), (["2001:db8::5", "::ffff:1.2.3.4"], 1)],
)
def test_without_ipv4_a_routable_address_is_preferred(kernel: FakeSysfs, addresses: list[str], chosen: int) -> None:
    kernel.device("mlx5_0")
    for index, address in enumerate(addresses):
        kernel.gid("mlx5_0", index, full(address), "RoCE v2", "eth2")
    gid = sysfs.gid_of(sysfs.ports(kernel.root)[0])
    assert gid is not None
    assert gid.index == chosen


def test_on_infiniband_the_first_gid_counts(kernel: FakeSysfs) -> None:
    kernel.device("mlx5_0", layer="InfiniBand")
    kernel.gid("mlx5_0", 0, full("fe80::ec0d:9a03:78:1"), "IB/RoCE v1", "")
    (port,) = sysfs.usable_ports(sysfs.ports(kernel.root))
    gid = sysfs.gid_of(port)
    assert gid is not None
    assert gid.index == 0


# --- the nearest device ----------------------------------------------------------------------------------------------


def test_the_device_below_the_gpus_own_switch_is_the_nearest(kernel: FakeSysfs) -> None:
    kernel.device("mlx5_0", pci="pci0000:00/0000:00:01.0/0000:01:00.0", node=0)
    kernel.device("mlx5_1", pci="pci0000:3a/0000:3a:00.0/0000:3b:00.0/0000:3c:04.0/0000:3d:00.0", node=1)
    kernel.device("mlx5_2", pci="pci0000:3a/0000:3a:00.0/0000:3b:00.0/0000:3c:08.0/0000:3e:00.0", node=1)
    kernel.device("mlx5_3", pci="pci0000:5d/0000:5d:00.0/0000:5e:00.0", node=1)
    kernel.pci("pci0000:3a/0000:3a:00.0/0000:3b:00.0/0000:3c:08.0/0000:3f:00.0", node=1)  # a GPU
    kernel.pci("pci0000:5d/0000:5d:01.0/0000:60:00.0", node=1)  # a GPU with a root complex of its own
    kernel.pci("pci0000:7f/0000:7f:00.0/0000:80:00.0", node=1)  # a GPU that shares nothing but a socket
    found = sysfs.ports(kernel.root)
    chosen = {
        gpu: sysfs.nearest(found, gpu, kernel.root).device for gpu in ("0000:3F:00.0", "0000:60:00.0", "0000:80:00.0")
    }
    assert chosen == {
        "0000:3F:00.0": "mlx5_2",
        "0000:60:00.0": "mlx5_3",
        "0000:80:00.0": "mlx5_1",
    }
    assert sysfs.nearest(found, "", kernel.root).device == "mlx5_0"


# --- what is missing -------------------------------------------------------------------------------------------------


def test_a_kernel_without_devices_is_told_what_to_load(kernel: FakeSysfs) -> None:
    problem = sysfs.problem(sysfs.ports(kernel.root), root=kernel.root)
    assert "modprobe mlx5_ib" in problem
    assert "rdma link add rxe0" in problem


def test_ports_that_are_down_devices_that_are_not_there_and_missing_gids_are_named(kernel: FakeSysfs) -> None:
    kernel.device("mlx5_0", state="1: DOWN")
    kernel.device("mlx5_1")
    kernel.gid("mlx5_1", 0, full("fe80::1"), "IB/RoCE v1", "eth1")

    def problem(device: str = "") -> str:
        return sysfs.problem(sysfs.ports(kernel.root), device, kernel.root)

    assert "mlx5_0/1 is 1: DOWN" in problem("mlx5_0")
    assert "no RDMA device mlx5_9 (have: mlx5_0, mlx5_1)" in problem("mlx5_9")
    assert "no active port has a RoCE v2 GID" in problem()
    kernel.gid("mlx5_1", 1, full("::ffff:10.0.0.1"), "RoCE v2", "eth1")
    assert problem() == problem("mlx5_1") == ""
    assert [port.device for port in sysfs.usable_ports(sysfs.ports(kernel.root))] == ["mlx5_1"]


def test_without_pyverbs_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pyverbs.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyverbs", None)
    library.load.cache_clear()
    assert "verbs" in TRANSPORTS
    with pytest.raises(TransportError, match="apt install python3-pyverbs"):
        open_transport("verbs", "a")


def test_a_limit_of_locked_memory_that_is_too_low_is_named_with_the_command_that_lifts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 << 20, 8 << 20))
    low = refusal("mlx5_0", 1 << 30, 12)
    assert low.startswith("mlx5_0 cannot register 1 GiB: this process may lock 8 MiB of memory")
    assert "ulimit -l unlimited" in low
    assert refusal("mlx5_0", 1 << 20, 12) == "mlx5_0 cannot register 1 MiB: Cannot allocate memory (errno 12)"
    assert "ulimit" not in refusal("mlx5_0", 1 << 30, 14)  # EFAULT


def test_gpu_memory_is_exported_in_whole_pages() -> None:
    page = gpu.PAGE_BYTES
    assert gpu.surrounding_pages(10 * page + 100, page) == (10 * page, 2 * page)
    assert gpu.surrounding_pages(10 * page, page) == (10 * page, page)


# --- pyverbs of every version ----------------------------------------------------------------------------------------


def fake_constants(monkeypatch: pytest.MonkeyPatch, **modules: dict[str, object]) -> library.Library:
    """A pyverbs that has these modules of constants."""
    monkeypatch.setitem(sys.modules, "pyverbs", ModuleType("pyverbs"))
    for name in ("enums", "libibverbs_enums"):
        module = None
        if name in modules:
            module = ModuleType(f"pyverbs.{name}")
            vars(module).update(modules[name])
        monkeypatch.setitem(sys.modules, f"pyverbs.{name}", module)
    found = SimpleNamespace(constants=library.constant_modules())
    found.constant = lambda name: library.Library.constant(found, name)  # type: ignore[arg-type]
    found.flags = lambda *names: library.Library.flags(found, *names)  # type: ignore[arg-type]
    return found  # type: ignore[return-value]


class QueuePairType(IntEnum):
    IBV_QPT_RC = 2


@pytest.mark.parametrize(
    "modules",
    [
        {"enums": {"IBV_QPT_RC": 2, "A": 1, "B": 4}},
        {"enums": {"A": 1, "B": 4}, "libibverbs_enums": {"IBV_QPT_RC": 2}},
        {"libibverbs_enums": {"ibv_qp_type": QueuePairType, "A": 1, "B": 4}},
    ],
    ids=["44", "50 to 58", "59 on"],
)
def test_constants_are_found_wherever_a_version_keeps_them(
    modules: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fake_constants(monkeypatch, **modules)
    assert (found.constant("IBV_QPT_RC"), found.flags("A", "B")) == (2, 5)
    with pytest.raises(TransportError, match="does not know IBV_NONE"):
        found.constant("IBV_NONE")


def test_a_pyverbs_without_constants_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransportError, match="neither libibverbs_enums nor enums"):
        fake_constants(monkeypatch)


# --- what two ends tell each other -----------------------------------------------------------------------------------

ADDRESS = wire.QueuePairAddress(17, 99, b"\0" * 16, 0, 5, 16)


def sent(message: object) -> socket.socket:
    """A connection on which this has arrived, and then its end."""
    here, there = socket.socketpair()
    content = msgspec.msgpack.encode(message)
    with here:
        here.sendall(len(content).to_bytes(4, "big") + content)
    return there


def test_descriptions_of_queue_pairs_arrive_as_they_were_sent() -> None:
    here, there = socket.socketpair()
    welcome = wire.Welcome(ADDRESS, (wire.RegionKey(1, 2**47, 2**32 - 1),), 3, 64)
    with here, there:
        wire.send(here, wire.Hello(2, ADDRESS))
        wire.send(there, welcome)
        assert wire.receive_hello(there) == wire.Hello(2, ADDRESS)
        assert wire.receive_answer(here) == welcome
        here.shutdown(socket.SHUT_WR)
        assert wire.receive_hello(there) is None


@pytest.mark.parametrize(
    "change",
    [{"number": 2**24}, {"packet": -1}, {"gid": b"\0" * 15}, {"mtu": 6}, {"reads": 0}, {"lid": 2**16}],
)
def test_a_queue_pair_beyond_what_there_can_be_is_refused(change: dict[str, object]) -> None:
    address = msgspec.structs.asdict(ADDRESS) | change
    message = {"type": "Hello", "index": 0, "address": address}
    with sent(message) as connection, pytest.raises(ConnectionRefusedError, match="describes a queue pair wrongly"):
        wire.receive_hello(connection)


def test_a_refusal_tells_its_reason_and_a_half_message_is_an_end() -> None:
    with sent(wire.Refusal("no memory")) as connection, pytest.raises(ConnectionRefusedError, match="no memory"):
        wire.receive_answer(connection)
    here, there = socket.socketpair()
    with here:
        here.sendall(b"\0\0\1\0half")
    with there, pytest.raises(ConnectionResetError, match="middle of a message"):
        wire.receive_hello(there)
    here, there = socket.socketpair()
    with here:
        here.sendall(b"\xff\xff\xff\xff")
    with there, pytest.raises(ConnectionRefusedError, match="in 4294967295 bytes"):
        wire.receive_hello(there)
