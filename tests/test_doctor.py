"""``kvsim doctor`` on machines with a ConnectX card, with Soft-RoCE, with nothing, and with one thing wrong."""

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_machine import (
    ETHERNET,
    GIB,
    INFINIBAND,
    MELLANOX,
    MIB,
    FakeMachine,
    answering,
    cuda,
    full,
    write,
)
from typer.testing import CliRunner

import backends.transport.verbs.doctor as doctor_module
from backends.transport.verbs import library
from backends.transport.verbs.doctor import Finding, Machine, Needs, Report, examine, this_machine
from backends.transport.verbs.doctor.gpus import distance
from backends.transport.verbs.doctor.machine import Opened, open_file
from backends.transport.verbs.doctor.ports import roce_mtu
from backends.transport.verbs.sysfs import Port
from kvsim.cli import app

NEEDS = Needs(GIB)
OPENED = Opened(mtu_bytes=4096, reads_out=16, reads_in=16, windows=True)
CARD = answering({"mlx5_0": OPENED})
SOFT = answering({"rxe0": Opened(mtu_bytes=1024, reads_out=128, reads_in=128, windows=True)})


@pytest.fixture
def host(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


def of(report: Report, topic: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.topic == topic]


def the(report: Report, topic: str) -> Finding:
    (finding,) = of(report, topic)
    return finding


# --- three whole machines --------------------------------------------------------------------------------------------


def test_a_machine_with_a_connectx_card_can_use_verbs_and_the_report_names_port_and_gid(host: FakeMachine) -> None:
    host.with_connectx()
    report = examine(host.machine(open_device=CARD), NEEDS)
    assert report.usable
    assert report.verdict() == ("transport verbs can be used here: mlx5_0 port 1, GID 3 10.1.2.3 (RoCE v2, ens1f0)")
    assert [(finding.verdict, finding.text) for finding in report.findings if finding.topic in ("device", "port")] == [
        ("ok", "mlx5_0: driver mlx5_core, firmware 20.31.1014, type MT4123"),
        ("ok", "mlx5_1: driver mlx5_core, firmware 20.31.1014, type MT4123"),
        ("ok", "mlx5_0/1: 4: ACTIVE, Ethernet, 100 Gb/sec (2X HDR) (the transport takes this one)"),
        ("warning", "mlx5_1/1: 1: DOWN, Ethernet, 100 Gb/sec (2X HDR), physically 3: Disabled"),
    ]
    assert the(report, "mtu") == Finding("ok", "mtu", "mlx5_0/1: 4096 bytes, ens1f0 has 9000")
    assert the(report, "losses").verdict == "ok"
    assert "16 READs in flight" in the(report, "open").text
    assert not of(report, "card")  # both are RDMA devices


def test_a_machine_with_soft_roce_can_use_verbs_and_is_told_that_its_packets_are_small(host: FakeMachine) -> None:
    host.with_soft_roce()
    report = examine(host.machine(open_device=SOFT), NEEDS)
    assert report.usable
    assert the(report, "device").text.startswith("rxe0: driver of software")
    assert the(report, "gid").text == "rxe0/1: GID 1 192.168.1.5 (RoCE v2, rxenet) of 2"
    assert the(report, "mtu").text.startswith("rxe0/1: 1024 bytes, rxenet has 1500")
    assert the(report, "mtu").remedy.startswith("ip link set rxenet mtu 9000 (at least 4192)")
    assert not of(report, "flow control")  # that is for cards


def test_a_machine_without_anything_is_told_what_is_missing_and_that_tcp_is_there(host: FakeMachine) -> None:
    problem = "transport verbs needs pyverbs, which is not installed"
    report = examine(host.machine(pyverbs_problem=problem, rdma_core="", dmabuf_regions=False), NEEDS)
    assert not report.usable
    assert report.verdict() == "transport verbs cannot be used here; missing: pyverbs, port"
    assert the(report, "pyverbs") == Finding("missing", "pyverbs", problem, library.RECIPE)
    assert "modprobe mlx5_ib" in the(report, "port").remedy
    assert the(report, "tcp") == Finding(
        "ok", "tcp", "interfaces up: eth0 (10000 Mbit/s); up to 6 MiB in flight per connection"
    )
    assert the(report, "gpu").verdict == "ok"
    assert report.ports == ()


def test_this_machine_is_examined_whatever_it_has() -> None:
    report = examine(this_machine(), NEEDS)
    assert report.usable == (not report.missing)
    assert {finding.topic for finding in report.findings} >= {"versions", "pyverbs", "memlock", "memory", "gpu", "shm"}
    assert bool(of(report, "open")) == ("pyverbs" not in report.missing and bool(report.ports))


# --- one thing wrong -------------------------------------------------------------------------------------------------


def test_a_card_whose_rdma_driver_is_not_loaded_is_named(host: FakeMachine) -> None:
    host.kernel.pci("pci0000:3a/0000:3a:00.0/0000:3b:00.0", 0, ETHERNET, MELLANOX, "mlx5_core")
    host.kernel.pci("pci0000:3a/0000:3a:01.0/0000:3d:00.0", 0, INFINIBAND, "0x1077")
    host.kernel.pci("pci0000:3a/0000:3a:02.0/0000:3e:00.0", 0, ETHERNET, MELLANOX, "vfio-pci")
    host.kernel.pci("pci0000:3a/0000:3a:03.0/0000:3f:00.0", 0, ETHERNET, "0x8086", "e1000e")
    cards = of(examine(host.machine(), NEEDS), "card")
    assert [card.text.partition(") ")[2] for card in cards] == [
        "has the driver mlx5_core, but is no RDMA device here",
        "has no driver",
        "is given to a virtual machine (driver vfio-pci)",
    ]
    assert cards[0].remedy.startswith("modprobe mlx5_ib")


def test_a_device_of_iwarp_cannot_be_used_and_the_reason_is_not_its_gid(host: FakeMachine) -> None:
    host.kernel.device("siw0", node_type="4: RNIC")
    host.kernel.gid("siw0", 0, full("fe80::3"), "IB/RoCE v1", "eth0")
    report = examine(host.machine(), NEEDS)
    assert "it has no connected queue pairs" in the(report, "device").text
    assert the(report, "port").text.endswith("(siw0 is of type '4: RNIC')")
    assert the(report, "port").verdict == "missing"


def no_file(host: FakeMachine) -> None:
    (host.root / "dev" / "infiniband" / "uverbs0").unlink()


def no_right(host: FakeMachine) -> None:
    (host.root / "dev" / "infiniband" / "uverbs0").chmod(0)


def no_uverbs(host: FakeMachine) -> None:
    write(host.kernel.root / "class" / "infiniband_verbs" / "uverbs0" / "ibdev", "other0")


@pytest.mark.parametrize(
    ("spoil", "text", "remedy"),
    [
        (no_file, "/dev/infiniband/uverbs0 (mlx5_0) is not there", "--device=/dev/infiniband"),
        (no_right, "/dev/infiniband/uverbs0 (mlx5_0) cannot be opened: Permission denied", "0666"),
        (no_uverbs, "mlx5_0 has no uverbs device, through which programs reach it", "modprobe ib_uverbs"),
    ],
)
def test_a_device_that_this_user_may_not_open_is_missing(
    host: FakeMachine, spoil: Callable[[FakeMachine], None], text: str, remedy: str
) -> None:
    host.with_connectx()
    spoil(host)
    first, second = of(examine(host.machine(open_device=CARD), NEEDS), "access")
    assert (first.verdict, first.text) == ("missing", text)
    assert remedy in first.remedy
    assert second.verdict == "ok"


def test_only_the_device_that_is_to_be_used_must_be_good(host: FakeMachine) -> None:
    host.with_connectx()
    (host.root / "dev" / "infiniband" / "uverbs1").unlink()
    machine = host.machine(open_device=CARD)
    report = examine(machine, NEEDS)
    assert report.usable
    assert [finding.verdict for finding in of(report, "access")] == ["ok", "warning"]
    other = examine(machine, Needs(GIB, device="mlx5_1"))
    assert other.missing == ("port",)
    assert "mlx5_1/1 is 1: DOWN" in of(other, "port")[-1].text
    assert examine(machine, Needs(GIB, device="mlx5_7")).missing == ("port",)


def test_a_device_that_does_not_open_is_missing_with_its_own_words(host: FakeMachine) -> None:
    host.with_connectx()
    report = examine(host.machine(open_device=answering({"mlx5_0": "cannot open RDMA device mlx5_0: busy"})), NEEDS)
    assert report.missing == ("open",)
    assert the(report, "open").text == "cannot open RDMA device mlx5_0: busy"
    assert the(report, "mtu").text == "mlx5_0/1: 4096 bytes, ens1f0 has 9000"  # from the interface, then


def test_an_interface_in_another_network_namespace_is_missing(host: FakeMachine) -> None:
    host.with_connectx()
    for file in (host.kernel.root / "class" / "net" / "ens1f0").iterdir():
        file.unlink()
    (host.kernel.root / "class" / "net" / "ens1f0").rmdir()
    report = examine(host.machine(open_device=CARD), NEEDS)
    assert report.missing == ("gid",)
    assert "not in this network namespace" in the(report, "gid").text


def test_a_port_with_nothing_but_a_link_local_address_is_warned_of(host: FakeMachine) -> None:
    host.with_soft_roce()
    host.kernel.gid("rxe0", 1, full("::"))
    report = examine(host.machine(open_device=SOFT), NEEDS)
    assert the(report, "gid").verdict == "warning"
    assert the(report, "gid").remedy == "ip addr add A/LEN dev rxenet"


def test_an_infiniband_port_without_a_subnet_manager_is_told_to_get_one(host: FakeMachine) -> None:
    host.kernel.device("mlx5_0", layer="InfiniBand", state="2: INIT")
    host.kernel.port("mlx5_0", "phys_state", "5: LinkUp")
    host.kernel.port("mlx5_0", "lid", "0xffff")
    report = examine(host.machine(), NEEDS)
    assert "start opensm" in of(report, "port")[0].remedy
    assert "LID 0xffff" in of(report, "port")[0].text
    assert report.missing == ("port",)


def test_the_second_port_of_a_device_is_found_where_the_first_is_down(host: FakeMachine) -> None:
    host.kernel.device("mlx4_0", ports=2, state="1: DOWN")
    host.kernel.port("mlx4_0", "state", "4: ACTIVE", number=2)
    host.kernel.gid("mlx4_0", 0, full("::ffff:10.0.0.2"), "RoCE v2", "eth0", number=2)
    host.kernel.uverbs("mlx4_0", 0, host.root / "dev")
    report = examine(host.machine(open_device=answering({"mlx4_0": OPENED})), NEEDS)
    assert [port.number for port in report.ports] == [2]
    assert report.verdict() == "transport verbs can be used here: mlx4_0 port 2, GID 0 10.0.0.2 (RoCE v2, eth0)"


# --- pyverbs ---------------------------------------------------------------------------------------------------------


def test_a_distributions_pyverbs_for_this_python_is_found_and_the_link_is_spelt_out(host: FakeMachine) -> None:
    write(host.root / "usr/lib/python3/dist-packages/pyverbs/device.cpython-311-x86_64-linux-gnu.so", "")
    finding = the(examine(host.machine(pyverbs_problem="none"), NEEDS), "pyverbs")
    assert finding.remedy == (
        "the distribution has it: ln -s /usr/lib/python3/dist-packages/pyverbs /venv/lib/python3.11/site-packages/"
    )


def test_a_distributions_pyverbs_for_another_python_leads_to_that_python(host: FakeMachine) -> None:
    write(host.root / "usr/lib64/python3.12/site-packages/pyverbs/device.cpython-312-x86_64-linux-gnu.so", "")
    finding = the(examine(host.machine(pyverbs_problem="none"), NEEDS), "pyverbs")
    assert finding.remedy.startswith("the distribution has it for cpython-312, and this is cpython-311")
    assert "/usr/bin/python3 -m venv" in finding.remedy


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_limit_of_locked_memory_below_a_pool_is_missing_unless_the_process_is_exempt(host: FakeMachine) -> None:
    def memlock(limit: int | None, capabilities: int) -> tuple[str, str]:
        write(host.root / "proc" / "self" / "status", f"Name:\tkvsim\nCapEff:\t{capabilities:016x}")
        finding = the(examine(host.machine(memlock_bytes=limit), NEEDS), "memlock")
        return finding.verdict, finding.remedy[:20]

    assert memlock(8 * MIB, 0) == ("missing", "'ulimit -l unlimited")
    assert memlock(8 * MIB, 1 << 14) == ("ok", "")  # CAP_IPC_LOCK
    assert memlock(8 * MIB, 1 << 13) == ("missing", "'ulimit -l unlimited")
    assert memlock(GIB, 0) == ("ok", "for larger pools: 'u")
    assert memlock(None, 0) == ("ok", "")


def test_pools_beyond_free_memory_are_refused_and_the_tightest_control_group_counts(host: FakeMachine) -> None:
    machine = host.machine()

    def memory(workers: int) -> tuple[str, str]:
        finding = the(examine(machine, Needs(GIB, workers)), "memory")
        return finding.verdict, finding.text

    assert memory(8) == ("ok", "8 GiB can be pinned (MemAvailable), pools take 8 GiB")
    assert memory(9)[0] == "missing"
    write(host.root / "proc" / "self" / "cgroup", "0::/user/job")
    groups = host.root / "sys" / "fs" / "cgroup"
    write(groups / "user" / "job" / "memory.max", "max")
    write(groups / "user" / "memory.max", str(4 * GIB))
    write(groups / "user" / "memory.current", str(GIB))
    assert memory(3) == ("ok", "3 GiB can be pinned (what is left of the control group's limit), pools take 3 GiB")
    assert memory(4)[0] == "missing"
    write(host.root / "proc" / "self" / "cgroup", "5:cpu:/job\n4:memory:/job")  # version 1
    write(groups / "memory" / "job" / "memory.limit_in_bytes", str(2 * GIB))
    write(groups / "memory" / "job" / "memory.usage_in_bytes", "0")
    write(groups / "memory" / "memory.limit_in_bytes", str(2**63 - 4096))
    assert memory(2)[0] == "ok"
    assert memory(3)[0] == "missing"


def test_a_sandbox_without_memory_files_cannot_use_shm(host: FakeMachine) -> None:
    (host.root / "dev" / "shm").mkdir(parents=True)
    assert "/dev/shm, which Ray uses, has " in the(examine(host.machine(), NEEDS), "shm").text
    assert the(examine(host.machine(memory_files=False), NEEDS), "shm").verdict == "warning"


# --- MTU, losses, flow control ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interface", "roce"),
    [(9000, 4096), (4192, 4096), (4191, 2048), (1500, 1024), (1120, 1024), (1119, 512), (351, 0)],
)
def test_roce_has_the_largest_mtu_that_fits_below_96_bytes_of_headers(interface: int, roce: int) -> None:
    assert roce_mtu(interface) == roce


