"""Step times from tables of kernels, against sums worked out by hand; and runs over several pieces of a line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from worlds import MODEL, NIC, cluster, run, with_steps_max, workload

from kvsim.core.cluster import ClusterSpec
from kvsim.sim.hardware import GpuSpec, Hardware, LayerTables, MessageSpec, WorkerHardware
from kvsim.sim.layer_steps import LayerSteps
from kvsim.sim.step_times import UNBOUNDED

US = 10**9  # femtoseconds

# chunks of 16 and 32 tokens behind 0 or 16 others; 1, 2 or 4 decoding requests with 16, 32 or 128 tokens each
TABLES = LayerTables(
    name="tables",
    tokens=(1, 2, 4, 64),
    dense_us=(100.0, 110.0, 130.0, 730.0),
    sequences=(1, 4),
    sequences_us=(50.0, 80.0),
    chunk_tokens=(16, 32),
    past_tokens=(0, 16),
    decodes=(1, 2, 4),
    context_tokens=(16, 32, 128),
    prefill_us=(10.0, 14.0, 20.0, 28.0),
    decode_us=(5.0, 7.0, 31.0, 6.0, 10.0, 58.0, 8.0, 16.0, 112.0),
    mixed_us=tuple(
        alone + decodes * rise
        for alone in (10.0, 14.0, 20.0, 28.0)
        for decodes in (1, 2, 4)
        for rise in (1.0, 2.0, 8.0)
    ),
    mixed_decodes_max=2,
    between_steps_ns=1_000,
)


def steps(tables: LayerTables = TABLES, gpu: GpuSpec | None = None, ranks: int = 1) -> LayerSteps:
    return LayerSteps(tables, MODEL, gpu, ranks)


def decode_fs(model: LayerSteps, requests: int, context_tokens: int) -> int:
    base_fs, token_fs, end = model.decode_piece(requests, context_tokens)
    assert context_tokens < end
    return base_fs + token_fs * context_tokens


@pytest.mark.parametrize(
    ("requests", "context_tokens", "us"),
    [
        (1, 16, 100 + 50 + 5 + 1),
        (1, 24, 100 + 50 + 6 + 1),  # half way from 5 to 7
        (2, 2 * 32, 110 + 60 + 10 + 1),
        (4, 4 * 80, 130 + 80 + 64 + 1),  # half way from 16 to 112
        (3, 3 * 32, 120 + 70 + 13 + 1),  # half way between 2 and 4 requests, and between 10 and 16
        (1, 224, 100 + 50 + 55 + 1),  # beyond the last on the same line
    ],
)
def test_a_decode_step_is_the_sum_of_its_kernels(requests: int, context_tokens: int, us: int) -> None:
    assert decode_fs(steps(), requests, context_tokens) == us * US


def test_a_line_holds_up_to_the_next_entry_and_the_last_one_for_ever() -> None:
    model = steps()
    assert model.decode_piece(2, 40)[2] == 2 * 32
    assert model.decode_piece(2, 64)[2] == UNBOUNDED
    assert model.decode_piece(2, 20_000)[2] == UNBOUNDED


def test_more_context_is_never_cheaper_even_if_measurements_say_so() -> None:
    noisy = replace(TABLES, decode_us=(5.0, 4.0, 31.0, 6.0, 10.0, 58.0, 8.0, 16.0, 112.0))
    assert decode_fs(steps(noisy), 1, 16) == decode_fs(steps(noisy), 1, 31) == 156 * US


@pytest.mark.parametrize(
    ("chunks", "decodes", "context_tokens", "us"),
    [
        ([(0, 16)], 0, 0, 250 + 50 + 10 + 1),
        ([(8, 24)], 0, 0, 330 + 50 + 18 + 1),  # in the middle of 10, 14, 20 and 28
        ([(0, 16), (16, 16)], 0, 0, 410 + 60 + 10 + 14 - 10 + 1),  # one launch, which a chunk of 16 takes
        ([(0, 16)], 2, 2 * 32, 270 + 70 + (10 + 2 * 2) + 1),
        ([(0, 16), (0, 32)], 1, 16, 580 + 70 + 10 + 20 - 10 + 1 + 1),  # the largest chunk has the decode beside it
    ],
)
def test_a_step_with_chunks_adds_up(chunks: list[tuple[int, int]], decodes: int, context_tokens: int, us: int) -> None:
    assert steps().prefill_ns(chunks, decodes, context_tokens) == us * 1_000


def test_a_step_without_chunks_is_a_decode_step() -> None:
    model = steps()
    assert model.prefill_ns([], 3, 96) == decode_fs(model, 3, 96) // 10**6


def test_all_reduces_come_on_top_with_several_gpus() -> None:
    gpu = GpuSpec("g", 1e12, 10**9, 1e11, 0.5, 0.5, 0.5, 0.5, 1e9, 7_000, 0, 0)
    reduced_fs = decode_fs(steps(gpu=gpu, ranks=2), 1, 16) - decode_fs(steps(), 1, 16)
    # 2 for each of 4 layers: 7 us, and 256 elements of 2 bytes, once to and fro, at 1 GB/s
    assert reduced_fs == 2 * 4 * (7_000_000_000 + 512_000_000)


def test_only_what_went_beyond_the_tables_is_told() -> None:
    model = steps()
    model.prefill_ns([(0, 16)], 2, 64)
    assert model.notes(0) == []
    model.prefill_ns([(0, 40)], 3, 96)
    notes = model.notes(0)
    assert [note.split(" went ")[0] for note in notes] == ["tokens of a chunk", "requests that decode beside a chunk"]
    assert notes[0] == "tokens of a chunk went up to 40, profile tables measured 1 to 32: extrapolated"


def world(spec: ClusterSpec) -> Hardware:
    worker = WorkerHardware(None, 1, NIC, 1, None, layers=TABLES)
    return Hardware(MODEL, (worker,) * len(spec.workers), (), MessageSpec(1, 0, 0.5), 0)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(1, 60), st.integers(1, 200)), min_size=1, max_size=8).map(
        sorted
    ),
    st.sampled_from(["colocated", "pull"]),
)
def test_a_run_over_several_pieces_is_the_same_step_by_step(requests: list[tuple[int, int, int]], mode: str) -> None:
    spec = cluster(mode, kv_blocks=60)  # type: ignore[arg-type]
    fused, _ = run(spec, workload(requests), world(spec))
    stepwise, _ = run(with_steps_max(spec, 1), workload(requests), world(spec))
    assert fused.requests.finished_ns.tolist() == stepwise.requests.finished_ns.tolist()
    assert fused.steps.end_ns.tolist() == stepwise.steps.end_ns.tolist()
