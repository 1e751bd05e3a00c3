"""The wire protocol of each kind of transfer, to the nanosecond."""

import pytest
from msgspec.structs import replace

from kvsim.core.messages import RequestId, StartTransfer, TransferId, TransferKind, WorkerId
from kvsim.sim.clock import Clock
from kvsim.sim.hardware import GpuSpec, Hardware, MessageSpec, ModelShape, NicSpec, WorkerHardware
from kvsim.sim.network import Network
from kvsim.sim.transfers import TransferEngine

GPU = GpuSpec("gpu", 1e12, 1, 4e9, 1.0, 1.0, 1.0, 1.0, 1e9, 0, 0, 0)
MODEL = ModelShape("model", 1, 1, 1, 1, 1, 1, 1, 1, 1, False, 2, 2, 1)
NIC = NicSpec("nic", 1e9, latency_ns=1000, operation_ns=0, messages_per_s=1e12, reads_outstanding_max=1_000_000)
WORLD = Hardware(
    MODEL,
    (WorkerHardware(GPU, 2, NIC, 1, None), WorkerHardware(GPU, 1, NIC, 1, None)),
    (),
    MessageSpec(handshakes=2, handshake_ns=300, pack_efficiency=0.5),
    0,
)
"""A byte a nanosecond on the wire; gather and scatter move a byte a nanosecond on each GPU: 4e9 / 2 * 0.5 bytes/s."""


def command(kind: TransferKind, transfer: int = 0, size_bytes: int = 10_000, operations: int = 1) -> StartTransfer:
    return StartTransfer(
        transfer=TransferId(transfer),
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


def carry_out(*commands: StartTransfer, world: Hardware = WORLD) -> dict[int, tuple[int, int]]:
    """Start all at instant 0. Answers (done, released) of each transfer in ns."""
    clock = Clock()
    engine = TransferEngine(clock, Network(clock, world), world)
    done: dict[int, int] = {}
    released: dict[int, int] = {}

    def note_done(transfer: TransferId) -> None:
        assert transfer not in done
        done[transfer] = clock.now_ns

    def note_released(transfer: TransferId) -> None:
        assert transfer not in released
        released[transfer] = clock.now_ns

    for order in commands:
        engine.start(order, note_done, note_released)
    clock.run()
    assert done.keys() == released.keys()
    return {transfer: (done[transfer], released[transfer]) for transfer in done}


def test_pull_asks_reads_and_tells_the_source_when_complete() -> None:
    """1,000 for the request, 10,000 for the bytes, 1,000 for the last of them to arrive; 1,000 for COMPLETE."""
    assert carry_out(command("pull")) == {0: (12_000, 13_000)}


def test_push_writes_at_once_and_is_acknowledged() -> None:
    """10,000 for the bytes, 1,000 for the last of them to arrive; 1,000 for the acknowledgement."""
    assert carry_out(command("push")) == {0: (11_000, 12_000)}


def test_message_shakes_hands_gathers_sends_and_scatters_one_after_the_other() -> None:
    """2 round trips of 2,000 and 300 of software; gather 5,000 on each of two GPUs; 10,000 for the bytes: 19,300.

    The send is acknowledged after another 2,000; the data arrive after 1,000 and are scattered by one GPU in 10,000.
    """
    assert carry_out(command("message")) == {0: (30_300, 21_300)}


def test_two_equal_transfers_take_twice_as_long_on_the_wire() -> None:
    assert carry_out(command("push", 0), command("push", 1)) == {0: (21_000, 22_000), 1: (21_000, 22_000)}
    assert carry_out(command("pull", 0), command("pull", 1)) == {0: (22_000, 23_000), 1: (22_000, 23_000)}


def test_gather_and_scatter_do_not_hold_the_wire() -> None:
    """A push of 10,000 bytes meets the message on the wire at 9,300: 9,300 of its bytes are over, 700 take twice as
    long and end at 10,700. The message has then 9,300 bytes left: 20,000."""
    assert carry_out(command("message", 0), command("push", 1)) == {0: (31_000, 22_000), 1: (11_700, 12_700)}


def test_pull_is_released_only_after_it_is_done_and_message_may_be_before() -> None:
    for kind in ("pull", "push"):
        done_ns, released_ns = carry_out(command(kind))[0]
        assert done_ns < released_ns
    done_ns, released_ns = carry_out(command("message"))[0]
    assert released_ns < done_ns


@pytest.mark.parametrize("kind", ["pull", "push"])
def test_scattered_blocks_take_as_long_as_their_posting(kind: TransferKind) -> None:
    slow = replace(NIC, operation_ns=200)
    world = replace(WORLD, workers=tuple(replace(worker, nic=slow) for worker in WORLD.workers))
    whole = carry_out(command(kind), world=world)[0][0]
    scattered = carry_out(command(kind, operations=100), world=world)[0][0]
    assert scattered - whole == 100 * 200 - 10_000


def test_gather_is_rounded_up_to_whole_nanoseconds() -> None:
    clock = Clock()
    engine = TransferEngine(clock, Network(clock, WORLD), WORLD)
    assert [engine.pack_ns(0, size_bytes) for size_bytes in (0, 1, 2, 3)] == [0, 1, 1, 2]
    assert engine.pack_ns(1, 3) == 3


def test_an_empty_transfer_costs_its_latencies() -> None:
    assert carry_out(command("push", size_bytes=0, operations=0)) == {0: (1000, 2000)}
    assert carry_out(command("pull", size_bytes=0, operations=0)) == {0: (2000, 3000)}