def test_a_port_that_has_not_taken_its_interfaces_mtu_is_told(host: FakeMachine) -> None:
    host.with_connectx()
    small = Opened(mtu_bytes=1024, reads_out=16, reads_in=16, windows=False)
    report = examine(host.machine(open_device=answering({"mlx5_0": small})), NEEDS)
    assert the(report, "mtu").text == "mlx5_0/1: 1024 bytes, ens1f0 has 9000, which allows 4096"
    assert "opens it to every connected peer" in the(report, "open").text


def test_lost_packets_are_counted_and_what_of_flow_control_cannot_be_seen_is_said(host: FakeMachine) -> None:
    host.with_connectx()
    machine = host.machine(open_device=CARD)
    finding = the(examine(machine, NEEDS), "flow control")
    assert finding.verdict == "warning"
    assert finding.text == "mlx5_0/1; this driver does not show ECN in sysfs; no congestion marks counted"
    assert "dcb pfc show dev ens1f0" in finding.remedy
    host.kernel.port("mlx5_0", "hw_counters/packet_seq_err", "17")
    host.kernel.port("mlx5_0", "hw_counters/np_cnp_sent", "5")
    net = host.kernel.root / "class" / "net" / "ens1f0"
    for priority in range(8):
        write(net / "ecn" / "roce_np" / "enable" / str(priority), str(int(priority == 3)))
    write(net / "qos" / "trust", "dscp")
    report = examine(machine, NEEDS)
    assert the(report, "losses").text == "mlx5_0/1: packet_seq_err 17 since the driver was loaded"
    assert the(report, "losses").verdict == "warning"
    assert the(report, "flow control").text == (
        "mlx5_0/1; ECN roce_np on for priorities 3; ECN roce_rp on for priorities none; priority is taken from dscp; "
        "np_cnp_sent 5"
    )


