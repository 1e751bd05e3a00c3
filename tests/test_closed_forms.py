"""Whole simulations against sums and formulas worked out by hand: what no stage may add, lose or hide.

Durations of steps come from ``StepModel``; everything around them (sizes, flows, latencies, order) is spelled out here.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from worlds import (
    DISAGGREGATED,
    GPU,
    MESSAGE,
    MODEL,
    MODES,
    NIC,
    cluster,
    hardware,
    run,
    slower,
    with_steps_max,
    workload,
)

from kvsim.core.cluster import ClusterSpec, PolicySpec, TransferMode
from kvsim.core.descriptors import plan_transfer
from kvsim.core.messages import DecodeAdvanced, Record, ReleaseBlocks, StartTransfer
from kvsim.metrics import STAGES, Collector, RunColumns, stage_durations
from kvsim.sim.compute import StepModel
from kvsim.sim.driver import Simulation
from kvsim.sim.hardware import NicSpec
from kvsim.workload import Workload

STEPS = StepModel(MODEL, GPU, 1)
ARRIVAL_NS, PROMPT_TOKENS, OUTPUT_TOKENS = 1_000, 100, 20
BLOCKS = 7  # 100 tokens in blocks of 16
LAYER_BYTES = BLOCKS * 2 * 16 * 2 * 64 * 2  # K and V, tokens of a block, KV heads, head_dim, bytes of an element
LATENCY_NS = 2_000
PREFILL_NS = STEPS.prefill_ns([(0, PROMPT_TOKENS)], 0, 0)
PREFILLED_NS = ARRIVAL_NS + PREFILL_NS
SLOW = slower(NIC, 5e7)


def decode_ns(context_tokens: int, steps: int) -> int:
    """Steps of one request alone: the first attends to its ``context_tokens`` and to the token that it computes. What a
    step leaves below a nanosecond goes into the next."""
    step_fs, token_fs = STEPS.decode_fs(1)
    return sum(step_fs + token_fs * (context_tokens + 1 + step) for step in range(steps)) // 10**6


def flow_ns(layers: int, nic: NicSpec = NIC) -> int:
    """The bytes of this many layers at the rate of the NIC, which divides them evenly in these tests."""
    duration_ns, rest = divmod(layers * LAYER_BYTES * 10**9, int(nic.rate_bytes_per_s))
    assert rest == 0
    return duration_ns


@dataclass(frozen=True)
class Alone:
    """One request in an empty cluster: its instants, its stages and the transfers that moved it."""

    columns: RunColumns
    records: list[Record]

    def at_ns(self, instant: str) -> int:
        """An instant of the request by its name in the columns."""
        return int(getattr(self.columns.requests, f"{instant}_ns")[0])

    @property
    def transfers(self) -> list[tuple[int, StartTransfer]]:
        """When each transfer was started, and the order."""
        return [(r.now_ns, c) for r in self.records for c in r.commands if isinstance(c, StartTransfer)]

    @property
    def released_ns(self) -> dict[int, int]:
        """When each worker's blocks were freed."""
        return {c.worker: r.now_ns for r in self.records for c in r.commands if isinstance(c, ReleaseBlocks)}

    @property
    def stages_ns(self) -> dict[str, int]:
        """Stages that took time."""
        return {name: int(ns[0]) for name, ns in stage_durations(self.columns.requests).items() if ns[0]}


def alone(spec: ClusterSpec, nic: NicSpec = NIC) -> Alone:
    load = workload([(ARRIVAL_NS, PROMPT_TOKENS, OUTPUT_TOKENS)])
    return Alone(*run(spec, load, hardware(spec, nic)))


def test_the_stages_of_these_tests_have_the_order_of_magnitude_that_they_need() -> None:
    """Both cases of a streamed transfer occur: a group that the rest of the prefill hides, and one that it does not."""
    assert flow_ns(2) + 2 * LATENCY_NS < PREFILL_NS // 2
    assert flow_ns(1, SLOW) > PREFILL_NS


def test_a_pulled_request_alone_prefills_then_reads_then_decodes() -> None:
    request = alone(cluster("pull"))
    arrived_ns = PREFILLED_NS + LATENCY_NS + flow_ns(4) + LATENCY_NS  # the READ travels there, its bytes travel back
    assert request.at_ns("prefill_start") == ARRIVAL_NS
    assert request.at_ns("prefill_end") == PREFILLED_NS
    assert request.at_ns("decode_reserved") == request.at_ns("transfer_start") == PREFILLED_NS
    assert request.at_ns("transfer_end") == request.at_ns("decode_start") == arrived_ns
    assert request.at_ns("finished") == request.at_ns("last_token") == arrived_ns + decode_ns(PROMPT_TOKENS, 19)
    assert request.released_ns == {0: arrived_ns + LATENCY_NS, 1: request.at_ns("finished")}  # COMPLETE travels back
    assert request.stages_ns == {
        "prefill": PREFILL_NS,
        "transfer_exposed": flow_ns(4) + 2 * LATENCY_NS,
        "decode": decode_ns(PROMPT_TOKENS, 19),
    }


