"""Driver, workers and transfers together, in one process and in any order: every token must be the right one."""

import pytest
from hash_model import VOCABULARY, hash_generate
from hypothesis import given, settings
from hypothesis import strategies as st
from real_worlds import InProcess, real_cluster
from worlds import ALL_MODES, MODES

from backends.driver.requests import Submission
from kvsim.core.cluster import ClusterSpec, PolicySpec, TransferMode
from kvsim.core.messages import RequestId
from kvsim.replay import replay


def serve(cluster: ClusterSpec, submissions: list[Submission], seed: int = 0) -> InProcess:
    """Serve in an order drawn by the seed, and hold outputs and record against what they must be."""
    world = InProcess(cluster, seed)
    outputs = world.serve(submissions)
    for request, submission in enumerate(submissions):
        assert outputs[RequestId(request)] == hash_generate(submission), f"request {request}"
    assert replay(cluster, world.records).identical
    return world


def prompt(tokens: int, seed: int = 1) -> tuple[int, ...]:
    return tuple((seed * 7919 + 31 * index) % VOCABULARY for index in range(tokens))


@pytest.mark.parametrize("mode", ALL_MODES)
def test_every_mode_gives_the_tokens_of_the_model(mode: TransferMode) -> None:
    submissions = [Submission(prompt(5 + 3 * index, index), 10) for index in range(8)]
    world = serve(real_cluster(mode, prefill=2, decode=2), submissions)
    assert set(world.outputs.finished.values()) == {"length"}
    columns = world.collector.finish()
    assert (columns.requests.output_tokens == 10).all()


@pytest.mark.parametrize("mode", ALL_MODES)
def test_a_prompt_that_fits_in_no_pool_is_rejected_and_others_are_served(mode: TransferMode) -> None:
    world = InProcess(real_cluster(mode, kv_blocks=10, block_tokens=4))
    fitting, too_long = Submission(prompt(20), 8), Submission(prompt(41), 8)
    outputs = world.serve([fitting, too_long, fitting])  # ends with every pool empty
    assert outputs == {RequestId(0): hash_generate(fitting), RequestId(2): hash_generate(fitting)}
    assert world.outputs.finished == {RequestId(0): "length", RequestId(1): "too_long", RequestId(2): "length"}


@st.composite
def worlds(draw: st.DrawFn) -> tuple[ClusterSpec, list[Submission], int]:
    mode = draw(st.sampled_from(MODES))
    block_tokens = draw(st.sampled_from([1, 4, 16]))
    tokens_per_pool = draw(st.integers(60, 200))
    policy = PolicySpec(
        mode,
        layers_per_group=draw(st.integers(1, 5)),
        allocation=draw(st.sampled_from(["first_fit", "scattered"])),
        prefill_placement=draw(st.sampled_from(["least_loaded", "round_robin"])),
        steps_max=draw(st.sampled_from([1, 3, 1024])),
    )
    cluster = real_cluster(
        mode,
        prefill=draw(st.integers(1, 2)),
        decode=draw(st.integers(1, 2)),
        kv_blocks=max(2, tokens_per_pool // block_tokens),
        block_tokens=block_tokens,
        policy=policy,
        batch_requests_max=draw(st.integers(1, 6)),
        batch_tokens_max=draw(st.integers(8, 60)),
        watermark_blocks=draw(st.integers(0, 2)),
    )
    request = st.builds(
        Submission,
        prompt=st.integers(1, 40).flatmap(lambda tokens: st.builds(prompt, st.just(tokens), st.integers(0, 99))),
        output_tokens_max=st.integers(1, 15),
        stop_tokens=st.sampled_from([(), tuple(range(60)), tuple(range(0, VOCABULARY, 3))]),
        output_tokens=st.one_of(st.none(), st.integers(1, 20)),
    )
    return cluster, draw(st.lists(request, min_size=1, max_size=7)), draw(st.integers(0, 1000))


@settings(max_examples=60)
@given(worlds())
def test_any_cluster_under_any_interleaving_gives_the_tokens_of_the_model(
    world: tuple[ClusterSpec, list[Submission], int],
) -> None:
    serve(*world)


@pytest.mark.parametrize("mode", MODES)
def test_preempted_requests_are_computed_anew_and_go_on_where_they_were(mode: TransferMode) -> None:
    submissions = [Submission(prompt(9, index), 24) for index in range(5)]
    world = serve(real_cluster(mode, kv_blocks=14), submissions)
    assert world.collector.finish().requests.preemptions.sum() > 0