# --- GPUs ------------------------------------------------------------------------------------------------------------


def test_gpu_memory_is_reached_by_peer_memory_or_by_dmabuf_and_else_every_reason_is_told(host: FakeMachine) -> None:
    host.with_connectx()
    gpu = host.with_gpu()

    def reach(machine: Machine) -> Finding:
        return the(examine(machine, NEEDS), "gpu memory")

    both = reach(host.machine(open_device=CARD, cuda=cuda(gpu, dmabuf=True), cuda_problem=""))
    assert both.verdict == "ok"
    assert both.text.startswith("cards reach it by dmabuf")
    neither = host.machine(open_device=CARD, cuda=cuda(gpu, dmabuf=False), cuda_problem="", dmabuf_regions=False)
    write(host.root / "proc" / "sys" / "kernel" / "osrelease", "5.4.0-150-generic")
    assert reach(neither).verdict == "warning"
    assert reach(neither).remedy == "modprobe nvidia_peermem"
    for reason in ("Linux 5.4.0-150-generic is older than 5.12", "without DmaBufMR", "the CUDA driver exports none"):
        assert reason in reach(neither).text
    (host.kernel.root / "module" / "nvidia_peermem").mkdir(parents=True)
    assert reach(neither).text.startswith("cards reach it by peer memory (nvidia_peermem)")
    assert examine(neither, NEEDS).usable