def test_a_pushed_request_alone_exposes_only_its_last_group() -> None:
    request = alone(cluster("push"))
    half_ns = ARRIVAL_NS + PREFILL_NS * 2 // 4
    arrived_ns = PREFILLED_NS + flow_ns(2) + LATENCY_NS
    assert request.at_ns("decode_reserved") == ARRIVAL_NS
    assert [at_ns for at_ns, _ in request.transfers] == [half_ns, PREFILLED_NS]
    assert [(c.first_layer, c.layers, c.last) for _, c in request.transfers] == [(0, 2, False), (2, 2, True)]
    assert request.at_ns("transfer_end") == arrived_ns
    assert request.released_ns[0] == arrived_ns + LATENCY_NS  # the acknowledgement of the last WRITE
    assert request.stages_ns == {
        "prefill": PREFILL_NS,
        "transfer_exposed": flow_ns(2) + LATENCY_NS,
        "decode": decode_ns(PROMPT_TOKENS, 19),
    }


def test_a_pushed_group_waits_for_the_one_before_it_on_a_slow_link() -> None:
    request = alone(cluster("push"), SLOW)
    first_ns = ARRIVAL_NS + PREFILL_NS * 2 // 4
    second_ns = first_ns + flow_ns(2, SLOW) + LATENCY_NS
    assert [at_ns for at_ns, _ in request.transfers] == [first_ns, second_ns]
    assert request.at_ns("transfer_end") == second_ns + flow_ns(2, SLOW) + LATENCY_NS


def test_layers_that_become_ready_during_a_transfer_go_together_with_the_next() -> None:
    request = alone(cluster("push", policy=PolicySpec("push", layers_per_group=1)), SLOW)
    first_ns = ARRIVAL_NS + PREFILL_NS * 1 // 4
    second_ns = first_ns + flow_ns(1, SLOW) + LATENCY_NS
    assert [(at_ns, c.first_layer, c.layers) for at_ns, c in request.transfers] == [(first_ns, 0, 1), (second_ns, 1, 3)]
    assert request.at_ns("finished") == second_ns + flow_ns(3, SLOW) + LATENCY_NS + decode_ns(PROMPT_TOKENS, 19)


def test_a_streamed_request_alone_reads_each_group_when_it_is_announced() -> None:
    request = alone(cluster("streamed"))
    half_ns = ARRIVAL_NS + PREFILL_NS * 2 // 4
    arrived_ns = PREFILLED_NS + LATENCY_NS + flow_ns(2) + LATENCY_NS
    assert request.at_ns("decode_reserved") == ARRIVAL_NS  # the prefill starts at once, and with it the reservation
    assert [at_ns for at_ns, _ in request.transfers] == [half_ns, PREFILLED_NS]
    assert {c.kind for _, c in request.transfers} == {"pull"}
    assert request.released_ns[0] == arrived_ns + LATENCY_NS
    assert request.stages_ns == {
        "prefill": PREFILL_NS,
        "transfer_exposed": flow_ns(2) + 2 * LATENCY_NS,
        "decode": decode_ns(PROMPT_TOKENS, 19),
    }


