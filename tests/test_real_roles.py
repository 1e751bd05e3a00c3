"""Real workers that change their roles: the same processes compute both, and every token is the right one."""

import pytest
from hash_model import VOCABULARY, hash_generate
from hypothesis import given, settings
from hypothesis import strategies as st
from real_worlds import InProcess, real_cluster
from worlds import DISAGGREGATED

from backends.driver.connections import partners
from backends.driver.requests import Submission
from kvsim.core.cluster import ClusterSpec, PolicySpec, RoleSpec, ThresholdRoles, TransferMode
from kvsim.core.messages import RequestId, RoleSwitched, SwitchRole
from kvsim.replay import replay

EAGER = ThresholdRoles(
    prefill_queue_tokens_high=20,
    prefill_queue_tokens_low=20,
    decode_load_permille_high=200,
    decode_load_permille_low=400,
)


def changing(mode: TransferMode, prefill: int = 2, decode: int = 2, drain_max_ns: int | None = None) -> ClusterSpec:
    """Workers that change their roles every few microseconds of the test's time."""
    roles = RoleSpec(EAGER, interval_ns=20_000, dwell_ns=0, drain_max_ns=drain_max_ns)
    policy = PolicySpec(mode, layers_per_group=2, roles=roles)
    return real_cluster(mode, prefill=prefill, decode=decode, policy=policy)


def serve(cluster: ClusterSpec, requests: int, seed: int) -> tuple[int, int]:
    """Hold every output against the model and the record against a replay; how often roles were to change, and did."""
    submissions = [
        Submission(tuple((seed * 7919 + index * 131 + 31 * place) % VOCABULARY for place in range(4 + index % 9)), 12)
        for index in range(requests)
    ]
    world = InProcess(cluster, seed)
    outputs = world.serve(submissions)
    for request, submission in enumerate(submissions):
        assert outputs[RequestId(request)] == hash_generate(submission), f"request {request}"
    assert replay(cluster, world.records).identical
    ordered = sum(isinstance(command, SwitchRole) for record in world.records for command in record.commands)
    done = sum(isinstance(event, RoleSwitched) for record in world.records for event in record.events)
    return ordered, done


@pytest.mark.parametrize("mode", DISAGGREGATED)
def test_workers_that_change_roles_give_the_tokens_of_the_model(mode: TransferMode) -> None:
    ordered, done = serve(changing(mode), 24, seed=3)
    assert ordered >= 1
    assert done == ordered


@settings(max_examples=15)
@given(
    mode=st.sampled_from(DISAGGREGATED),
    prefill=st.integers(1, 3),
    decode=st.integers(1, 3),
    drain_max_ns=st.sampled_from([None, 0]),
    seed=st.integers(0, 1000),
)
def test_no_order_of_happenings_makes_a_change_of_role_spoil_a_token(
    mode: TransferMode, prefill: int, decode: int, drain_max_ns: int | None, seed: int
) -> None:
    serve(changing(mode, prefill, decode, drain_max_ns), 12, seed)


def test_workers_whose_roles_change_are_all_connected() -> None:
    assert partners(changing("pull")) == {0: (1, 2, 3), 1: (0, 2, 3), 2: (0, 1, 3), 3: (0, 1, 2)}
    assert partners(real_cluster("pull", prefill=1, decode=2)) == {0: (1, 2), 1: (0,), 2: (0,)}
