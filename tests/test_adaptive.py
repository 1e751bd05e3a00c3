"""Transfer mode adaptive: what it learns, what it knows of links, what it chooses."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from worlds import GPU, NIC, cluster, hardware, run, slower, workload

from kvsim.core.cluster import ClusterSpec, PlacementRule, PolicySpec, SharedLink
from kvsim.core.links import LinkLoads
from kvsim.core.messages import ChooseMode, Record, RequestId, RunPrefill, StartTransfer, WorkerId
from kvsim.core.observed import WINDOW_TOKENS, OutputLengths, Pace
from kvsim.core.placement import choose_near
from kvsim.metrics.columns import SERVING_MODES, RunColumns

GIGABYTE = 10**9


def adaptive(**arguments: int) -> ClusterSpec:
    policy = PolicySpec("adaptive", layers_per_group=1, decode_placement="link_aware")
    return cluster("adaptive", policy=policy, link_bytes_per_s=GIGABYTE, **arguments)


def choices(records: list[Record]) -> list[ChooseMode]:
    return [command for record in records for command in record.commands if isinstance(command, ChooseMode)]


# --- links ---


def two_sites() -> LinkLoads:
    """Workers 0 and 1 at site a, 2 and 3 at site b; a gigabyte a second each, a tenth of it between the sites."""
    spec = adaptive(prefill=2, decode=2)
    workers = [msgspec.structs.replace(worker, uplink="a" if worker.id < 2 else "b") for worker in spec.workers]
    uplinks = (SharedLink("a", GIGABYTE // 10), SharedLink("b", GIGABYTE // 10))
    return LinkLoads(ClusterSpec(spec.kv, tuple(workers), spec.policy, uplinks))


def test_a_transfer_takes_its_bytes_over_the_slowest_link_on_the_way() -> None:
    links = two_sites()
    assert links.transfer_ns(WorkerId(0), WorkerId(1), 1000) == 1000
    assert links.transfer_ns(WorkerId(0), WorkerId(2), 1000) == 10_000


def test_bytes_that_are_still_to_move_come_first_on_every_link_that_they_pass() -> None:
    links = two_sites()
    links.begin(RequestId(0), WorkerId(0), WorkerId(2), 500)
    assert links.transfer_ns(WorkerId(0), WorkerId(1), 1000) == 1500  # out of worker 0
    assert links.transfer_ns(WorkerId(1), WorkerId(3), 1000) == 15_000  # between the sites
    assert links.transfer_ns(WorkerId(2), WorkerId(0), 1000) == 10_000  # the other way: nothing is in the way
    links.moved(RequestId(0), 400)
    assert links.transfer_ns(WorkerId(1), WorkerId(3), 1000) == 11_000
    links.end(RequestId(0))
    assert links.idle
    assert links.transfer_ns(WorkerId(1), WorkerId(3), 1000) == 10_000


def test_a_link_of_unknown_speed_takes_no_time() -> None:
    links = LinkLoads(cluster("adaptive"))
    assert links.transfer_ns(WorkerId(0), WorkerId(1), 10**12) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 900), st.booleans()), max_size=12))
def test_the_books_of_the_links_balance_whatever_moves(moves: list[tuple[int, int, int, bool]]) -> None:
    links = two_sites()
    for number, (source, target, moved, ends) in enumerate(moves):
        if source != target:
            links.begin(RequestId(number), WorkerId(source), WorkerId(target), 1000)
            links.moved(RequestId(number), moved)
            if ends:
                links.end(RequestId(number))
            links.check()
    for number in range(len(moves)):
        links.end(RequestId(number))
    links.check()
    assert links.idle
    assert links.transfer_ns(WorkerId(0), WorkerId(2), 1000) == 10_000


# --- placement ---


def test_a_worker_behind_a_link_that_is_more_than_twice_as_slow_comes_last_of_those_with_room() -> None:
    near, far = (700_000, WorkerId(0)), (100_000, WorkerId(1))
    assert choose_near([near, far], [100, 201], [0, 0], [1, 1]) == 0
    assert choose_near([near, far], [100, 200], [0, 0], [1, 1]) == 1


def test_a_worker_that_is_far_off_is_worth_the_way_if_it_decodes_so_much_faster() -> None:
    near, far = (700_000, WorkerId(0)), (100_000, WorkerId(1))
    assert choose_near([near, far], [100, 500], [1000, 601], [1, 1]) == 0
    assert choose_near([near, far], [100, 500], [1000, 599], [1, 1]) == 1


def test_a_worker_without_room_comes_after_one_behind_a_slow_link() -> None:
    assert choose_near([(700_000, WorkerId(0)), (100_000, WorkerId(1))], [100, 900], [0, 0], [400_000, 400_000]) == 1


# --- what is learned ---


def test_the_speed_of_a_prefill_is_that_of_the_recent_past() -> None:
    speed = Pace(WINDOW_TOKENS)
    assert speed.duration_ns(1000) == 0
    speed.note(100, 5000)
    assert speed.duration_ns(10) == 500
    for _ in range(8):
        speed.note(WINDOW_TOKENS, WINDOW_TOKENS * 10)  # ten a token from now on
    assert speed.duration_ns(1000) == pytest.approx(10_000, rel=0.01)


def test_the_mean_output_is_that_of_finished_requests() -> None:
    outputs = OutputLengths()
    assert outputs.mean_tokens == 0
    outputs.note(10)
    outputs.note(21)
    assert outputs.mean_tokens == 15


# --- what is chosen ---


def test_with_memory_to_spare_a_request_is_pushed() -> None:
    columns, records = run(adaptive(), workload([(0, 100, 5)]))
    assert [(choice.mode, choice.why) for choice in choices(records)] == [("push", "memory_free")]
    assert columns.requests.mode.tolist() == [SERVING_MODES.index("push")]
    kinds = [command.kind for record in records for command in record.commands if isinstance(command, StartTransfer)]
    assert set(kinds) == {"push"}


def test_a_prompt_behind_a_long_queue_is_computed_on_an_idle_decode_worker_without_a_transfer() -> None:
    """The first shows how fast a prefill is; then four come at once, and 400 tokens wait for the prefill worker."""
    load = workload([(0, 100, 1), *[(50_000_000, 200, 4)] * 4])
    columns, records = run(adaptive(batch_requests_max=1), load)
    local = [choice for choice in choices(records) if choice.mode == "local"]
    assert {choice.why for choice in local} == {"local_sooner"}
    for choice in local:
        assert choice.queue_ns + choice.prefill_ns > 0
        moved = [
            command
            for record in records
            for command in record.commands
            if isinstance(command, StartTransfer) and command.request == choice.request
        ]
        assert not moved
    assert columns.requests.finished.all()
    assert 0 < len(local) < 4


def test_a_decode_worker_computes_a_prompt_beside_those_that_decode() -> None:
    """Without prefill workers the decode workers do it all."""
    spec = adaptive()
    away = msgspec.structs.replace(spec.workers[0], present=False)
    spec = ClusterSpec(spec.kv, (away, *spec.workers[1:]), spec.policy)
    columns, records = run(spec, workload([(0, 100, 50), (1_000_000, 90, 9)]))
    assert [choice.why for choice in choices(records)] == ["no_prefill_worker"] * 2
    mixed = [c for record in records for c in record.commands if isinstance(c, RunPrefill) and c.decoding]
    assert [chunk.request for command in mixed for chunk in command.chunks] == [1]
    assert columns.requests.output_tokens.tolist() == [50, 9]
    assert columns.requests.prefill_worker.tolist() == columns.requests.decode_worker.tolist() == [1, 1]


def test_scarce_memory_is_not_held_through_a_prefill() -> None:
    """Ten requests of two fifths of the decode memory each: one that must wait holds nothing while it is computed, so
    less memory lies reserved and unfilled than with push."""
    load = workload([(index * 200_000, 320, 40) for index in range(10)])
    spec = adaptive(prefill=2, kv_blocks=50)
    columns, records = run(spec, load, hardware(spec, slower(NIC, 1e9)))
    counted = Counter(choice.why for choice in choices(records))
    assert counted["just_in_time"] + counted["memory_scarce"] > 3
    pushed, _ = run(
        ClusterSpec(spec.kv, spec.workers, PolicySpec("push", layers_per_group=1)),
        load,
        hardware(spec, slower(NIC, 1e9)),
    )
    assert unfilled(columns) < unfilled(pushed)


def unfilled(columns: RunColumns) -> int:
    requests = columns.requests
    moved = requests.decode_reserved_ns != -1
    return int((requests.transfer_end_ns - requests.decode_reserved_ns)[moved].sum())


def test_a_slow_prefill_worker_is_known_by_what_it_took() -> None:
    """One prefill worker of two is ten times slower, which its first run shows. The next ones go to the other, although
    both are idle and this one has the lower id."""
    spec = adaptive(prefill=2, decode=1)
    world = hardware(spec)
    slow = replace(world.workers[0], gpu=replace(GPU, flops_per_s=GPU.flops_per_s / 10))
    world = replace(world, workers=(slow, *world.workers[1:]))
    load = workload([(0, 100, 1), (0, 100, 500), *[(100_000_000 * number, 400, 2) for number in (1, 2, 3)]])
    columns, records = run(spec, load, world)
    assert columns.requests.prefill_worker.tolist() == [0, 1, 1, 1, 1]
    took_ns = columns.requests.prefill_end_ns - columns.requests.prefill_start_ns
    assert choices(records)[-1].prefill_ns == pytest.approx(4 * took_ns[1], rel=0.5)  # of the one that it went to


def test_kv_that_must_stay_is_computed_where_it_can_be_decoded_soonest() -> None:
    """Two sites, alike but for their decode workers: that of the first is ten times slower. Once both have been seen,
    all go to the second, although the prefill workers of both are idle."""
    spec = adaptive(prefill=2, decode=2)
    sites = [msgspec.structs.replace(worker, labels=(("site", "ab"[worker.id % 2]),)) for worker in spec.workers]
    policy = msgspec.structs.replace(spec.policy, placement_rules=(PlacementRule("kv", "site"),))
    spec = ClusterSpec(spec.kv, tuple(sites), policy)
    world = hardware(spec)
    slow = replace(world.workers[2], gpu=replace(GPU, memory_bytes_per_s=GPU.memory_bytes_per_s / 10))
    world = replace(world, workers=(*world.workers[:2], slow, world.workers[3]))
    load = workload([(0, 100, 20), (0, 100, 20), *[(1_000_000_000 * number, 100, 20) for number in (1, 2, 3)]])
    columns, _ = run(spec, load, world)
    assert columns.requests.decode_worker.tolist() == [2, 3, 3, 3, 3]
    assert columns.requests.prefill_worker.tolist()[2:] != [0, 0, 0]
