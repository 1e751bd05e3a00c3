"""What can go wrong on real queue pairs, and what comes of it. Needs a device: ``rdma_guest/run_suite.sh`` has one."""

import gc
import ipaddress
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transport_world import PAIR_BYTES, RDMA, End, ends, flat_tensor, join, make_end, pair, ranges_between

from backends.transport.port import Peer, PeerLost, Region
from backends.transport.verbs import wire
from backends.transport.verbs.device import Device, Limits
from backends.transport.verbs.library import load
from backends.transport.verbs.mover import Mover
from backends.transport.verbs.sysfs import Gid
from backends.transport.verbs.transport import VerbsTransport

pytestmark = list(RDMA)


def verbs(end: End) -> VerbsTransport:
    assert isinstance(end.transport, VerbsTransport)
    return end.transport


def mover(end: End, peer: str) -> Mover:
    carrier = verbs(end)._links[peer]._carrier
    assert isinstance(carrier, Mover)
    return carrier


def take_keys_back(owner: End, region: Region) -> None:
    """As if the region had been registered anew under a reader who has not heard of it."""
    for each in verbs(owner)._all_owners():
        each.withdraw(region.number)


# --- refused ---------------------------------------------------------------------------------------------------------


def test_a_read_with_a_stale_key_fails_alone_and_the_next_one_has_a_new_key() -> None:
    with pair("verbs") as (a, b, peers):
        if not verbs(b).device.limits.windows:
            pytest.skip("the device has no memory windows, so keys are not taken back without their region")
        ranges = ranges_between(b.region, a.region, [0], [0], [PAIR_BYTES])
        take_keys_back(b, b.region)
        failed = a.outcome(a.transport.read(peers[0], ranges))
        assert failed.outcome == "failed"
        assert "remote access error" in failed.reason
        assert not any(isinstance(event, PeerLost) for event in a.events + b.events)
        # each queue pair learns its new key when it has failed once, so a few more may fail
        outcomes = [a.outcome(a.transport.read(peers[0], ranges)).outcome for _ in range(4)]
        assert outcomes[-1] == "done"
        assert np.array_equal(a.pool, b.pool)


def test_transfers_that_share_a_queue_pair_with_a_refused_one_arrive_all_the_same() -> None:
    size_bytes = 16 << 20
    with ends(make_end("verbs", "a", size_bytes), make_end("verbs", "b", size_bytes, seed=7)) as (a, b):
        second = b.transport.register(b.transport.allocate(4096), flat_tensor(4, 1024))
        peers = join(a, b)
        take_keys_back(b, second)
        good = ranges_between(b.region, a.region, [0], [0], [size_bytes])
        bad = ranges_between(second, a.region, [0], [size_bytes - 4096], [4096])
        handles = [a.transport.read(peers[0], ranges) for ranges in (good, bad, good)]
        assert [a.outcome(handle).outcome for handle in handles] == ["done", "failed", "done"]
        assert np.array_equal(a.pool, b.pool)


def test_the_key_of_one_peer_opens_nothing_for_another() -> None:
    with ends(make_end("verbs", "a"), make_end("verbs", "b", seed=7), make_end("verbs", "c")) as (a, b, c):
        if not verbs(b).device.limits.windows:
            pytest.skip("the device has no memory windows: its keys hold for every connected peer, as documented")
        join(a, b)
        peer = join(c, b)[0]
        stolen = [keys.copy() for keys in mover(a, "b")._initiator._keys]
        mover(c, "b")._initiator._keys[:] = stolen
        done = c.outcome(c.transport.read(peer, ranges_between(b.region, c.region, [0], [0], [4096])))
        assert done.outcome == "failed"
        assert "remote access error" in done.reason
        assert not c.pool.any()


def test_a_device_without_memory_windows_gives_the_regions_own_keys_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def limits(device: Device) -> Limits:
        return replace(with_windows(device), windows=False)

    with_windows = Device._limits
    monkeypatch.setattr(Device, "_limits", limits)
    with pair("verbs") as (a, b, peers):
        assert a.transport.capabilities.key_scope == "region"
        ranges = ranges_between(b.region, a.region, [0], [0], [PAIR_BYTES])
        assert a.outcome(a.transport.read(peers[0], ranges)).outcome == "done"
        assert np.array_equal(a.pool, b.pool)
        b.transport.unregister(b.region)
        assert a.outcome(a.transport.read(peers[0], ranges)).outcome == "failed"
    monkeypatch.undo()
    with ends(make_end("verbs", "a")) as (a,):
        assert a.transport.capabilities.key_scope == ("peer" if verbs(a).device.limits.windows else "region")


