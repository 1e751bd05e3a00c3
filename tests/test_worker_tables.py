"""Block tables on a worker: the same blocks for the same tokens as in the scheduler's pools, after every call."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from test_simulation_laws import Example, examples
from worlds import NIC, hardware, slower

from backends.worker.tables import BlockTables, TableError, each_block
from kvsim.core.messages import (
    AssignBlocks,
    Command,
    DecodeAdvanced,
    Event,
    PrefillDone,
    ReleaseBlocks,
    RequestArrived,
    RequestId,
    RunDecode,
    RunPrefill,
)
from kvsim.sim.driver import Simulation

A, B = RequestId(0), RequestId(1)


# --- by hand -----------------------------------------------------------------------------------------------------


def test_growth_takes_the_promised_blocks_in_order_when_the_last_one_is_full() -> None:
    tables = BlockTables(blocks_total=10, block_tokens=4)
    tables.assign(A, ((2, 1),))
    tables.assign(B, ((7, 2),))
    tables.promise(((0, 2), (5, 1)))
    for context in range(3, 5):
        tables.grow(A, context)
    tables.grow(B, 8)
    assert tables.table(A) == [2, 0]
    assert tables.table(B) == [7, 8, 1]
    assert tables.blocks_used == 5


def test_what_a_run_did_not_take_is_free_for_others() -> None:
    tables = BlockTables(10, 4)
    tables.assign(A, ((0, 1),))
    tables.promise(((1, 3),))
    tables.grow(A, 4)
    tables.promise(())
    tables.assign(B, ((2, 2),))
    with pytest.raises(TableError, match="no spare block left at context 8"):
        tables.grow(A, 8)
    tables.release(A)
    assert tables.requests == (B,)
    assert tables.blocks_used == 2


def test_orders_that_contradict_the_tables_are_refused_with_the_numbers() -> None:
    tables = BlockTables(10, 4)
    tables.assign(A, ((3, 2),))
    with pytest.raises(TableError, match="block 4 for request 1 is in a table already"):
        tables.assign(B, ((4, 1),))
    with pytest.raises(TableError, match=r"blocks 9 \.\. 10 are not in a pool of 10"):
        tables.assign(A, ((9, 2),))
    with pytest.raises(TableError, match="context 9 in blocks for 8 tokens"):
        tables.grow(A, 9)
    with pytest.raises(TableError, match="request 5 has no blocks here"):
        tables.release(RequestId(5))


@pytest.mark.parametrize("runs", [((-1, 1),), ((0, 0),), ((0, -3),), ((10, 1),), ((0, 1 << 62),)])
def test_runs_outside_the_pool_are_refused(runs: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(TableError):
        list(each_block(runs, 10))


# --- beside a scheduler --------------------------------------------------------------------------------------------


class Mirror:
    """Follows a run by its commands alone, and compares with the scheduler's pools after each of its calls."""

    def __init__(self, example: Example) -> None:
        spec = example.cluster
        self.tables = [BlockTables(worker.kv_blocks, spec.kv.block_tokens) for worker in spec.workers]
        self.decoding: dict[int, tuple[RequestId, ...]] = {}
        self.prefills: dict[int, RunPrefill] = {}
        self.prompt: dict[RequestId, int] = {}
        self.generated: dict[RequestId, int] = {}
        self.compared = 0
        self.simulation: Simulation

    def observe(self, _now_ns: int, events: Sequence[Event], commands: Sequence[Command]) -> None:
        for event in events:
            match event:
                case RequestArrived(arrived):
                    self.prompt[arrived.id] = arrived.prompt_tokens
                    self.generated[arrived.id] = 0
                case DecodeAdvanced(worker, run, steps):
                    for _ in range(steps):
                        self.step(worker, self.decoding[run])
                case PrefillDone(worker, run):
                    self.step(worker, self.prefills[run].decoding)
                    for request in self.prefills[run].completes:
                        self.generated[request] += 1
        for command in commands:
            self.follow(command)
        self.compare()

    def step(self, worker: int, batch: tuple[RequestId, ...]) -> None:
        for request in batch:
            self.tables[worker].grow(request, self.prompt[request] + self.generated[request] - 1)
            self.generated[request] += 1

    def follow(self, command: Command) -> None:
        match command:
            case AssignBlocks(worker, request, blocks):
                self.tables[worker].assign(request, blocks)
            case ReleaseBlocks(worker, request):
                self.tables[worker].release(request)
            case RunDecode(worker, run, batch):
                self.decoding[run] = batch
                self.tables[worker].promise(command.spare_blocks)
            case RunPrefill(worker, run):
                self.prefills[run] = command
                self.tables[worker].promise(command.spare_blocks)
                for chunk in command.chunks:
                    assert self.tables[worker].covers(chunk.request, chunk.start_token + chunk.tokens)

    def compare(self) -> None:
        for engine in self.simulation.scheduler._fleet.engines():
            tables = self.tables[engine.spec.id]
            assert tables.blocks_used == engine.pool.blocks_total - engine.pool.blocks_free
            for request in tables.requests:
                assert tables.table(request) == list(each_block(engine.pool.table(request), engine.pool.blocks_total))
                self.compared += 1


@settings(max_examples=100)
@given(examples())
def test_tables_followed_from_commands_equal_the_pools_of_the_scheduler_after_every_call(example: Example) -> None:
    mirror = Mirror(example)
    world = hardware(example.cluster, slower(NIC, example.link_bytes_per_s))
    mirror.simulation = Simulation(example.cluster, world, example.load, (mirror.observe,))
    mirror.simulation.run()
    assert all(tables.blocks_used == 0 for tables in mirror.tables)
