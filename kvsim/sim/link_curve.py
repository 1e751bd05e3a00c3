"""What the simulator's link model makes of one transfer between two workers with the same NIC, and nothing else on it.

With it a measured link can be held against the link that was fitted to it, by the very code that simulates. It must not
know how links are measured or fitted.
"""

from kvsim.core.messages import RequestId, StartTransfer, TransferId, TransferKind, WorkerId
from kvsim.sim.clock import Clock
from kvsim.sim.hardware import Hardware, MessageSpec, ModelShape, NicSpec, WorkerHardware
from kvsim.sim.network import Network
from kvsim.sim.transfers import TransferEngine

_NO_MODEL = ModelShape("none", 1, 1, 1, 1, 1, 1, 1, 1, 1, False, 1, 1, 1)


def transfer_ns(nic: NicSpec, kind: TransferKind, *, size_bytes: int, operations: int) -> int:
    """Nanoseconds from the order until the initiator knows that all bytes are in place: for a pull its target, for a
    push its source. ``size_bytes`` move in ``operations`` equal operations. Kind message has no initiator."""
    assert kind != "message", "a message has two initiators"
    clock = Clock()
    worker = WorkerHardware(None, 1, nic, 1, None)
    hardware = Hardware(_NO_MODEL, (worker, worker), (), MessageSpec(0, 0, 1.0), 0)
    ends: dict[str, int] = {}
    order = StartTransfer(
        transfer=TransferId(0),
        request=RequestId(0),
        kind=kind,
        source=WorkerId(0),
        target=WorkerId(1),
        source_blocks=((0, 1),),
        target_blocks=((0, 1),),
        first_layer=0,
        layers=1,
        size_bytes=size_bytes,
        operations=operations,
        last=True,
    )
    TransferEngine(clock, Network(clock, hardware), hardware).start(
        order,
        lambda _: ends.__setitem__("pull", clock.now_ns),
        lambda _: ends.__setitem__("push", clock.now_ns),
    )
    clock.run()
    return ends[kind]