def test_each_gpu_is_told_its_nearest_card_and_an_iommu_between_them(host: FakeMachine) -> None:
    host.with_connectx()
    near = host.with_gpu()
    far = host.with_gpu("pci0000:80/0000:80:00.0/0000:81:00.0", node=1)
    group = host.kernel.root / "kernel" / "iommu_groups" / "4"
    write(group / "type", "DMA-FQ")
    place = host.kernel.root / "bus" / "pci" / "devices" / far
    (place / "iommu_group").symlink_to(group)
    report = examine(host.machine(open_device=CARD, cuda=cuda(near, far, dmabuf=True), cuda_problem=""), NEEDS)
    assert [(finding.verdict, finding.text) for finding in of(report, "distance")] == [
        ("ok", f"GPU {near}: mlx5_0/1 is the nearest, below the same PCIe root port (PIX or PXB)"),
        ("warning", f"GPU {far}: mlx5_0/1 is the nearest, at another NUMA node, or it is unknown (SYS)"),
    ]
    first, second = of(report, "gpu")
    assert first.text == "2 NVIDIA on the PCI bus, kernel driver 550.90.07, CUDA driver 12.4, 2 GPUs visible to CUDA"
    assert second.remedy.startswith("boot with iommu=pt")


def test_each_gpu_s_own_card_must_be_good_where_there_are_gpus(host: FakeMachine) -> None:
    host.with_connectx()
    host.kernel.port("mlx5_1", "state", "4: ACTIVE")
    host.kernel.gid("mlx5_1", 3, full("::ffff:10.1.3.3"), "RoCE v2", "ens1f1")
    far = "pci0000:80/0000:80:00.0"
    host.kernel.device("mlx5_2", pci=f"{far}/0000:81:00.0", node=1)
    host.kernel.gid("mlx5_2", 3, full("::ffff:10.1.4.3"), "RoCE v2", "ens2f0")
    host.kernel.interface("ens2f0", 9000)
    host.kernel.uverbs("mlx5_2", 2, host.root / "dev")
    near_gpu, far_gpu = host.with_gpu(), host.with_gpu(f"{far}/0000:82:00.0", node=1)
    machine = host.machine(
        open_device=answering({"mlx5_0": OPENED, "mlx5_2": OPENED}),
        cuda=cuda(near_gpu, far_gpu, dmabuf=True),
        cuda_problem="",
    )
    report = examine(machine, NEEDS)
    assert [port.device for port in report.ports] == ["mlx5_0", "mlx5_2"]  # mlx5_1 is as near as mlx5_0, which is first
    assert report.verdict().endswith("(RoCE v2, ens1f0); mlx5_2 port 1, GID 3 10.1.4.3 (RoCE v2, ens2f0)")
    assert len(of(report, "open")) == 2
    (host.root / "dev" / "infiniband" / "uverbs2").unlink()
    (host.root / "dev" / "infiniband" / "uverbs1").unlink()
    worse = examine(machine, NEEDS)
    assert [finding.verdict for finding in of(worse, "access")] == ["ok", "warning", "missing"]
    assert examine(machine, Needs(GIB, device="mlx5_0")).usable


