"""Whatever goes wrong, every request ends exactly once, and no token is computed from KV that is not there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import ALL_MODES, DISAGGREGATED

from kvsim.core.cluster import TransferMode
from kvsim.core.scheduler import Scheduler
from kvsim.fuzz.choices import Choices
from kvsim.fuzz.worlds import random_world


@pytest.mark.parametrize("mode", ALL_MODES)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_no_request_is_lost_whatever_happens(mode: TransferMode, seed: int) -> None:
    played = random_world(mode, Choices(seed))
    played.play()
    assert len(played.ends) == 20


@pytest.mark.parametrize("mode", [*DISAGGREGATED, "adaptive"])
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_no_request_is_lost_while_workers_change_their_roles(mode: TransferMode, seed: int) -> None:
    """Workers are lost, leave and come back in every state of a change, and so do reports of it."""
    played = random_world(mode, Choices(seed), roles=True)
    played.play()
    assert len(played.ends) == 20


@pytest.mark.parametrize("mode", ALL_MODES)
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_no_request_is_lost_and_no_rule_broken_where_kv_must_stay(mode: TransferMode, seed: int) -> None:
    """The world and the laws of the scheduler both look at every order."""
    played = random_world(mode, Choices(seed), rules=True)
    played.play()
    assert len(played.ends) == 20


@pytest.mark.parametrize("mode", DISAGGREGATED)
def test_random_worlds_do_change_roles(mode: TransferMode) -> None:
    worlds = [random_world(mode, Choices(seed), roles=True) for seed in range(20)]
    for played in worlds:
        played.play()
    assert sum(played.ground.attendance.switched for played in worlds) > 8


@pytest.mark.parametrize("mode", ALL_MODES)
def test_the_record_of_a_run_with_faults_replays_identically(mode: TransferMode) -> None:
    played = random_world(mode, Choices(1), requests=60)
    played.play()
    again = Scheduler(played.spec)
    for record in played.records:
        assert tuple(again.handle(record.now_ns, record.events)) == record.commands
