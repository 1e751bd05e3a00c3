"""The campaign finds what it is there to find: nothing in the scheduler as it is, and every bug that is planted."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvsim.core.handover
from kvsim.core.cluster import TransferMode
from kvsim.core.handover import HandOver
from kvsim.core.leases import Leases
from kvsim.core.messages import RequestId, TransferId
from kvsim.core.request import RequestState
from kvsim.fuzz.campaign import run_campaign
from kvsim.fuzz.choices import Choices
from kvsim.fuzz.cluster_line import read_cluster, write_cluster
from kvsim.fuzz.event_line import read_event, write_event
from kvsim.fuzz.language import tell_story, write_story
from kvsim.fuzz.schedules import play
from kvsim.fuzz.shrink import shrink, story_of
from kvsim.fuzz.worlds import MODES, random_world

SCHEDULES_MAX = 2000
COMPILED = not str(kvsim.core.handover.__file__).endswith(".py")


def test_a_fixed_set_of_schedules_is_clean() -> None:
    campaign = run_campaign(0, 240)
    assert campaign.failure is None, str(campaign.failure)
    assert (campaign.start, campaign.end, campaign.tally.schedules) == (0, 240, 240)
    assert campaign.tally.modes == dict.fromkeys(MODES, 40)


def test_everything_that_can_go_wrong_does() -> None:
    """A campaign in which nothing happens would guard nothing."""
    tally = run_campaign(1000, 100).tally
    assert set(tally.happened) == {
        *("failed", "lost", "joined", "leaving", "cancelled", "said again", "hung", "link cut", "stale"),
        *("never said", "restart", "role changed"),
    }
    assert set(tally.ends) == {"stop", "length", "timeout", "cancelled", "shed", "failed", "forbidden"}


def test_processes_come_to_the_same_as_one() -> None:
    here, there = run_campaign(7, 120), run_campaign(7, 120, jobs=2)
    assert here.tally == there.tally
    assert (here.start, here.end) == (there.start, there.end)


def test_workers_whose_blocks_differ_are_played_on_request() -> None:
    campaign = run_campaign(0, 60, unequal_blocks=True)
    assert campaign.failure is None, str(campaign.failure)
    specs = [play(seed, "pull", requests=1, unequal_blocks=True).world.spec for seed in range(20)]
    assert any(len({spec.block_tokens(worker.id) for worker in spec.workers}) > 1 for spec in specs)
    plain = [play(seed, "pull", requests=1).world.spec for seed in range(20)]
    assert all(spec.kv.block_tokens == spec.block_tokens(worker.id) for spec in plain for worker in spec.workers)


def test_a_campaign_ends_with_its_time() -> None:
    campaign = run_campaign(0, 100_000, minutes=0)
    assert (campaign.start, campaign.end, campaign.tally.schedules) == (0, 0, 0)


# --- planted bugs ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["lease", "freshness", "twice"])
def planted(request: pytest.FixtureRequest) -> Iterator[str]:
    """A scheduler with a bug, switched on from outside."""
    if COMPILED:
        pytest.skip("compiled classes cannot be changed")
    expire, arrived, released = Leases.expire, HandOver.arrived, HandOver.released

    def never_over(leases: Leases) -> list[RequestId]:
        expire(leases)
        return []

    def always_fresh(handover: HandOver, transfer: TransferId, _generation: int) -> tuple[RequestState | None, bool]:
        flight = handover._in_flight.get(transfer)
        return arrived(handover, transfer, flight.generation if flight is not None else 0)

    def again_and_again(handover: HandOver, transfer: TransferId) -> RequestState | None:
        flight = handover._in_flight.get(transfer)
        found = released(handover, transfer)
        if flight is not None:
            flight.released = False
            handover._in_flight[transfer] = flight
        return found

    with pytest.MonkeyPatch.context() as patch:
        if request.param == "lease":
            patch.setattr(Leases, "expire", never_over)
        elif request.param == "freshness":
            patch.setattr(HandOver, "arrived", always_fresh)
        else:
            patch.setattr(HandOver, "released", again_and_again)
        yield request.param


def test_a_planted_bug_is_found_and_made_short(planted: str) -> None:
    campaign = run_campaign(0, SCHEDULES_MAX)
    assert campaign.failure is not None, f"{planted} is not found"
    assert campaign.tally.schedules <= SCHEDULES_MAX
    short = shrink(campaign.failure)
    assert short.failure is not None
    assert short.failure.where == campaign.failure.where
    assert len(short.world.records) <= min(12, campaign.failure.calls)
    story = story_of(short)
    assert story.startswith("# Found by kvsim fuzz")
    assert story.count("\nat ") == len(short.world.records)


# --- the language ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_a_schedule_that_is_written_down_is_told_in_the_same_words(mode: TransferMode, seed: int) -> None:
    world = random_world(mode, Choices(seed), requests=6)
    assert read_cluster(write_cluster(world.spec)) == world.spec
    world.play()
    played = play(seed, mode, requests=6)
    assert played.failure is None
    names = [worker.name for worker in world.spec.workers]
    numbers = {worker.name: worker.id for worker in world.spec.workers}
    for record in world.records:
        for event in record.events:
            assert read_event(write_event(event, names, {}).split(), numbers, {}) == event


def test_a_tape_plays_the_schedule_that_it_was_taken_from() -> None:
    first = play(3, "push")
    again = play(99, "push", tape=first.tape)
    assert again.world.records == first.world.records
    assert again.tape == first.tape


def test_a_tape_that_ends_early_goes_on_with_dull_decisions() -> None:
    choices = Choices(tape=[7, 3])
    assert [choices.below(5), choices.below(2), choices.below(9)] == [2, 1, 0]
    assert play(0, "pull", requests=3, tape=[]).failure is None


def test_a_written_story_is_a_story() -> None:
    world = random_world("streamed", Choices(11), requests=4)
    world.play()
    text = write_story(world.spec, world.records, ["Four requests."])
    assert tell_story(text) == text
