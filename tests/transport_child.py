"""A process with one end of a transport, steered by lines of JSON: the peer that tests read from, stop and kill.

Run as ``python transport_child.py KIND NAME PEER POOL_BYTES SEED``. It prints its description (hex), reads the peer's,
and then answers one command a line. It ends when its standard input does.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from transport_world import TIMEOUT_S, End, await_ready, make_end, ranges_between, shuffled_blocks

from backends.transport.description import PeerDescription
from backends.transport.port import Peer

BLOCK_BYTES = 4096


@dataclass(slots=True, eq=False)
class Child:
    """The process as its parent sees it."""

    process: "subprocess.Popen[str]"

    def ask(self, **command: object) -> object:
        """Send a command, return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> object:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the child ended with {self.process.wait(TIMEOUT_S)}"
        return json.loads(line)

    def end(self) -> None:
        """Kill it if it is there, and reap it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=TIMEOUT_S)


def start_child(kind: str, name: str, peer: str, pool_bytes: int, seed: int) -> Child:
    """A child with a pool of random bytes made from ``seed``."""
    here = Path(__file__)
    path = os.pathsep.join(filter(None, (str(here.parents[1]), str(here.parent), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    arguments = [sys.executable, str(here), kind, name, peer, str(pool_bytes), str(seed)]
    return Child(subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment))


def join_child(end: End, child: Child, name: str) -> tuple[Peer, int]:
    """Connect with a child and wait until both are ready: the child as a peer, and the address of its region."""
    description = msgspec.msgpack.decode(bytes.fromhex(str(child.answer())), type=PeerDescription)
    peer = end.transport.connect(description)
    ours = msgspec.msgpack.encode(end.transport.describe(name)).hex()
    assert child.ask(description=ours, region=[end.region.address, end.region.size_bytes]) == "ready"
    await_ready(end, name)
    return peer, description.regions[0].address


def thread_wakeups() -> int:
    """How often threads of this process other than the calling one have gone to sleep so far."""
    count = 0
    for task in Path("/proc/self/task").iterdir():
        if task.name != str(os.getpid()):
            text = (task / "status").read_text(encoding="ascii")
            count += int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return count


def main(kind: str, name: str, peer_name: str, pool_bytes: str, seed: str) -> None:
    """Serve one parent."""
    end = make_end(kind, name, int(pool_bytes), int(seed))
    say(msgspec.msgpack.encode(end.transport.describe(peer_name)).hex())
    order = json.loads(sys.stdin.readline())
    peer = end.transport.connect(msgspec.msgpack.decode(bytes.fromhex(order["description"]), type=PeerDescription))
    await_ready(end, peer_name)
    say("ready")
    theirs = order["region"][0]
    for line in sys.stdin:
        say(obey(end, peer, theirs, json.loads(line)))
    end.transport.close()


def obey(end: End, peer: Peer, theirs: int, order: dict[str, object]) -> object:
    """Carry out one command."""
    match order["do"]:
        case "digest":
            return hashlib.sha256(end.pool.tobytes()).hexdigest()
        case "wakeups":
            before = thread_wakeups()
            time.sleep(float(str(order["seconds"])))
            return thread_wakeups() - before
        case "send":
            seed, tag = int(str(order["seed"])), int(str(order["tag"]))
            blocks = shuffled_blocks(seed, len(end.pool), BLOCK_BYTES, len(end.pool) // BLOCK_BYTES)
            ranges = ranges_between(end.region, end.region, blocks, blocks, [BLOCK_BYTES] * len(blocks))
            end.transport.send(peer, ranges, tag)
            return "sent"
        case other:
            raise ValueError(f"{other} with {theirs}")


def say(answer: object) -> None:
    """One line to the parent."""
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    np.seterr(all="raise")
    main(*sys.argv[1:])
