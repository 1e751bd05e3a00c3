"""A process with memory on a GPU and an end of cuda_ipc named "b", steered by lines of JSON.

Run as ``python gpu_child.py KIND PEER POOL_BYTES``; KIND says whose libcuda, the stand-in's or the real one. Beside its
pool it has a region of 4096 bytes of the processor's, all 5. It ends when its standard input does.
"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from fake_cuda import fake_driver
from numpy.typing import NDArray
from transport_child import Child, say
from transport_world import End, await_ready, flat_tensor

from backends.transport.cuda_ipc.driver import Driver
from backends.transport.cuda_ipc.pool import GpuPool
from backends.transport.cuda_ipc.transport import CudaIpcTransport
from backends.transport.description import PeerDescription
from backends.transport.port import Peer

BLOCK_BYTES = 4096
SEED = 9


@dataclass(slots=True, eq=False)
class GpuChild(Child):
    """The process as its parent sees it."""

    def description(self) -> PeerDescription:
        """What it says first."""
        return msgspec.msgpack.decode(bytes.fromhex(str(self.answer())), type=PeerDescription)

    def meet(self, end: End) -> tuple[Peer, int]:
        """Connect, and wait until both are ready: the child as a peer, and the address of its pool."""
        description = self.description()
        peer = end.transport.connect(description)
        assert self.ask(description=msgspec.msgpack.encode(end.transport.describe("b")).hex()) == "ready"
        await_ready(end, "b")
        return peer, description.regions[0].address

    @staticmethod
    def digest_of(content: NDArray[np.uint8]) -> str:
        """What it answers to "digest" if its pool holds this."""
        return hashlib.sha256(content.tobytes()).hexdigest()


def start_gpu_child(kind: str, pool_bytes: int, **environment: str) -> GpuChild:
    """A child with a pool of random bytes, and these variables in its environment."""
    here = Path(__file__)
    path = os.pathsep.join(filter(None, (str(here.parents[1]), str(here.parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, str(here), kind, "a", str(pool_bytes)]
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return GpuChild(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    )


def main(kind: str, peer_name: str, pool_bytes: str) -> None:
    """Serve one parent."""
    driver = fake_driver() if kind == "fake" else Driver()
    pool = GpuPool(driver, int(pool_bytes))
    pool.write(np.random.default_rng(SEED).integers(0, 256, pool.nbytes, dtype=np.uint8))
    transport = CudaIpcTransport("b", driver=driver)
    region = transport.register(pool, flat_tensor(pool.nbytes // 1024, 1024))
    stamps = transport.allocate(4096)
    stamps[:] = bytes([5]) * 4096
    transport.register(stamps, flat_tensor(4, 1024), peers_may="read")
    end = End(transport, np.zeros(0, dtype=np.uint8), region)
    say(msgspec.msgpack.encode(transport.describe(peer_name)).hex())
    order = json.loads(sys.stdin.readline())
    transport.connect(msgspec.msgpack.decode(bytes.fromhex(order["description"]), type=PeerDescription))
    await_ready(end, peer_name)
    say("ready")
    for line in sys.stdin:
        order = json.loads(line)
        match order["do"]:
            case "digest":
                say(GpuChild.digest_of(pool.read()))
            case "notifications":
                say([event.payload.decode() for event in end.notifications(order["count"])])
            case "handle":
                with driver.current(driver.retain(driver.device(0))):
                    say(driver.export(pool.data_ptr()).hex())
            case "unregister":
                transport.unregister(region)
                say("done")
            case other:
                raise ValueError(other)
    transport.close()
    pool.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
