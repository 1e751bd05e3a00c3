"""Attention kernels against a plain computation, written without blocks or batches, over random caches."""

import importlib.util
import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: attention is NOT tested; pip install 'kvsim[engine]'")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, FlexKernelOptions

from backends.model import attention_choice
from backends.model.attention import AttentionKernel, StepAttention, decode_groups, padded_tables
from backends.model.attention_choice import Ground, choose_attention, trial, why_not
from backends.model.attention_flex import FlexPagedAttention
from backends.model.attention_gather import QUERY_TILE, GatherAttention
from backends.model.attention_varlen import VarlenAttention
from backends.model.batch import Batch, SequenceSlice, clear_entered_blocks, flatten
from backends.model.errors import ModelError
from backends.model.kv_cache import PagedKvCache, blocks_needed
from backends.model.presets import model_preset

HEADS, KV_HEADS, DIM = 4, 2, 8
CPU = torch.device("cpu")
Span = tuple[int, int]


def by_head(queries: Tensor, keys: Tensor, values: Tensor, may_see: Tensor) -> Tensor:
    """Softmax attention [tokens, heads, dim] of each head by itself; ``may_see`` is [tokens, keys]."""
    outputs = torch.empty_like(queries)
    shared = queries.shape[1] // keys.shape[1]
    for head in range(queries.shape[1]):
        scores = queries[:, head] @ keys[:, head // shared].T / math.sqrt(queries.shape[2])
        weights = torch.softmax(scores.masked_fill(~may_see, -math.inf), dim=-1)
        outputs[:, head] = weights @ values[:, head // shared]
    return outputs


class World:
    """A batch of slices (first token, new tokens) over a cache of NaN with random numbers where sequences are."""

    def __init__(self, spans: list[Span], block_tokens: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        counts = [blocks_needed(first + new, block_tokens) for first, new in spans]
        order = np.random.default_rng(seed).permutation(sum(counts) + 3)
        self.tables = np.split(order[: sum(counts)], np.cumsum(counts)[:-1])
        shape = (2, 2, len(order), block_tokens, KV_HEADS, DIM)
        self.cache = PagedKvCache(torch.full(shape, math.nan))
        slices = [
            SequenceSlice(first, np.zeros(new, dtype=np.int64), table, wants_logits=False)
            for (first, new), table in zip(spans, self.tables, strict=True)
        ]
        self.batch = flatten(slices, self.cache, vocabulary=1)
        self.past = []
        for (first, new), table in zip(spans, self.tables, strict=True):
            slots = torch.from_numpy(
                np.concatenate([block * block_tokens + np.arange(block_tokens) for block in table])
            )
            keys, values = torch.randn(2, first + new, KV_HEADS, DIM, generator=generator)
            self.past.append((keys, values))
            self.cache.tensor[1, :, table] = 0.0
            self.cache.write(1, slots[: first + new], keys, values)
        self.spans = spans
        self.queries = torch.randn(len(self.batch.token_ids), HEADS, DIM, generator=generator)
        self.keys = torch.cat([keys[first:] for (keys, _), (first, _) in zip(self.past, spans, strict=True)])
        self.values = torch.cat([values[first:] for (_, values), (first, _) in zip(self.past, spans, strict=True)])

    def expected(self) -> Tensor:
        outputs = []
        for index, (first, new) in enumerate(self.spans):
            rows = self.queries[self.batch.starts[index] : self.batch.starts[index + 1]]
            may_see = torch.arange(first + new) <= torch.arange(first, first + new)[:, None]
            outputs.append(by_head(rows, *self.past[index], may_see))
        return torch.cat(outputs)

    def found(self, kernel: AttentionKernel) -> Tensor:
        return kernel.prepare(self.batch, self.cache)(1, self.queries, self.keys, self.values)


def flex_by_definition(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    block_mask: BlockMask,
    enable_gqa: bool,
    kernel_options: FlexKernelOptions,
) -> Tensor:
    """What ``flex_attention`` promises: the mask function decides within the blocks that the mask visits."""
    tile, block_tokens = block_mask.BLOCK_SIZE
    assert enable_gqa
    assert (kernel_options["BLOCK_M"], kernel_options["BLOCK_N"]) == (tile, block_tokens)
    outputs = torch.empty_like(query)
    sequences, _, tokens, _ = query.shape
    slots = torch.arange(key.shape[2])
    for sequence in range(sequences):
        may_see = torch.zeros(tokens, len(slots), dtype=torch.bool)
        for token in range(tokens):
            visits = int(block_mask.kv_num_blocks[sequence, 0, token // tile])
            blocks = block_mask.kv_indices[sequence, 0, token // tile, :visits]
            visited = torch.isin(slots // block_tokens, blocks)
            indices = (torch.tensor(sequence), torch.tensor(0), torch.tensor(token), slots)
            may_see[token] = visited & block_mask.mask_mod(*indices)
        seen = may_see.any(dim=0)  # a kernel does not read the others, which may be NaN
        rows = query[sequence].transpose(0, 1)
        keys, values = key[0].transpose(0, 1)[seen], value[0].transpose(0, 1)[seen]
        outputs[sequence] = by_head(rows, keys, values, may_see[:, seen]).transpose(0, 1)
    return outputs


def varlen_by_definition(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: Tensor,
    block_table: Tensor,
) -> Tensor:
    """What ``varlen_attn`` promises: pages by table, ``seqused_k`` keys, causal from the lower right corner."""
    assert cu_seq_k is None
    assert window_size == (-1, 0)
    assert enable_gqa
    assert {cu_seq_q.dtype, seqused_k.dtype, block_table.dtype} == {torch.int32}
    outputs = []
    for sequence, context in enumerate(seqused_k.tolist()):
        rows = query[cu_seq_q[sequence] : cu_seq_q[sequence + 1]]
        assert len(rows) <= max_q
        assert context <= max_k
        keys, values = (pool[block_table[sequence]].flatten(0, 1)[:context] for pool in (key, value))
        may_see = torch.arange(context) <= torch.arange(context - len(rows), context)[:, None]
        outputs.append(by_head(rows, keys, values, may_see))
    return torch.cat(outputs)


KERNELS: dict[str, AttentionKernel] = {
    "gather": GatherAttention(),
    "flex": FlexPagedAttention(flex_by_definition),
    "varlen": VarlenAttention(varlen_by_definition),
}
BATCHES: dict[str, list[Span]] = {
    "one decode": [(12, 1)],
    "decodes of equal context": [(15, 1), (15, 1), (15, 1)],
    "decodes of very different contexts": [(3, 1), (200, 1), (90, 1), (0, 1), (199, 1)],
    "a first chunk": [(0, 40)],
    "a later chunk": [(37, 30)],
    "a later chunk of several tiles": [(10, QUERY_TILE + 44)],
    "everything": [(0, 20), (50, 1), (8, 9), (1, 1), (16, 16), (0, 2), (64, 1)],
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_computes_attention(kernel: str, batch: str) -> None:
    world = World(BATCHES[batch], block_tokens=8)
    torch.testing.assert_close(world.found(KERNELS[kernel]), world.expected(), atol=2e-5, rtol=1e-4)


@settings(max_examples=25)
@given(
    spans=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=6),
    block_tokens=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 99),
)
def test_gather_computes_attention_for_any_batch(spans: list[Span], block_tokens: int, seed: int) -> None:
    world = World(spans, block_tokens, seed)
    torch.testing.assert_close(world.found(GatherAttention()), world.expected(), atol=2e-5, rtol=1e-4)


def test_scratch_room_of_a_large_step_does_not_leak_into_a_small_one() -> None:
    kernel = GatherAttention()
    World([(300, 1), (250, 1)], 8).found(kernel)
    small = World([(5, 1), (9, 4)], 8, seed=1)
    torch.testing.assert_close(small.found(kernel), small.expected(), atol=2e-5, rtol=1e-4)


def test_decodes_are_grouped_by_context_and_prompts_left_out() -> None:
    contexts = np.array([1000, 90, 760, 500, 64, 1000])
    groups = decode_groups(contexts, np.array([1, 1, 1, 1, 1, 7]), block_tokens=16)
    assert [(group.members.tolist(), group.tokens_max) for group in groups] == [
        ([0, 2], 1000),
        ([3], 500),
        ([1, 4], 90),
    ]


def test_shorter_tables_are_filled_with_a_block_of_their_own() -> None:
    world = World([(3, 1), (20, 1)], block_tokens=8)
    padded = padded_tables(world.batch, np.array([0, 1]))
    first = world.tables[0][0]
    assert padded.tolist() == [[first, first, first], world.tables[1].tolist()]


def test_a_block_that_a_sequence_enters_is_cleared_behind_its_tokens() -> None:
    cache = PagedKvCache(torch.full((2, 2, 4, 4, 1, 2), 5.0))
    slices = [
        SequenceSlice(0, [1] * 6, [2, 0], wants_logits=True),  # enters block 0 with 2 tokens
        SequenceSlice(2, [1], [1], wants_logits=True),  # goes on in block 1
        SequenceSlice(4, [1] * 4, [3, 3], wants_logits=True),  # fills what it enters
    ]
    clear_entered_blocks(flatten(slices, cache, vocabulary=2), cache)
    assert bool((cache.tensor[:, :, 0, 2:] == 0).all())
    assert int((cache.tensor == 0).sum()) == 2 * 2 * 2 * 2  # layers, K and V, two slots, dimensions: nothing else


def test_flat_batches_hold_positions_slots_and_rows() -> None:
    cache = PagedKvCache(torch.zeros(1, 2, 9, 4, 1, 2))
    slices = [
        SequenceSlice(3, [7, 8, 9], [5, 2, 6], wants_logits=True),
        SequenceSlice(0, [1], [0], wants_logits=False),
        SequenceSlice(8, [2], [3, 1, 8], wants_logits=True),
    ]
    batch = flatten(slices, cache, vocabulary=10)
    assert batch.token_ids.tolist() == [7, 8, 9, 1, 2]
    assert batch.positions.tolist() == [3, 4, 5, 0, 8]
    assert batch.slots.tolist() == [5 * 4 + 3, 2 * 4, 2 * 4 + 1, 0, 8 * 4]
    assert batch.logit_rows.tolist() == [2, 4]
    assert [table.tolist() for table in batch.tables] == [[5, 2], [0], [3, 1, 8]]
    assert batch.contexts.tolist() == [6, 1, 9]


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        (SequenceSlice(0, [], [0], wants_logits=True), "0 tokens"),
        (SequenceSlice(4, [1], [0], wants_logits=True), "1 blocks of 4 for 5 tokens"),
        (SequenceSlice(0, [1], [9], wants_logits=True), "block ids 9 to 9 of 9"),
        (SequenceSlice(0, [10], [0], wants_logits=True), "token ids 10 to 10 of a vocabulary of 10"),
    ],
)
def test_a_slice_that_its_worker_got_wrong_is_named(part: SequenceSlice, complaint: str) -> None:
    cache = PagedKvCache(torch.zeros(1, 2, 9, 4, 1, 2))
    with pytest.raises(AssertionError, match=complaint):
        flatten([part], cache, vocabulary=10)


# --- the choice of a kernel -------------------------------------------------------------------------------------------

GROUND = Ground(model_preset("tiny"), CPU, torch.float32, 16)


class _Wrong:
    """A kernel that is off by one half."""

    name = "wrong"

    def prepare(self, batch: Batch, cache: PagedKvCache) -> StepAttention:
        right = GatherAttention().prepare(batch, cache)
        return lambda layer, queries, keys, values: right(layer, queries, keys, values) + 0.5


class _Broken:
    """A kernel that does not compile."""

    name = "broken"

    def prepare(self, batch: Batch, cache: PagedKvCache) -> StepAttention:
        raise RuntimeError(f"no compiler for {len(batch.tables)} sequences on {cache.tensor.device}\nand a long trace")


def test_a_trial_accepts_right_kernels_and_says_what_is_wrong_with_others() -> None:
    assert trial(KERNELS["flex"], GROUND) is None
    assert trial(KERNELS["varlen"], GROUND) is None
    assert trial(_Wrong(), GROUND) == "its trial differs from gather by 0.5"
    assert trial(_Broken(), GROUND) == "its trial failed: RuntimeError: no compiler for 1 sequences on cpu"


def test_on_a_cpu_the_choice_is_gather() -> None:
    choice = choose_attention(GROUND.config, CPU, torch.float32, 16)
    assert choice.kernel.name == "gather"
    assert choice.rejected == ()


@pytest.mark.parametrize("wanted", ["varlen", "flex"])
def test_a_kernel_that_cannot_run_here_is_refused_with_the_reason(wanted: str) -> None:
    with pytest.raises(ModelError, match=rf"cannot run here: {wanted}: needs a CUDA device, not cpu; use auto"):
        choose_attention(GROUND.config, CPU, torch.float32, 16, wanted)


def test_an_unknown_kernel_is_refused_with_the_accepted_ones() -> None:
    with pytest.raises(ModelError, match="fast: no such kernel; accepted: auto, varlen, flex, gather"):
        choose_attention(GROUND.config, CPU, torch.float32, 16, "fast")


def test_a_gpu_whose_better_kernels_fail_gets_gather_and_the_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a GPU the checks are answered for it."""
    answers = {"varlen": "FlashAttention 3 is not installed", "flex": None, "gather": None}
    monkeypatch.setattr(attention_choice, "why_not", lambda name, _: answers[name])
    monkeypatch.setattr(attention_choice, "trial", lambda kernel, _: f"the trial of {kernel.name} failed")
    choice = choose_attention(GROUND.config, torch.device("cuda"), torch.bfloat16, 16)
    assert choice.kernel.name == "gather"
    assert choice.rejected == ("varlen: FlashAttention 3 is not installed", "flex: the trial of flex failed")


def test_flex_refuses_blocks_that_no_tile_divides(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec  # torch asks as well, for what it loads late
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "triton" else known(name))
    cuda = torch.device("cuda")
    odd = Ground(GROUND.config, cuda, torch.bfloat16, 24)
    assert why_not("flex", odd) == "needs blocks of 16 tokens or a larger power of two, not 24"
    assert why_not("flex", Ground(GROUND.config, cuda, torch.bfloat16, 32)) is None
    assert why_not("varlen", Ground(GROUND.config, cuda, torch.float32, 32)) == (
        "FlashAttention computes in float16 or bfloat16, not torch.float32"
    )
