"""Tokens and blocks against a naive account, over random runs that are reported in one go or step by step.

A toy engine plays random choices on one colocated worker and keeps, beside the record, a list of every token's instant
and of every block's life. The metrics must find the same from the record alone.
"""

import json
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metrics_records import (
    WAKE,
    advanced,
    arrived,
    assign,
    at,
    cluster_of,
    decode,
    prefill,
    prefill_done,
    release,
    stop,
)

from kvsim.core.messages import Command, DecodeAdvanced, Event, Record
from kvsim.metrics import RunColumns, collect, intervals, stage_durations, summarise
from kvsim.metrics.distribution import exact_dot
from kvsim.metrics.intervals import expand_steps, token_gaps

CLUSTER = cluster_of("colocated", mode="colocated")
BLOCK_TOKENS = CLUSTER.kv.block_tokens


@dataclass
class Block:
    reserved_ns: int
    filled_ns: int = -1
    released_ns: int = -1


@dataclass
class Toy:
    """One colocated worker. ``fused``: a decode run of k steps is one command and one report, otherwise k of each."""

    fused: bool
    now_ns: int = 0
    runs: int = 0
    preemptions: int = 0
    prompts: list[int] = field(default_factory=list)
    tokens_ns: list[list[int]] = field(default_factory=list)
    blocks: list[list[Block]] = field(default_factory=list)
    members: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def note(self, events: list[Event], commands: list[Command]) -> None:
        self.records.append(at(self.now_ns, events, commands))

    def prefill(self, prompt_tokens: int, duration_ns: int, mixed: bool) -> None:
        """Prefill who lost its blocks, or else somebody new; with ``mixed`` the others decode a token in the step."""
        self.runs += 1
        event: Event = WAKE
        if self.waiting:
            request = self.waiting.pop(0)
        else:
            request = len(self.prompts)
            self.prompts.append(prompt_tokens)
            self.tokens_ns.append([])
            self.blocks.append([])
            event = arrived(request, prompt_tokens)
        context = self.prompts[request] + len(self.tokens_ns[request])
        count = -(-context // BLOCK_TOKENS)
        decoding = self.members if mixed else []
        run = prefill(0, self.runs, request, tokens=context, decoding=decoding)
        self.note([event], [assign(0, request, count), run])
        new = [Block(self.now_ns) for _ in range(count)]
        self.blocks[request] += new
        self.now_ns += duration_ns
        for block in new:
            block.filled_ns = self.now_ns
        self.tokens(decoding)
        self.tokens_ns[request].append(self.now_ns)
        self.members.append(request)
        self.note([prefill_done(0, self.runs)], [])

    def decode(self, steps: int, first_ns: int, growth_ns: int, finishes: int | None) -> None:
        """``steps`` steps for all members, of whom one finishes with the last, if ``finishes`` says so."""
        if not self.members:
            return
        leaving = [] if finishes is None else [self.members[finishes % len(self.members)]]
        if self.fused:
            self.runs += 1
            self.note([WAKE], [decode(0, self.runs, self.members, steps)])
        for step in range(steps):
            if not self.fused:
                self.runs += 1
                self.note([WAKE], [decode(0, self.runs, self.members, 1)])
            self.now_ns += first_ns + step * growth_ns
            self.tokens(self.members)
            if not self.fused:
                finished = leaving if step == steps - 1 else []
                duration_ns = first_ns + step * growth_ns
                self.report(advanced(0, self.runs, 1, duration_ns, finished=finished), finished)
        if self.fused:
            self.report(advanced(0, self.runs, steps, first_ns, growth_ns, finished=leaving), leaving)

    def report(self, event: DecodeAdvanced, finished: list[int]) -> None:
        commands: list[Command] = []
        for request in finished:
            self.leave(request)
            commands += [release(0, request), stop(request)]
        self.note([event], commands)

    def preempt(self) -> None:
        if self.members:
            request = self.members[-1]
            self.leave(request)
            self.waiting.append(request)
            self.preemptions += 1
            self.note([WAKE], [release(0, request)])

    def leave(self, request: int) -> None:
        self.members.remove(request)
        for block in self.blocks[request]:
            if block.released_ns < 0:
                block.released_ns = self.now_ns

    def tokens(self, requests: list[int]) -> None:
        """One more token each: the step wrote the KV of the one before it."""
        for request in requests:
            position = self.prompts[request] + len(self.tokens_ns[request]) - 1
            if position % BLOCK_TOKENS == 0:
                self.blocks[request].append(Block(self.now_ns, self.now_ns))
            self.tokens_ns[request].append(self.now_ns)

    def end(self) -> RunColumns:
        self.decode(1, 5, 0, None)
        while self.members:
            self.decode(2, 7, 1, 0)
        self.note([WAKE], [])
        return collect(CLUSTER, self.records)


Choice = tuple[str, int, int, int]
CHOICES = st.lists(
    st.tuples(
        st.sampled_from(["prefill", "mixed", "decode", "finish", "preempt"]),
        st.integers(1, 12),
        st.integers(1, 50),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=25,
)


def play(choices: list[Choice], fused: bool) -> tuple[Toy, RunColumns]:
    toy = Toy(fused)
    toy.prefill(5, 10, mixed=False)
    for action, number, duration_ns, small in choices:
        if action in ("prefill", "mixed"):
            toy.prefill(number, duration_ns, mixed=action == "mixed")
        elif action == "preempt":
            toy.preempt()
        else:
            toy.decode(number, duration_ns, small, small if action == "finish" else None)
    return toy, toy.end()


@given(CHOICES)
def test_every_gap_between_tokens_is_found(choices: list[Choice]) -> None:
    toy, columns = play(choices, fused=True)
    assert columns.requests.output_tokens.tolist() == [len(tokens) for tokens in toy.tokens_ns]
    assert columns.requests.last_token_ns.tolist() == [tokens[-1] for tokens in toy.tokens_ns]
    assert int(columns.requests.preemptions.sum()) == toy.preemptions
    everybody = np.ones(len(toy.prompts), dtype=np.bool_)
    values, weights = token_gaps(columns, everybody, "prefill")
    expected = [b - a for tokens in toy.tokens_ns for a, b in pairwise(tokens)]
    assert sorted(np.repeat(values, weights).tolist()) == sorted(expected)


@given(CHOICES)
def test_gaps_of_chosen_requests_leave_the_others_out(choices: list[Choice]) -> None:
    toy, columns = play(choices, fused=True)
    values, weights = token_gaps(columns, columns.requests.finished, "prefill")
    finished = [tokens for row, tokens in enumerate(toy.tokens_ns) if columns.requests.finished[row]]
    assert exact_dot(values, weights) == sum(tokens[-1] - tokens[0] for tokens in finished)
    assert weights.sum() == sum(len(tokens) - 1 for tokens in finished)


@given(CHOICES)
def test_blocks_are_reserved_and_filled_as_each_block_was(choices: list[Choice]) -> None:
    toy, columns = play(choices, fused=True)
    blocks = [block for of_request in toy.blocks for block in of_request]
    end_ns = columns.end_ns
    alive_ns = sum((end_ns if block.released_ns < 0 else block.released_ns) - block.reserved_ns for block in blocks)
    unfilled_ns = sum(block.filled_ns - block.reserved_ns for block in blocks)
    filled, grown = columns.memory.filled, columns.memory.grown
    reserved_ns = sum(exact_dot(end_ns - part.at_ns, part.amount) for part in columns.memory.reserved_parts)
    filled_layers_ns = exact_dot(end_ns - filled.at_ns, filled.amount)
    filled_layers_ns += exact_dot(end_ns - grown.at_ns, grown.amount) * CLUSTER.kv.layers
    assert reserved_ns == alive_ns
    assert reserved_ns * CLUSTER.kv.layers - filled_layers_ns == unfilled_ns * CLUSTER.kv.layers


@given(CHOICES)
def test_the_stages_of_a_request_partition_its_time(choices: list[Choice]) -> None:
    _, columns = play(choices, fused=True)
    finished = columns.requests.finished
    durations = np.array(list(stage_durations(columns.requests).values()))[:, finished]
    assert (durations >= 0).all()
    e2e_ns = (columns.requests.finished_ns - columns.requests.arrival_ns)[finished]
    assert durations.sum(axis=0).tolist() == e2e_ns.tolist()


@given(CHOICES)
def test_runs_in_one_go_and_step_by_step_give_the_same_summary(choices: list[Choice]) -> None:
    texts = [
        json.dumps(summarise(columns, CLUSTER, [1e9], slo_ttft_ns=40, slo_tpot_ns=20, first_token="prefill"))
        for _, columns in (play(choices, fused=True), play(choices, fused=False))
    ]
    assert texts[0] == texts[1]


@given(CHOICES)
def test_runs_in_one_go_and_step_by_step_give_the_same_instants(choices: list[Choice]) -> None:
    (_, fused), (_, stepwise) = play(choices, fused=True), play(choices, fused=False)
    np.testing.assert_array_equal(fused.steps.end_ns, stepwise.steps.end_ns)
    np.testing.assert_array_equal(fused.spans.first_ns, stepwise.spans.first_ns)
    np.testing.assert_array_equal(fused.spans.last_ns, stepwise.spans.last_ns)
    np.testing.assert_array_equal(fused.requests.decode_start_ns, stepwise.requests.decode_start_ns)


@given(CHOICES, st.integers(1, 7))
def test_steps_worked_out_in_small_pieces_are_the_same(choices: list[Choice], piece_steps: int) -> None:
    _, whole = play(choices, fused=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "PIECE_STEPS", piece_steps)
        _, pieces = play(choices, fused=True)
    for name in ("worker", "end_ns", "duration_ns", "mixed"):
        assert getattr(pieces.steps, name).tolist() == getattr(whole.steps, name).tolist()


def test_steps_of_more_than_two_seconds_keep_their_duration() -> None:
    short = [0, 10, 5_000_000, 0, 0, 2, 0]  # two steps of 5 ns that end at 10 ns
    long = [0, 3_000_000_010, 3_000_000_000_000_000, 0, 0, 1, 0]
    steps = expand_steps(np.array([short, long]).T, workers=1)
    assert steps.duration_ns.tolist() == [5, 5, 3_000_000_000]
    assert steps.end_ns.tolist() == [5, 10, 3_000_000_010]
    assert expand_steps(np.array([short]).T, workers=1).duration_ns.itemsize == 4