def test_windows_that_the_provider_cannot_bind_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    library = load()

    def refuse(*_: object) -> None:
        raise library.error("no extended queue pairs here")

    monkeypatch.setattr("backends.transport.verbs.device.load", lambda: replace(library, qp_ex=refuse))
    with pair("verbs") as (a, b, peers):
        assert a.transport.capabilities.key_scope == "region"
        ranges = ranges_between(b.region, a.region, [0], [0], [PAIR_BYTES])
        assert a.outcome(a.transport.read(peers[0], ranges)).outcome == "done"
        assert np.array_equal(a.pool, b.pool)


@pytest.mark.parametrize("windows", [True, False])
def test_the_card_refuses_what_a_region_was_not_registered_for(windows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Device._limits
    with ends(make_end("verbs", "probe")) as (probe,):
        if windows and not verbs(probe).device.limits.windows:
            pytest.skip("the device has no memory windows")
    monkeypatch.setattr(Device, "_limits", lambda device: replace(known(device), windows=windows))
    with ends(make_end("verbs", "a", seed=3), make_end("verbs", "b")) as (a, b):
        bounded = b.transport.register(b.transport.allocate(4096), flat_tensor(4, 1024), peers_may="read")
        peer = join(a, b)[0]
        refused = a.outcome(a.transport.write(peer, ranges_between(a.region, bounded, [0], [0], [4096])))
        assert refused.outcome == "failed"
        assert "remote access error" in refused.reason
        assert a.outcome(a.transport.read(peer, ranges_between(bounded, a.region, [0], [0], [4096]))).outcome == "done"
        assert not a.pool[:4096].any()


# --- peers that do not answer, or lie --------------------------------------------------------------------------------


def test_a_peer_whose_card_does_not_answer_is_lost_within_the_deadline() -> None:
    with pair("verbs") as (a, b, peers):
        for owner in verbs(b)._all_owners():
            owner.close()  # its connections stay
        began_s = time.monotonic()
        failed = a.outcome(a.transport.read(peers[0], ranges_between(b.region, a.region, [0], [0], [4096])))
        assert failed.outcome == "failed"
        assert "does not answer: transport retry counter exceeded" in a.await_lost("b").reason
        assert time.monotonic() - began_s < 60


def test_a_gid_that_cannot_be_reached_is_found_when_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Gid(1, ipaddress.IPv6Address("::ffff:203.0.113.9"), "RoCE v2", "nowhere")
    with ends(make_end("verbs", "a"), make_end("verbs", "b")) as (a, b):
        monkeypatch.setattr(verbs(b).device, "gid", lambda: nowhere)
        a.transport.connect(b.transport.describe("a"))
        b.transport.connect(a.transport.describe("b"))
        lost = a.await_lost("b")
        assert lost.reason.startswith("it cannot be reached: "), lost
        # drivers that look for the way when they connect say the first, others find out by trying
        assert "no way from" in lost.reason or "its card does not answer ours" in lost.reason


def forge(a: End, transfer: int, receipt_bytes: int, announced_bytes: int, owner_end: int | None = None) -> None:
    """Let a announce a transfer to b, whose receipt may say something else."""
    carrier = mover(a, "b")
    carrier._receipts.append((transfer, receipt_bytes))
    carrier._waker.set()
    end = carrier._initiator.owner_end if owner_end is None else owner_end
    verbs(a)._links["b"].send(wire.COMPLETE, wire.ANNOUNCEMENT.pack(end, transfer, announced_bytes))


def test_a_transfer_that_is_announced_with_other_bytes_than_its_receipt_ends_the_connection() -> None:
    with pair("verbs") as (a, _, _):
        forge(a, 1, 4096, 4096)
        forge(a, 2, 4096, 8192)
        a.await_lost("b")


def test_a_transfer_is_announced_once_and_for_the_announcers_own_queue_pairs() -> None:
    with pair("verbs") as (a, _, _):
        forge(a, 5, 10, 10)
        forge(a, 5, 10, 10)
        a.await_lost("b")
    with pair("verbs") as (a, _, _):
        forge(a, 1, 10, 10, owner_end=10**9)
        a.await_lost("b")


def test_an_owner_hangs_up_on_a_queue_pair_that_cannot_be_and_lives_on() -> None:
    with pair("verbs") as (a, b, peers):
        connection = verbs(a)._links["b"].connect(wire.QUEUES)
        connection.settimeout(30)
        address = wire.QueuePairAddress(1, 1, b"\0" * 16, 0, 5, 16)
        wire.send(connection, wire.Hello(99, address))
        with pytest.raises(ConnectionResetError):
            wire.receive_answer(connection)
        ranges = ranges_between(b.region, a.region, [0], [0], [PAIR_BYTES])
        assert a.outcome(a.transport.read(peers[0], ranges)).outcome == "done"


# --- this end's own limits -------------------------------------------------------------------------------------------

REGISTER_WITHOUT_RIGHTS = """
import os, resource, sys
from transport_world import flat_tensor
from backends.transport.port import TransportError
from backends.transport.verbs.transport import VerbsTransport
transport = VerbsTransport("a")
small, large = (transport.allocate(size) for size in (1 << 16, 64 << 20))
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
os.setresuid(65534, 65534, 65534)  # and with that, the right to lock more than the limit
transport.register(small, flat_tensor(64, 1024))
try:
    transport.register(large, flat_tensor(64, 1 << 20))
except TransportError as error:
    print(error)
assert len(transport.describe("b").regions) == 1
transport.close()
"""


def test_too_low_a_limit_of_locked_memory_is_named_and_leaves_the_transport_usable() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    assert hard == resource.RLIM_INFINITY or hard >= 1 << 20, (soft, hard)
    done = subprocess.run(
        [sys.executable, "-c", REGISTER_WITHOUT_RIGHTS], check=False, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "cannot register 64 MiB: this process may lock 1 MiB of memory" in done.stdout
    assert "ulimit -l unlimited" in done.stdout


@contextmanager
def interface_without(address: str, interface: str) -> Iterator[None]:
    """Take an address from an interface, and give it back."""
    for what in ("del", "add"):
        subprocess.run(["ip", "addr", what, address, "dev", interface], check=True, timeout=30)
        if what == "del":
            yield


def test_a_gid_that_has_moved_is_found_again() -> None:
    device = Device()
    before = device.gid()
    address = f"{before.address.ipv4_mapped}/24"
    with interface_without(address, before.interface):
        deadline_s = time.monotonic() + 10
        while device.gid() == before and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert device.gid().address != before.address  # link-local is left
        subprocess.run(["ip", "addr", "add", "10.77.9.9/24", "dev", before.interface], check=True, timeout=30)
    subprocess.run(["ip", "addr", "del", "10.77.9.9/24", "dev", before.interface], check=True, timeout=30)
    device.close()
    again = Device()
    deadline_s = time.monotonic() + 10
    while again.gid().address != before.address and time.monotonic() < deadline_s:
        time.sleep(0.02)
        again.close()
        again = Device()
    assert again.gid().address == before.address
    again.close()
    with pair("verbs") as (a, b, peers):
        ranges = ranges_between(b.region, a.region, [0], [0], [4096])
        assert a.outcome(a.transport.read(peers[0], ranges)).outcome == "done"


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def test_a_hundred_thousand_work_requests_leave_nothing_behind() -> None:
    size_bytes = 4 << 20
    with pair("verbs", size_bytes) as (a, b, peers):
        offsets = list(range(0, size_bytes, 1024))
        ranges = ranges_between(b.region, a.region, offsets, offsets[::-1], [1024] * len(offsets))

        def move(rounds: int) -> None:
            for _ in range(rounds):
                assert a.outcome(a.transport.read(peers[0], ranges)).outcome == "done"
            a.events.clear()
            gc.collect()

        move(5)
        before = resident_bytes()
        move(25)  # pyverbs' own work requests would leave 64 bytes each: 6.5 MB
        assert resident_bytes() - before < 2 << 20


def test_connected_ends_that_do_nothing_use_less_than_two_percent_of_a_core() -> None:
    with pair("verbs"):
        time.sleep(0.2)
        before_s, began_s = time.process_time(), time.monotonic()
        time.sleep(2.0)
        assert (time.process_time() - before_s) / (time.monotonic() - began_s) < 0.02


def test_peers_come_and_go_without_leaving_queue_pairs() -> None:
    def queue_pairs() -> int:
        listed = subprocess.run(["rdma", "resource", "show"], check=True, capture_output=True, text=True, timeout=30)
        return int(listed.stdout.split(" qp ")[1].split()[0])

    with ends(make_end("verbs", "b", seed=7)) as (b,):
        before = queue_pairs()
        for number in range(3):
            a = make_end("verbs", f"a{number}")
            peer: Peer = join(a, b)[0]
            ranges = ranges_between(b.region, a.region, [0], [0], [4096])
            assert a.outcome(a.transport.read(peer, ranges)).outcome == "done"
            assert queue_pairs() == before + 16  # 4 at each end for each direction
            a.transport.close()
            b.await_lost(f"a{number}")
            b.transport.disconnect(f"a{number}")
            assert queue_pairs() == before