def test_a_message_alone_shakes_hands_gathers_sends_and_scatters() -> None:
    request = alone(cluster("message"))
    rendezvous_ns = MESSAGE.handshakes * 2 * LATENCY_NS + MESSAGE.handshake_ns
    pack_ns = -(-4 * LAYER_BYTES // 25)  # half of 1e11 B/s, as bytes are read and written, at 0.5: 25 bytes a ns
    sent_ns = PREFILLED_NS + rendezvous_ns + pack_ns + flow_ns(4)
    arrived_ns = sent_ns + LATENCY_NS + pack_ns
    assert [(c.layers, c.operations) for _, c in request.transfers] == [(4, 1)]
    assert request.at_ns("transfer_end") == arrived_ns
    assert request.released_ns[0] == sent_ns + 2 * LATENCY_NS
    assert request.at_ns("finished") == arrived_ns + decode_ns(PROMPT_TOKENS, 19)


def test_a_colocated_request_alone_is_computed_in_chunks() -> None:
    request = alone(cluster("colocated", prefill=0, batch_tokens_max=40))
    chunks = [(0, 40), (40, 40), (80, 20)]
    prefill_ns = sum(STEPS.prefill_ns([chunk], 0, 0) for chunk in chunks)
    assert prefill_ns > PREFILL_NS  # weights are read and kernels launched three times
    assert request.transfers == []
    assert request.stages_ns == {"prefill": prefill_ns, "decode": decode_ns(PROMPT_TOKENS, 19)}


@pytest.mark.parametrize("mode", DISAGGREGATED)
def test_a_request_of_one_token_moves_only_what_was_announced_before_its_end(mode: TransferMode) -> None:
    spec = cluster(mode)
    columns, records = run(spec, workload([(ARRIVAL_NS, PROMPT_TOKENS, 1)]))
    request = Alone(columns, records)
    moved = [(c.first_layer, c.layers) for _, c in request.transfers]
    assert moved == ([(0, 2)] if mode in ("push", "streamed") else [])  # what had begun before the end was known
    assert request.at_ns("finished") == PREFILLED_NS
    assert request.stages_ns == {"prefill": PREFILL_NS}


def test_a_transfer_in_small_operations_is_bound_by_posting_them() -> None:
    policy = PolicySpec("pull", allocation="scattered")
    spec = cluster("pull", block_tokens=1, policy=policy)
    request = alone(spec, replace(NIC, operation_ns=10_000))
    (_, command), *_ = request.transfers
    plan = plan_transfer(spec.kv, 1, 1, command.source_blocks, command.target_blocks)
    assert command.operations == plan.operations(0, 4)
    posting_ns = command.operations * 10_000
    assert posting_ns > command.size_bytes, "a byte a nanosecond would be slower"
    assert request.at_ns("transfer_end") - PREFILLED_NS == posting_ns + 2 * LATENCY_NS


@pytest.mark.parametrize(("mode", "latencies"), [("push", 1), ("pull", 2)])
def test_two_equal_flows_into_one_worker_take_twice_as_long(mode: TransferMode, latencies: int) -> None:
    policy = PolicySpec(mode, layers_per_group=4, prefill_placement="round_robin")
    spec = cluster(mode, prefill=2, policy=policy)
    request = (ARRIVAL_NS, PROMPT_TOKENS, OUTPUT_TOKENS)
    columns, _ = run(spec, workload([request, request]))
    requests = columns.requests
    assert requests.prefill_worker.tolist() == [0, 1]
    assert requests.prefill_end_ns.tolist() == [PREFILLED_NS] * 2
    arrived_ns = PREFILLED_NS + 2 * flow_ns(4) + latencies * LATENCY_NS
    assert requests.transfer_end_ns.tolist() == [arrived_ns] * 2


def test_two_flows_into_two_workers_do_not_feel_each_other() -> None:
    spec = cluster("pull", prefill=2, decode=2)
    request = (ARRIVAL_NS, PROMPT_TOKENS, OUTPUT_TOKENS)
    columns, _ = run(spec, workload([request, request]))
    assert sorted(columns.requests.decode_worker.tolist()) == [2, 3]
    assert columns.requests.transfer_end_ns.tolist() == [PREFILLED_NS + flow_ns(4) + 2 * LATENCY_NS] * 2


def test_a_decode_step_costs_more_as_the_context_grows() -> None:
    request = alone(with_steps_max(cluster("pull"), 1))
    steps = [e for record in request.records for e in record.events if isinstance(e, DecodeAdvanced)]
    assert [step.steps for step in steps] == [1] * 19
    growth_fs = {later.first_step_fs - earlier.first_step_fs for earlier, later in pairwise(steps)}
    token_bytes = 4 * 2 * 2 * 64 * 2  # of K and V in all layers
    assert growth_fs == {token_bytes * 10**15 // (10**11 // 2)}  # half of the memory bandwidth
    assert growth_fs == {STEPS.decode_fs(1)[1]}


def test_stages_add_up_to_the_whole() -> None:
    for mode in MODES:
        request = alone(cluster(mode))
        assert set(request.stages_ns) <= set(STAGES)
        assert sum(request.stages_ns.values()) == request.at_ns("finished") - ARRIVAL_NS


def waits_ns(utilisation: float, requests: int) -> NDArray[np.int64]:
    """Time in the prefill queue of Poisson arrivals at one worker that serves one prompt at a time."""
    spec = cluster("pull", batch_requests_max=1)
    gaps_ns = np.random.default_rng(7).exponential(PREFILL_NS / utilisation, requests)
    arrival_ns = np.rint(np.cumsum(gaps_ns)).astype(np.int64)
    prompts, outputs = np.full(requests, PROMPT_TOKENS, np.int64), np.ones(requests, np.int64)
    collector = Collector(spec)
    Simulation(
        spec, hardware(spec), Workload(arrival_ns, prompts, outputs, None, ()), observers=(collector.observe,)
    ).run()
    served = collector.finish().requests
    return served.prefill_start_ns - served.arrival_ns


@pytest.mark.parametrize("utilisation", [0.3, 0.6])
def test_waiting_for_prefill_follows_pollaczek_and_khinchine(utilisation: float) -> None:
    """M/D/1: the mean wait is rho * S / (2 * (1 - rho)) (Pollaczek 1930, Khinchine 1932; e.g. Kleinrock, Queueing
    Systems I, section 5.6). The error of the sample mean is estimated from means of long batches, as successive waits
    depend on each other."""
    waits = waits_ns(utilisation, requests=12_000)
    batch_means = waits.reshape(40, -1).mean(axis=1)
    error_ns = batch_means.std(ddof=1) / np.sqrt(len(batch_means))
    expected_ns = utilisation * PREFILL_NS / (2 * (1 - utilisation))
    assert error_ns < 0.05 * expected_ns, "the sample is too small to say anything"
    assert abs(waits.mean() - expected_ns) < 3.5 * error_ns
