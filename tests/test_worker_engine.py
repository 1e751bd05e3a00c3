"""One worker's computing: what it reports, when a run ends, and which orders it refuses to carry out."""

import numpy as np
import pytest
from hash_model import LAYERS, VOCABULARY, HashModel, hash_token

from backends.control.messages import DecodeStart, Order, Report, RequestTerms
from backends.worker.engine import Engine
from backends.worker.errors import OrderError
from backends.worker.tables import BlockTables
from kvsim.core.messages import (
    AssignBlocks,
    BlockRuns,
    Chunk,
    DecodeAdvanced,
    FinishRequest,
    LayersReady,
    PrefillDone,
    ReleaseBlocks,
    RequestId,
    RunDecode,
    RunId,
    RunPrefill,
    WorkerId,
)

W = WorkerId(3)
A, B = RequestId(0), RequestId(1)
BLOCK_TOKENS = 4


class Bench:
    """An engine with a model of integers, whose clock ticks 10 ns at each look, and everything that it reported."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.layers_computed = 0
        self.clock_ns = 0
        cache = np.full((LAYERS, 2, 20, BLOCK_TOKENS, 1, 1), -1, dtype=np.int64)
        tables = BlockTables(20, BLOCK_TOKENS)
        self.engine = Engine(W, HashModel(cache), tables, self.reports.append, self._tick, self._beat)

    def prefill(self, prompt: list[int], request: RequestId = A, run: int = 0, **changes: object) -> None:
        """Blocks and the whole prompt at once. The table begins at block 3 x request."""
        blocks = -(-len(prompt) // BLOCK_TOKENS)
        self.engine.carry_out(Order(AssignBlocks(W, request, ((5 * request, blocks),))))
        chunk = Chunk(request, 0, len(prompt))
        command = RunPrefill(W, RunId(run), (chunk,), (request,), **changes)  # type: ignore[arg-type]
        self.engine.carry_out(Order(command, (terms(request, prompt),), {request: tuple(prompt)}))

    def decode(self, steps: int, run: int, *batch: RequestId, spare: BlockRuns = ()) -> None:
        self.engine.carry_out(Order(RunDecode(W, RunId(run), batch, steps, spare)))

    def advanced(self) -> list[tuple[int, bool, tuple[RequestId, ...]]]:
        """(steps, ended, finished) of every decode report so far."""
        events = [report.event for report in self.reports]
        return [(event.steps, event.ended, event.finished) for event in events if isinstance(event, DecodeAdvanced)]

    def _tick(self) -> int:
        self.clock_ns += 10
        return self.clock_ns

    def _beat(self) -> None:
        self.layers_computed += 1


def terms(request: RequestId, prompt: list[int], **changes: object) -> RequestTerms:
    return RequestTerms(request, len(prompt), **changes)  # type: ignore[arg-type]


def test_a_prefill_reports_its_layers_but_the_last_and_then_its_token() -> None:
    bench = Bench()
    bench.prefill([5, 6, 7], announce_layers=1)
    assert [report.event for report in bench.reports] == [
        *[LayersReady(W, RunId(0), layers) for layers in (1, 2, 3)],
        PrefillDone(W, RunId(0)),
    ]
    assert bench.reports[-1].tokens == {A: (hash_token([5, 6, 7]),)}
    assert bench.reports[-1].duration_ns == 10
    assert bench.layers_computed == LAYERS


def test_layers_are_announced_in_groups_that_leave_out_the_last_layer() -> None:
    bench = Bench()
    bench.prefill([5], announce_layers=2)
    assert [report.event for report in bench.reports] == [LayersReady(W, RunId(0), 2), PrefillDone(W, RunId(0))]


def test_each_decode_step_is_reported_by_itself_with_its_duration_until_steps_max() -> None:
    bench = Bench()
    bench.prefill([5, 6, 7])
    bench.decode(2, 1, A, spare=((9, 1),))
    while bench.engine.decoding:
        bench.engine.step()
    first = hash_token([5, 6, 7])
    second = hash_token([5, 6, 7, first])
    assert bench.reports[1] == Report(DecodeAdvanced(W, RunId(1), 1, 10_000_000, 0, False), {A: (second,)}, 10)
    assert bench.advanced() == [(1, False, ()), (1, True, ())]
    assert bench.engine.tables.table(A) == [0, 9], "the fifth token took the spare block"


def test_a_run_ends_with_the_step_in_which_a_request_ends() -> None:
    bench = Bench()
    bench.prefill([1, 2], A)
    bench.engine.carry_out(Order(AssignBlocks(W, B, ((5, 1),))))
    command = RunPrefill(W, RunId(1), (Chunk(B, 0, 1),), (B,))
    bench.engine.carry_out(Order(command, (terms(B, [9], output_tokens=3),), {B: (9,)}))
    bench.decode(10, 2, A, B, spare=((9, 4),))
    while bench.engine.decoding:
        bench.engine.step()
    assert bench.advanced() == [(1, False, ()), (1, True, (B,))]


def test_a_stop_token_ends_an_output_and_is_ignored_where_the_length_is_given() -> None:
    token = hash_token([5, 6, 7])
    for output_tokens, finished in ((None, (A,)), (2, ())):
        bench = Bench()
        bench.engine.carry_out(Order(AssignBlocks(W, A, ((0, 1),))))
        what = terms(A, [5, 6, 7], stop_tokens=(token,), output_tokens=output_tokens)
        bench.engine.carry_out(Order(RunPrefill(W, RunId(0), (Chunk(A, 0, 3),), (A,)), (what,), {A: (5, 6, 7)}))
        assert bench.reports[-1].event == PrefillDone(W, RunId(0), finished)


def test_a_cut_ends_the_run_at_the_boundary_at_which_it_is_seen() -> None:
    bench = Bench()
    bench.prefill([5])
    bench.decode(10, 1, A, spare=((9, 4),))
    bench.engine.step()
    bench.engine.cut(RunId(1))
    bench.engine.step()
    assert bench.advanced() == [(1, False, ()), (0, True, ())]
    assert not bench.engine.decoding


def test_a_cut_that_comes_before_its_run_is_not_lost_and_one_of_a_run_that_is_over_is() -> None:
    bench = Bench()
    bench.prefill([5])
    bench.engine.cut(RunId(1))
    bench.decode(10, 1, A)
    bench.engine.step()
    assert bench.advanced() == [(0, True, ())]
    bench.decode(2, 2, A)
    bench.engine.step()
    bench.engine.cut(RunId(1))
    bench.engine.step()
    assert bench.advanced()[1:] == [(1, False, ()), (1, True, ())]


def test_a_request_that_comes_from_elsewhere_goes_on_with_the_token_it_is_told() -> None:
    source, target = Bench(), Bench()
    source.prefill([5, 6, 7])
    first = hash_token([5, 6, 7])
    target.prefill([5, 6, 7])  # stands for the transfer: the same tokens in the same blocks
    target.engine.carry_out(Order(ReleaseBlocks(W, A)))
    assert len(target.engine.generations) == 0
    target.engine.carry_out(Order(AssignBlocks(W, A, ((0, 1),))))
    start = DecodeStart(A, 3, first)
    target.engine.carry_out(Order(RunDecode(W, RunId(1), (A,), 1), (terms(A, [5, 6, 7]),), starts=(start,)))
    target.engine.step()
    assert target.reports[-1].tokens == {A: (hash_token([5, 6, 7, first]),)}


def test_a_mixed_step_computes_chunks_beside_the_tokens_of_those_that_decode() -> None:
    bench = Bench()
    bench.prefill([5, 6, 7, 8], A)
    bench.engine.carry_out(Order(AssignBlocks(W, B, ((5, 1),))))
    command = RunPrefill(W, RunId(1), (Chunk(B, 0, 2),), (), (A,), ((9, 1),))
    bench.engine.carry_out(Order(command, (terms(B, [1, 2, 3]),), {B: (1, 2)}))
    first = hash_token([5, 6, 7, 8])
    assert bench.reports[-1] == Report(PrefillDone(W, RunId(1)), {A: (hash_token([5, 6, 7, 8, first]),)}, 10)
    assert bench.engine.tables.table(A) == [0, 9]
    bench.engine.carry_out(Order(RunPrefill(W, RunId(2), (Chunk(B, 2, 1),), (B,)), (), {B: (3,)}))
    assert bench.reports[-1].tokens == {B: (hash_token([1, 2, 3]),)}


def test_orders_that_contradict_what_the_worker_holds_are_refused() -> None:
    bench = Bench()
    bench.prefill([5, 6, 7])
    bench.engine.carry_out(Order(AssignBlocks(W, B, ((5, 1),))))
    known = terms(B, [1, 2])
    refused = {
        "never described": Order(RunPrefill(W, RunId(1), (Chunk(B, 0, 1),), (B,)), (), {B: (1,)}),
        "newest token is not known": Order(RunDecode(W, RunId(1), (B,), 1), (known,)),
        "no blocks for 9 tokens": Order(RunPrefill(W, RunId(1), (Chunk(A, 0, 9),), (A,)), (), {A: tuple(range(9))}),
        "2 token ids for": Order(RunPrefill(W, RunId(1), (Chunk(A, 0, 3),), (A,)), (), {A: (1, 2)}),
        "decodes at 1 of 2": Order(RunDecode(W, RunId(1), (B,), 1), (known,), starts=(DecodeStart(B, 1, 0),)),
        "0 steps of 1": Order(RunDecode(W, RunId(1), (A,), 0)),
        "nothing to compute": Order(FinishRequest(A, "stop")),
    }
    for words, order in refused.items():
        with pytest.raises(OrderError, match=words):
            bench.engine.carry_out(order)
    bench.decode(1, 5, A)
    with pytest.raises(OrderError, match="ReleaseBlocks during run 5"):
        bench.engine.carry_out(Order(ReleaseBlocks(W, B)))


def test_a_token_is_within_the_vocabulary() -> None:
    assert 0 <= hash_token([VOCABULARY - 1] * 50) < VOCABULARY