@pytest.mark.parametrize(
    ("gpu", "node", "words", "near"),
    [
        (("pci0000:3a", "0000:3a:00.0", "0000:3c:00.0"), 0, "PIX or PXB", True),
        (("pci0000:3a", "0000:3a:01.0", "0000:3c:00.0"), 0, "PHB", True),
        (("pci0000:5d", "0000:5d:00.0", "0000:5e:00.0"), 0, "NODE", False),
        (("pci0000:5d", "0000:5d:00.0", "0000:5e:00.0"), 1, "SYS", False),
        (("pci0000:5d", "0000:5d:00.0", "0000:5e:00.0"), -1, "SYS", False),
    ],
)
def test_distances_are_those_of_nvidia_smi(gpu: tuple[str, ...], node: int, words: str, near: bool) -> None:
    card = ("pci0000:3a", "0000:3a:00.0", "0000:3b:00.0")
    port = Port("mlx5_0", 1, "Ethernet", True, "4: ACTIVE", (), card, 0, "1: CA")
    found, close = distance(gpu, node, port)
    assert words in found
    assert close is near


# --- the command -----------------------------------------------------------------------------------------------------


def doctor(monkeypatch: pytest.MonkeyPatch, machine: Machine, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(doctor_module, "this_machine", lambda: machine)
    result = CliRunner().invoke(app, ["doctor", *arguments])
    return result.exit_code, result.output


def test_the_command_prints_a_line_a_finding_and_says_by_its_status_whether_verbs_can_be_used(
    host: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, printed = doctor(monkeypatch, host.machine())
    assert status == 1
    assert printed.splitlines()[-1] == "transport verbs cannot be used here; missing: port"
    host.with_connectx()
    machine = host.machine(open_device=CARD)
    status, printed = doctor(monkeypatch, machine)
    assert status == 0
    *lines, verdict = printed.splitlines()
    assert len(lines) == len(examine(machine, NEEDS).findings)
    assert all(line[:9] in ("ok       ", "warning  ", "missing  ") for line in lines)
    assert verdict == "transport verbs can be used here: mlx5_0 port 1, GID 3 10.1.2.3 (RoCE v2, ens1f0)"
    assert doctor(monkeypatch, machine, "--pool", "2 GiB", "--workers", "5")[0] == 1  # 8 GiB are free


def test_the_command_prints_json_for_programs(host: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    host.with_connectx()
    status, printed = doctor(monkeypatch, host.machine(open_device=CARD), "--json")
    document = json.loads(printed)
    assert status == 0
    assert document["usable"] is True
    gid = {"index": 3, "address": "10.1.2.3", "interface": "ens1f0"}
    assert document["ports"] == [{"device": "mlx5_0", "port": 1, "gid": gid}]
    assert document["findings"][0]["topic"] == "versions"
    assert document["missing"] == []


def test_files_of_devices_are_opened_and_not_only_asked_for_rights(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "none")
    write(tmp_path / "one", "")
    open_file(tmp_path / "one")


def test_this_process_tells_its_own_limit_of_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (5 * MIB, 5 * MIB))
    assert this_machine().memlock_bytes == 5 * MIB
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert this_machine().memlock_bytes is None
