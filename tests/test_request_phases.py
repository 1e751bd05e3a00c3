"""The table of phases: what it allows, what it forbids, and the ways through it that each mode takes."""

import pytest
from worlds import ALL_MODES, DISAGGREGATED, MODES, cluster, run, workload

import kvsim.core.request
from kvsim.core.cluster import PolicySpec, TransferMode
from kvsim.core.messages import Request, RequestId, WorkerId
from kvsim.core.request import NEXT_PHASES, Phase, RequestState
from kvsim.fuzz.choices import Choices
from kvsim.fuzz.worlds import random_world

CHANGES = {(before, after) for before, nexts in NEXT_PHASES.items() for after in nexts}
"""Allowed by the table, made by no run: a request that cannot be served is rejected before it has a state."""

PLAIN: dict[TransferMode, list[Phase]] = {
    "push": [
        Phase.WAITING_MEMORY,
        Phase.WAITING_PREFILL,
        Phase.PREFILLING,
        Phase.TRANSFERRING,
        Phase.WAITING_DECODE,
        Phase.DECODING,
        Phase.FINISHED,
    ],
    "pull": [
        Phase.WAITING_PREFILL,
        Phase.PREFILLING,
        Phase.WAITING_MEMORY,
        Phase.TRANSFERRING,
        Phase.WAITING_DECODE,
        Phase.DECODING,
        Phase.FINISHED,
    ],
    "streamed": [
        Phase.WAITING_PREFILL,
        Phase.PREFILLING,
        Phase.TRANSFERRING,
        Phase.WAITING_DECODE,
        Phase.DECODING,
        Phase.FINISHED,
    ],
    "colocated": [Phase.WAITING_PREFILL, Phase.PREFILLING, Phase.DECODING, Phase.FINISHED],
}
PLAIN["message"] = PLAIN["pull"]


class Watch:
    """Every change of phase of every request, in order."""

    def __init__(self) -> None:
        self.changes: list[tuple[RequestId, Phase, Phase]] = []

    def of(self, request: int) -> list[Phase]:
        """The phases that the request entered."""
        return [after for changed, _, after in self.changes if changed == request]

    def kinds(self) -> set[tuple[Phase, Phase]]:
        """From which phase to which, whatever the request."""
        return {(before, after) for _, before, after in self.changes}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    if not str(kvsim.core.request.__file__).endswith(".py"):
        pytest.skip("a compiled method cannot be watched; 'python -m pytest' in the checkout can")
    watch = Watch()
    enter = RequestState.enter

    def watched(state: RequestState, phase: Phase) -> None:
        before = state.phase
        enter(state, phase)
        watch.changes.append((state.request.id, before, phase))

    monkeypatch.setattr(RequestState, "enter", watched)
    return watch


def state_in(phase: Phase) -> RequestState:
    state = RequestState(Request(RequestId(0), 1, 1), phase, generated_max=1)
    state.prefill_worker = WorkerId(0)
    return state


def test_the_table_says_something_of_every_phase() -> None:
    assert list(NEXT_PHASES) == list(Phase)
    for nexts in NEXT_PHASES.values():
        assert len(set(nexts)) == len(nexts)


def test_every_phase_can_be_reached_and_every_one_can_reach_the_end() -> None:
    reached = [Phase.ARRIVED]
    for phase in reached:
        reached += [after for after in NEXT_PHASES[phase] if after not in reached]
    assert set(reached) == set(Phase)
    ending = {Phase.FINISHED}
    for _ in Phase:
        ending |= {before for before, after in CHANGES if after in ending}
    assert ending == set(Phase)


def test_finished_is_final_and_the_only_end() -> None:
    assert [phase for phase, nexts in NEXT_PHASES.items() if not nexts] == [Phase.FINISHED]


def test_nothing_returns_to_arrived() -> None:
    assert not [before for before, after in CHANGES if after is Phase.ARRIVED]


@pytest.mark.parametrize("after", Phase)
@pytest.mark.parametrize("before", Phase)
def test_a_change_is_made_if_the_table_has_it_and_asserted_if_not(before: Phase, after: Phase) -> None:
    state = state_in(before)
    if (before, after) in CHANGES:
        state.enter(after)
        assert state.phase is after
    else:
        with pytest.raises(AssertionError, match="request 0: "):
            state.enter(after)
        assert state.phase is before


@pytest.mark.parametrize("mode", MODES)
def test_a_plain_request_goes_the_way_of_its_mode(mode: TransferMode, watch: Watch) -> None:
    run(cluster(mode), workload([(0, 100, 5)]))
    assert watch.of(0) == PLAIN[mode]
    assert watch.changes[0][1] is Phase.ARRIVED


@pytest.mark.parametrize("mode", MODES)
def test_a_request_of_one_token_ends_with_its_prefill(mode: TransferMode, watch: Watch) -> None:
    run(cluster(mode), workload([(0, 100, 1)]))
    assert watch.of(0)[-3:] == [Phase.WAITING_PREFILL, Phase.PREFILLING, Phase.FINISHED]


@pytest.mark.parametrize("mode", DISAGGREGATED)
def test_a_preempted_request_goes_through_its_prefill_again(mode: TransferMode, watch: Watch) -> None:
    """The decode worker holds two prompts but not their growth."""
    run(cluster(mode, kv_blocks=14), workload([(0, 90, 60), (0, 90, 60)]))
    again = [index for index, (_, before, after) in enumerate(watch.changes) if before is Phase.DECODING]
    preempted = [index for index in again if watch.changes[index][2] is not Phase.FINISHED]
    assert len(preempted) == 1
    request, _, after = watch.changes[preempted[0]]
    assert after is (Phase.WAITING_MEMORY if mode == "push" else Phase.WAITING_PREFILL)
    assert watch.of(request).count(Phase.PREFILLING) == 2
    assert watch.of(request)[-1] is Phase.FINISHED


@pytest.mark.parametrize("mode", MODES)
def test_a_request_that_gives_up_waiting_is_finished(mode: TransferMode, watch: Watch) -> None:
    policy = PolicySpec(mode, prefill_wait_max_ns=10)
    prefill = 0 if mode == "colocated" else 1
    run(cluster(mode, prefill=prefill, policy=policy, batch_requests_max=1), workload([(0, 100, 5), (1, 100, 5)]))
    assert watch.of(0) == PLAIN[mode]
    assert watch.of(1)[-2:] == [Phase.WAITING_PREFILL, Phase.FINISHED]


def test_every_change_of_the_table_happens_in_some_run(watch: Watch) -> None:
    """So that the diagram drawn from the table shows nothing that cannot be."""
    crowd = [(index * 100_000, 20 + 7 * index % 70, 1 + 11 * index % 60) for index in range(30)]
    for mode in ALL_MODES:
        for prefill_wait_max_ns in (None, 2_000_000):
            policy = PolicySpec(mode, layers_per_group=1, prefill_wait_max_ns=prefill_wait_max_ns)
            tight = cluster(mode, prefill=0 if mode == "colocated" else 1, kv_blocks=12, policy=policy)
            run(tight, workload(crowd))
            run(cluster(mode, kv_blocks=40, block_tokens=4, policy=policy, batch_tokens_max=16), workload(crowd))
    for seed in range(40):  # as many of them as it takes
        if watch.kinds() == CHANGES:
            break
        for mode in ALL_MODES:
            random_world(mode, Choices(seed)).play()
    assert watch.kinds() == CHANGES
