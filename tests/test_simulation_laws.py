"""Laws that hold for every cluster, mode and load: nothing is lost, leaked, doubled or decided by chance.

Pools are tiny and loads heavy on purpose: preemption, back-pressure and waiting for memory happen in most examples.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import ALL_MODES, NIC, cluster, hardware, run, slower, with_steps_max, workload

from kvsim.core.cluster import Allocation, ClusterSpec, PolicySpec, TransferMode
from kvsim.core.messages import (
    AssignBlocks,
    Command,
    FinishRequest,
    Record,
    ReleaseBlocks,
    RequestArrived,
    StartTransfer,
    TransferDone,
    TransferReleased,
)
from kvsim.metrics import RunColumns
from kvsim.replay import replay
from kvsim.workload import Workload


@dataclass(frozen=True)
class Example:
    cluster: ClusterSpec
    load: Workload
    link_bytes_per_s: float

    def run(self) -> tuple[RunColumns, list[Record]]:
        return run(self.cluster, self.load, hardware(self.cluster, slower(NIC, self.link_bytes_per_s)))


@st.composite
def examples(draw: st.DrawFn, modes: Iterable[TransferMode] = ALL_MODES) -> Example:
    mode = draw(st.sampled_from(list(modes)))
    block_tokens = draw(st.sampled_from([1, 4, 16]))
    tokens_per_pool = draw(st.integers(60, 400))
    link_bytes_per_s = draw(st.sampled_from([10**7, 10**9]))
    allocation: Allocation = draw(st.sampled_from(["first_fit", "scattered", "oldest_first"]))
    policy = PolicySpec(
        mode,
        layers_per_group=draw(st.integers(1, 5)),
        allocation=allocation,
        prefill_placement=draw(st.sampled_from(["least_loaded", "round_robin"])),
        decode_placement=draw(st.sampled_from(["least_loaded", "round_robin", "link_aware"])),
        prefill_wait_max_ns=draw(st.sampled_from([None, None, 3_000_000])),
        admission=draw(st.sampled_from(["chunk", "prompt"])),
        async_scheduling=draw(st.booleans()),
        prefix_caching=allocation == "oldest_first" and draw(st.booleans()),
    )
    spec = cluster(
        mode,
        prefill=draw(st.integers(1, 2)),
        decode=draw(st.integers(1, 2)),
        kv_blocks=max(2, tokens_per_pool // block_tokens),
        block_tokens=block_tokens,
        policy=policy,
        batch_requests_max=draw(st.integers(1, 6)),
        batch_tokens_max=draw(st.integers(8, 120)),
        watermark_blocks=draw(st.integers(0, 3)),
        link_bytes_per_s=link_bytes_per_s,
    )
    request = st.tuples(st.integers(0, 6_000_000), st.integers(1, 90), st.integers(1, 60))
    requests = sorted(draw(st.lists(request, min_size=1, max_size=14)))
    limit = draw(st.sampled_from([None, None, 25]))
    return Example(spec, workload(requests, limit), link_bytes_per_s)


def commands_of(records: list[Record]) -> list[Command]:
    return [command for record in records for command in record.commands]


@settings(max_examples=150)
@given(examples())
def test_every_request_that_arrives_ends_exactly_once(example: Example) -> None:
    _, records = example.run()  # raises if the simulation deadlocks
    arrived = [event.request.id for record in records for event in record.events if isinstance(event, RequestArrived)]
    ended = Counter(command.request for command in commands_of(records) if isinstance(command, FinishRequest))
    assert ended == Counter(arrived)


@settings(max_examples=100)
@given(examples())
def test_no_block_has_two_owners_and_none_is_left_over(example: Example) -> None:
    """From the record alone. Growth is not commanded, so a pool's blocks are bounded, not balanced, by this."""
    _, records = example.run()
    owners: dict[tuple[int, int], int] = {}
    for command in commands_of(records):
        if isinstance(command, AssignBlocks):
            for first, count in command.blocks:
                for block in range(first, first + count):
                    key = (command.worker, block)
                    assert key not in owners, f"block {key} given to {command.request}, owned by {owners[key]}"
                    owners[key] = command.request
        elif isinstance(command, ReleaseBlocks):
            owners = {
                key: owner for key, owner in owners.items() if (key[0], owner) != (command.worker, command.request)
            }
    assert not owners


@settings(max_examples=100)
@given(examples())
def test_transfers_move_every_layer_of_every_block_once_and_report_once(example: Example) -> None:
    _, records = example.run()
    kv = example.cluster.kv
    done = Counter(e.transfer for record in records for e in record.events if isinstance(e, TransferDone))
    released = Counter(e.transfer for record in records for e in record.events if isinstance(e, TransferReleased))
    layers: dict[int, int] = {}
    for command in commands_of(records):
        if isinstance(command, StartTransfer):
            blocks = sum(count for _, count in command.source_blocks)
            assert blocks == sum(count for _, count in command.target_blocks)
            block_bytes = kv.bytes_per_token * kv.block_tokens // kv.layers
            assert command.size_bytes == blocks * command.layers * block_bytes
            assert command.first_layer == layers.get(command.request, 0) % kv.layers
            layers[command.request] = command.first_layer + command.layers
            assert command.last == (layers[command.request] == kv.layers)
            assert done.pop(command.transfer) == released.pop(command.transfer) == 1
    assert not done
    assert not released


@settings(max_examples=100)
@given(examples())
def test_a_run_of_k_steps_and_k_runs_of_one_step_give_the_same_instants(example: Example) -> None:
    fused, _ = example.run()
    stepwise, _ = Example(with_steps_max(example.cluster, 1), example.load, example.link_bytes_per_s).run()
    middle, _ = Example(with_steps_max(example.cluster, 3), example.load, example.link_bytes_per_s).run()
    for other in (stepwise, middle):
        assert request_columns(fused) == request_columns(other)


@settings(max_examples=60)
@given(examples())
def test_replaying_the_events_gives_the_same_commands(example: Example) -> None:
    _, records = example.run()
    # through bytes, as a record file keeps them
    stored = msgspec.json.decode(msgspec.json.encode(records), type=list[Record])
    assert replay(example.cluster, stored).identical


@settings(max_examples=40)
@given(examples())
def test_the_same_run_twice_is_the_same(example: Example) -> None:
    assert example.run()[1] == example.run()[1]


@settings(max_examples=60)
@given(examples())
def test_requests_produce_the_tokens_that_they_should(example: Example) -> None:
    columns, _ = example.run()
    finished = columns.requests.finished
    limit = example.load.output_tokens_max or 10**9
    room = min(worker.kv_blocks for worker in example.cluster.workers) * example.cluster.kv.block_tokens
    expected = np.minimum(np.minimum(example.load.output_tokens, limit), room - example.load.prompt_tokens)
    order = columns.requests.request
    assert (columns.requests.output_tokens[finished] == expected[order][finished]).all()


def request_columns(columns: RunColumns) -> dict[str, list[int]]:
    requests = columns.requests
    names = [name for name in requests.__struct_fields__ if isinstance(getattr(requests, name), np.ndarray)]
    assert len(names) > 10
    return {name: getattr(requests, name).tolist() for name in names}


def test_a_deadlock_is_reported_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvsim.core.decode_engine import DecodeEngine

    monkeypatch.setattr(DecodeEngine, "_admit", lambda _self, _out: [])
    with pytest.raises(AssertionError, match=r"deadlock at \d+ ns: 1 requests wait"):
        run(cluster("pull"), workload([(0, 40, 5)]))
