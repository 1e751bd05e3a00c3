"""Whatever goes wrong outside, every request that is not cancelled gets exactly the tokens of the model, and nothing is
left over: no block, no transfer, no request."""

import pytest
from failing_world import FailingWorld, Mishaps
from hash_model import VOCABULARY, hash_generate
from hypothesis import given, settings
from hypothesis import strategies as st
from real_worlds import real_cluster
from worlds import MODES

from backends.driver.requests import Submission
from kvsim.core.cluster import ClusterSpec, PolicySpec, TransferMode
from kvsim.core.messages import RequestId
from kvsim.replay import replay


def serve(cluster: ClusterSpec, submissions: list[Submission], seed: int, mishaps: Mishaps) -> FailingWorld:
    world = FailingWorld(cluster, seed, mishaps)
    outputs = world.serve(submissions)
    for index, submission in enumerate(submissions):
        request, expected = RequestId(index), hash_generate(submission)
        if world.outputs.finished[request] == "cancelled":
            assert outputs.get(request, []) == expected[: len(outputs.get(request, []))], f"request {request}"
        else:
            assert outputs[request] == expected, f"request {request}"
    assert replay(cluster, world.records).identical
    counted = world.collector.finish().requests.output_tokens.tolist()
    assert counted == [len(outputs.get(RequestId(index), [])) for index in range(len(submissions))]
    return world


def some(count: int, tokens: int = 14) -> list[Submission]:
    return [
        Submission(tuple((7 * place + 31 * index) % VOCABULARY for place in range(3 + 5 * index % 37)), tokens)
        for index in range(count)
    ]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mode", MODES)
def test_no_request_is_lost_with_a_worker(mode: TransferMode, seed: int) -> None:
    world = serve(real_cluster(mode, prefill=2, decode=2, kv_blocks=24), some(8), seed, Mishaps(kills=2, comebacks=2))
    assert set(world.outputs.finished.values()) == {"length"}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", ["push", "pull", "streamed", "message"])
def test_transfers_that_fail_and_connections_that_break_are_made_good(mode: TransferMode, seed: int) -> None:
    cluster = real_cluster(mode, prefill=1, decode=2, kv_blocks=24)
    world = serve(cluster, some(8), seed, Mishaps(cuts=2, failures=3))
    assert set(world.outputs.finished.values()) == {"length"}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", MODES)
def test_a_cancelled_request_ends_at_once_and_disturbs_no_other(mode: TransferMode, seed: int) -> None:
    world = serve(real_cluster(mode, kv_blocks=24), some(8), seed, Mishaps(cancels=3))
    assert "cancelled" in world.outputs.finished.values()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", MODES)
def test_workers_leave_when_they_have_finished_and_come_back(mode: TransferMode, seed: int) -> None:
    cluster = real_cluster(mode, prefill=2, decode=2, kv_blocks=24)
    world = serve(cluster, some(8), seed, Mishaps(dismissals=2, comebacks=2))
    assert set(world.outputs.finished.values()) == {"length"}


@st.composite
def troubled_worlds(draw: st.DrawFn) -> tuple[ClusterSpec, list[Submission], int, Mishaps]:
    mode = draw(st.sampled_from(MODES))
    block_tokens = draw(st.sampled_from([1, 4, 16]))
    cluster = real_cluster(
        mode,
        prefill=draw(st.integers(1, 2)),
        decode=draw(st.integers(1, 3)),
        kv_blocks=max(2, draw(st.integers(70, 200)) // block_tokens),
        block_tokens=block_tokens,
        policy=PolicySpec(mode, layers_per_group=draw(st.integers(1, 5)), steps_max=draw(st.sampled_from([1, 1024]))),
        batch_requests_max=draw(st.integers(1, 6)),
        batch_tokens_max=draw(st.integers(8, 60)),
    )
    few = st.integers(0, 3)
    mishaps = Mishaps(draw(few), draw(few), draw(few), draw(few), draw(few), draw(st.integers(0, 1)))
    return cluster, some(draw(st.integers(1, 8)), draw(st.integers(1, 15))), draw(st.integers(0, 10_000)), mishaps


@settings(max_examples=80)
@given(troubled_worlds())
def test_any_mixture_of_mishaps_leaves_every_output_right_and_nothing_behind(
    world: tuple[ClusterSpec, list[Submission], int, Mishaps],
) -> None:
    serve(*world)
