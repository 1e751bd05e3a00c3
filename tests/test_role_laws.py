"""Workers that change their roles in the simulator lose no request, decide the same whatever is fused, and replay."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from worlds import DISAGGREGATED, cluster, hardware, run, with_steps_max, workload

from kvsim.core.cluster import ClusterSpec, ControllerRoles, PolicySpec, RoleSpec, ThresholdRoles
from kvsim.core.messages import (
    DeadlineReached,
    DrainWorker,
    FinishRequest,
    Record,
    RoleSwitched,
    RunDecode,
    RunPrefill,
    SwitchRole,
)
from kvsim.metrics import RunColumns
from kvsim.replay import replay
from kvsim.sim.hardware import Hardware
from kvsim.workload import Workload

MS = 1_000_000
EAGER = ThresholdRoles(
    prefill_queue_tokens_high=60,
    prefill_queue_tokens_low=30,
    decode_load_permille_high=250,
    decode_load_permille_low=200,
)
CONTROLLER = ControllerRoles(
    ttft_ns=8 * MS, tpot_ns=5 * MS, pressure_permille=800, margin_permille=50, window_ns=5 * MS
)


@st.composite
def examples(draw: st.DrawFn) -> tuple[ClusterSpec, Workload, Hardware]:
    """Prompts first and outputs later, so that both roles run short in turn."""
    mode = draw(st.sampled_from([*DISAGGREGATED, "adaptive"]))
    policies: list[ThresholdRoles | ControllerRoles] = [EAGER, CONTROLLER]
    roles = RoleSpec(
        draw(st.sampled_from(policies)),
        interval_ns=draw(st.sampled_from([MS // 5, MS])),
        dwell_ns=draw(st.sampled_from([0, 2 * MS])),
        drain_max_ns=draw(st.sampled_from([None, 0, 3 * MS])),
    )
    policy = PolicySpec(mode, layers_per_group=2, roles=roles)
    spec = cluster(
        mode,
        prefill=draw(st.integers(1, 3)),
        decode=draw(st.integers(1, 3)),
        kv_blocks=30,
        block_tokens=draw(st.sampled_from([4, 16])),
        policy=policy,
        batch_requests_max=draw(st.integers(2, 6)),
        batch_tokens_max=100,
    )
    early = st.tuples(st.integers(0, 3 * MS), st.integers(30, 90), st.integers(1, 6))
    late = st.tuples(st.integers(4 * MS, 9 * MS), st.integers(1, 10), st.integers(30, 60))
    requests = sorted([*draw(st.lists(early, min_size=6, max_size=12)), *draw(st.lists(late, min_size=6, max_size=12))])
    switch_ns = draw(st.sampled_from([0, MS // 2]))
    return spec, workload(requests), switching(spec, switch_ns)


def switching(spec: ClusterSpec, switch_ns: int) -> Hardware:
    world = hardware(spec)
    return replace(world, workers=tuple(replace(worker, role_switch_ns=switch_ns) for worker in world.workers))


def instants(columns: RunColumns) -> list[list[int]]:
    requests = columns.requests
    return [
        column.tolist()
        for column in (
            *(requests.prefill_start_ns, requests.transfer_end_ns, requests.decode_start_ns, requests.finished_ns),
            *(requests.prefill_worker, requests.decode_worker, requests.preemptions),
        )
    ]


def changes(records: list[Record]) -> list[tuple[int, object]]:
    """Every decision about roles and when it was taken."""
    return [
        (record.now_ns, command)
        for record in records
        for command in record.commands
        if isinstance(command, DrainWorker | SwitchRole)
    ]


@settings(max_examples=60)
@given(examples())
def test_no_request_is_lost_by_a_change_of_roles(example: tuple[ClusterSpec, Workload, Hardware]) -> None:
    spec, load, world = example
    columns, records = run(spec, load, world)
    ended = Counter(c.request for record in records for c in record.commands if isinstance(c, FinishRequest))
    assert sorted(ended.values()) == [1] * len(load)
    assert columns.requests.output_tokens.tolist() == load.output_tokens.tolist()


@settings(max_examples=40)
@given(examples())
def test_roles_change_at_the_same_instants_however_steps_are_fused(
    example: tuple[ClusterSpec, Workload, Hardware],
) -> None:
    spec, load, world = example
    fused, fused_records = run(spec, load, world)
    stepwise, stepwise_records = run(with_steps_max(spec, 1), load, world)
    assert changes(fused_records) == changes(stepwise_records)
    assert instants(fused) == instants(stepwise)


@settings(max_examples=30)
@given(examples())
def test_a_record_with_changes_of_role_replays_identically(example: tuple[ClusterSpec, Workload, Hardware]) -> None:
    spec, load, world = example
    _, records = run(spec, load, world)
    stored = msgspec.json.decode(msgspec.json.encode(records), type=list[Record])
    header = msgspec.json.decode(msgspec.json.encode(spec), type=ClusterSpec)
    assert replay(header, stored).identical


@settings(max_examples=40)
@given(examples())
def test_a_worker_computes_nothing_between_the_order_to_switch_and_its_report(
    example: tuple[ClusterSpec, Workload, Hardware],
) -> None:
    spec, load, world = example
    _, records = run(spec, load, world)
    roles = {worker.id: worker.role for worker in spec.workers}
    switching_since: dict[int, int] = {}
    for record in records:
        for event in record.events:
            if isinstance(event, RoleSwitched):
                took_ns = record.now_ns - switching_since.pop(event.worker)
                assert took_ns == world.workers[event.worker].role_switch_ns
        for command in record.commands:
            if isinstance(command, RunPrefill | RunDecode):
                assert command.worker not in switching_since
                local = spec.policy.transfer_mode == "adaptive" and isinstance(command, RunPrefill)
                assert local or roles[command.worker] == ("prefill" if isinstance(command, RunPrefill) else "decode")
            if isinstance(command, SwitchRole):
                switching_since[command.worker] = record.now_ns
                roles[command.worker] = command.role
                assert set(roles.values()) == {"prefill", "decode"}


@pytest.mark.parametrize("policy", [EAGER, CONTROLLER])
def test_a_swing_from_long_prompts_to_long_outputs_moves_workers_there_and_back(
    policy: ThresholdRoles | ControllerRoles,
) -> None:
    spec = cluster(
        "pull",
        prefill=2,
        decode=2,
        kv_blocks=60,
        policy=PolicySpec("pull", roles=RoleSpec(policy, interval_ns=MS // 5, dwell_ns=5 * MS)),
    )
    prompts = [(index * MS, 200, 2) for index in range(60)]
    outputs = [(70 * MS + index * MS // 2, 30, 60) for index in range(120)]
    again = [(150 * MS + index * MS, 200, 2) for index in range(60)]
    _, records = run(spec, workload([*prompts, *outputs, *again]))
    targets = [command.role for _, command in changes(records) if isinstance(command, SwitchRole)]
    assert targets[0] == "prefill"
    assert "decode" in targets
    assert targets[-1] == "prefill"


def test_the_policy_is_not_asked_when_there_is_no_request() -> None:
    roles = RoleSpec(EAGER, interval_ns=MS, dwell_ns=0)
    spec = cluster("pull", policy=PolicySpec("pull", roles=roles))
    _, records = run(spec, workload([(0, 10, 2), (1000 * MS, 10, 2)]))
    asked = [record.now_ns for record in records for event in record.events if isinstance(event, DeadlineReached)]
    assert len(asked) <= 2
