"""What two hosts show of transport verbs: run in both of two linked guests by run_in_two_guests.py.

Host 0 owns a pool of known bytes; host 1 reads scattered blocks of it and writes others back; then host 0's cable is
pulled, so that not even its sockets tell of its end, and host 1 must be told. They find each other over a plain socket,
which stands in for the control plane.
"""

import os
import socket
import subprocess
import time
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray
from transport_world import End, await_ready, ends, flat_tensor, ranges_between, shuffled_blocks

from backends.transport.description import PeerDescription
from backends.transport.port import Peer
from backends.transport.verbs import sysfs
from backends.transport.verbs.transport import VerbsTransport

PORT = 18515
POOL_BYTES = 16 << 20
BLOCK_BYTES = 16 << 10
COUNT = POOL_BYTES // BLOCK_BYTES // 2
NAMES = ("owner", "initiator")


def make_end(host: int, address: str) -> End:
    """A pool: random bytes at host 0, zeros at host 1."""
    transport = VerbsTransport(NAMES[host], address)
    memory = transport.allocate(POOL_BYTES)
    pool = np.frombuffer(memory, dtype=np.uint8)
    pool[:] = contents() if host == 0 else 0
    return End(transport, pool, transport.register(memory, flat_tensor(POOL_BYTES // BLOCK_BYTES, BLOCK_BYTES)))


def contents() -> NDArray[np.uint8]:
    """What host 0 holds at the beginning."""
    return np.random.default_rng(11).integers(0, 256, POOL_BYTES, dtype=np.uint8)


def interface() -> str:
    """The network interface below the card."""
    gid = sysfs.gid_of(sysfs.ports()[0])
    assert gid is not None
    return gid.interface


def meet(host: int, addresses: list[str]) -> socket.socket:
    """A connection between the two."""
    if host == 0:
        with socket.create_server((addresses[0], PORT)) as listener:
            listener.settimeout(30)
            return listener.accept()[0]
    deadline_s = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection((addresses[0], PORT), timeout=30)
        except OSError:
            assert time.monotonic() < deadline_s, "host 0 does not answer"
            time.sleep(0.05)


def main() -> None:
    """One host's part."""
    host, addresses = int(os.environ["RXE_HOST"]), os.environ["RXE_ADDRESSES"].split()
    other = 1 - host
    with (
        meet(host, addresses) as connection,
        connection.makefile("rb") as lines,
        ends(make_end(host, addresses[host])) as (end,),
    ):
        connection.sendall(msgspec.msgpack.encode(end.transport.describe(NAMES[other])).hex().encode() + b"\n")
        told = msgspec.msgpack.decode(bytes.fromhex(lines.readline().decode()), type=PeerDescription)
        peer = end.transport.connect(told)
        await_ready(end, NAMES[other])
        print(f"{NAMES[host]}: connected", flush=True)
        if host == 0:
            own(end)
            print("owner: blocks arrived where they belong; pulling the cable", flush=True)
            subprocess.run(["ip", "link", "set", interface(), "down"], check=True)
            os._exit(0)
        initiate(end, peer, told.regions[0].address)
        print("initiator: blocks arrived where they belong, and the owner's silence was told", flush=True)


def own(end: End) -> None:
    """Wait until the other is done, and check what it wrote: its first half of blocks is our second half, doubled."""
    assert [event.payload for event in end.notifications(1)] == [b"written"]
    before = contents().reshape(-1, BLOCK_BYTES)
    now = end.pool.reshape(-1, BLOCK_BYTES)
    read = np.array(shuffled_blocks(1, POOL_BYTES, BLOCK_BYTES, COUNT)) // BLOCK_BYTES
    written = np.array(shuffled_blocks(2, POOL_BYTES, BLOCK_BYTES, COUNT)) // BLOCK_BYTES
    expected = before.copy()
    expected[written] = before[read] ^ 0xFF
    assert np.array_equal(now, expected), "what was written differs"


def initiate(end: End, peer: Peer, theirs: int) -> None:
    """Read scattered blocks, write their complement to other places, and wait for the owner's end."""
    there = replace(end.region, address=theirs)
    read = shuffled_blocks(1, POOL_BYTES, BLOCK_BYTES, COUNT)
    ours = [at * BLOCK_BYTES for at in range(COUNT)]
    sizes = [BLOCK_BYTES] * COUNT
    began_s = time.perf_counter()
    done = end.outcome(end.transport.read(peer, ranges_between(there, end.region, read, ours, sizes)))
    took_s = time.perf_counter() - began_s
    assert done.outcome == "done", done.reason
    print(f"initiator: READ {COUNT} blocks of {BLOCK_BYTES >> 10} KiB, {COUNT * BLOCK_BYTES / took_s / 1e6:.0f} MB/s")
    expected = contents().reshape(-1, BLOCK_BYTES)[np.array(read) // BLOCK_BYTES]
    moved = end.pool[: COUNT * BLOCK_BYTES].reshape(-1, BLOCK_BYTES)
    assert np.array_equal(moved, expected), "what was read differs"
    moved ^= 0xFF
    written = shuffled_blocks(2, POOL_BYTES, BLOCK_BYTES, COUNT)
    ranges = ranges_between(end.region, there, ours, written, sizes)
    done = end.outcome(end.transport.write(peer, ranges, notification=b"written"))
    assert done.outcome == "done", done.reason
    again = ranges_between(there, end.region, read, ours, sizes)
    while (after := end.outcome(end.transport.read(peer, again))).outcome == "done":
        pass
    reason = end.await_lost("owner").reason
    assert "does not answer: transport retry counter exceeded" in reason, reason
    assert after.reason == reason
    last = end.outcome(end.transport.read(peer, again))
    assert (last.outcome, last.reason) == ("failed", "the peer is lost")


main()
