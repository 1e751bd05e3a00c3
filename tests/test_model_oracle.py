"""The oracle of the model: token-for-token equality with ``transformers`` greedy decoding, fp32, CPU, random weights.

Both sides read the same folder. Ours goes through a small server that does what workers will: pages in random order,
prompts in chunks, mixed batches, lost blocks and recomputation; the cache begins as NaN, so that anything read from a
block that no one wrote would show.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: the model is NOT tested; pip install 'kvsim[engine]'")
pytest.importorskip(
    "transformers", reason="transformers is not installed: token equality is NOT tested; pip install 'kvsim[hf]'"
)

import torch

from backends.model.batch import SequenceSlice
from backends.model.config import ModelConfig, RopeSpec
from backends.model.kv_cache import PagedKvCache, blocks_needed
from backends.model.random_tensors import write_random_model
from backends.model.sampling import SamplingParameters, sample
from backends.model.transformer import Transformer
from backends.model.weights import Weights, load_weights, random_weights

transformers: Any = pytest.importorskip("transformers")  # its stubs leave too much untyped

LLAMA = ModelConfig(
    architecture="llama",
    layers=3,
    hidden=96,
    heads=6,
    kv_heads=2,
    head_dim=16,
    intermediate=160,
    vocabulary=300,
    context_tokens_max=512,
)
QWEN2 = replace(LLAMA, architecture="qwen2", qkv_bias=True, tied_embeddings=True, norm_epsilon=1e-5)
QWEN3 = replace(LLAMA, architecture="qwen3", qk_norm=True, head_dim=32, rope=RopeSpec(theta=1e6))
MODELS = {
    "llama": LLAMA,
    "llama with biases and one KV head": replace(LLAMA, qkv_bias=True, output_bias=True, kv_heads=1),
    "llama with linear rope": replace(LLAMA, rope=RopeSpec("linear", 1e4, 4.0)),
    "llama with llama3 rope": replace(LLAMA, rope=RopeSpec("llama3", 5e5, 4.0, 64)),
    "qwen2": QWEN2,
    "qwen2 with yarn rope": replace(QWEN2, rope=RopeSpec("yarn", 1e4, 4.0, 64, attention_factor=1.14)),
    "qwen3": QWEN3,
}
NEW_TOKENS = 20
PROMPT_TOKENS = (1, 5, 33, 120)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small matrices on a busy machine: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Sequence:
    """A request as the small server below sees it: it is done when it has ``new_tokens`` tokens or one that ends it."""

    tokens: list[int]
    prompt_tokens: int
    new_tokens: int
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    done: bool = False

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt_tokens :]


class Server:
    """Serves sequences together: each step has all decodes and one chunk of every prompt. Pages are in random order."""

    def __init__(self, model: Transformer, chunk_tokens: int, blocks: int = 160, block_tokens: int = 8) -> None:
        self.model = model
        self.cache = PagedKvCache.allocate(model.config, blocks, block_tokens)
        self.cache.tensor.fill_(float("nan"))
        self.chunk_tokens = chunk_tokens
        self.free = [int(block) for block in np.random.default_rng(7).permutation(blocks)]
        self.greedy = SamplingParameters(stop_token_ids=model.config.eos_token_ids)

    def step(self, sequences: list[Sequence]) -> None:
        active = [sequence for sequence in sequences if not sequence.done]
        slices = []
        for sequence in active:
            stop = min(len(sequence.tokens), sequence.computed + self.chunk_tokens)
            while len(sequence.blocks) < blocks_needed(stop, self.cache.block_tokens):
                sequence.blocks.append(self.free.pop())
            wants_logits = stop == len(sequence.tokens)
            ids = sequence.tokens[sequence.computed : stop]
            slices.append(SequenceSlice(sequence.computed, ids, sequence.blocks, wants_logits))
            sequence.computed = stop
        logits = self.model.step(slices, self.cache)
        sampled = iter(sample(logits, [self.greedy] * len(logits), [None] * len(logits)))
        for sequence, part in zip(active, slices, strict=True):
            if part.wants_logits:
                sequence.tokens.append(next(sampled))
                ended = self.greedy.ends(sequence.tokens[-1])
                sequence.done = ended or len(sequence.output) == sequence.new_tokens

    def preempt(self, sequence: Sequence) -> None:
        """Its blocks go to whoever needs one; all of its tokens are computed again."""
        self.free.extend(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0

    def serve(self, prompts: list[list[int]], new_tokens: int, preempt_every: int = 0) -> list[list[int]]:
        """Outputs of prompts that arrive two steps after one another."""
        waiting = [Sequence(list(prompt), len(prompt), new_tokens) for prompt in prompts]
        admitted: list[Sequence] = []
        for step in range(10_000):
            if waiting and step % 2 == 0:
                admitted.append(waiting.pop(0))
            if preempt_every and step % preempt_every == preempt_every - 1:
                self.preempt(admitted[step % len(admitted)])
            self.step(admitted)
            if not waiting and all(sequence.done for sequence in admitted):
                return [sequence.output for sequence in admitted]
        raise AssertionError("the server never finished")


@dataclass
class Pair:
    """Our model and transformers', from the same folder, and what the latter generates."""

    model: Transformer
    reference: Any
    prompts: list[list[int]]
    expected: list[list[int]]


def greedy(reference: Any, prompt: list[int], new_tokens: int, eos: list[int] | None = None) -> list[int]:
    """What ``transformers`` appends to a prompt."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=0,
        )
    return [int(token) for token in output[0, len(prompt) :]]


def make_pair(folder: Path, config: ModelConfig, shards: int) -> Pair:
    write_random_model(folder, config, seed=3, shards=shards)
    read = ModelConfig.from_folder(folder)
    assert read == config
    model = Transformer(read, load_weights(folder, read))
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = np.random.default_rng(5)
    prompts = [generator.integers(0, config.vocabulary, length).tolist() for length in PROMPT_TOKENS]
    return Pair(model, reference, prompts, [greedy(reference, prompt, NEW_TOKENS) for prompt in prompts])


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    shards = 2 if request.param == "qwen3" else 1
    return make_pair(tmp_path_factory.mktemp("model"), MODELS[request.param], shards)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("model"), LLAMA, shards=1)


def test_chunked_prompts_in_mixed_batches_give_the_tokens_of_transformers(pair: Pair) -> None:
    assert Server(pair.model, chunk_tokens=16).serve(pair.prompts, NEW_TOKENS) == pair.expected


def test_the_expected_tokens_are_not_a_loop(pair: Pair) -> None:
    """Equality of two models that repeat one token would prove little."""
    assert min(len(set(output)) for output in pair.expected) > NEW_TOKENS // 2


def test_logits_of_every_position_are_those_of_transformers(pair: Pair) -> None:
    prompt = pair.prompts[-1]
    with torch.inference_mode():
        expected = pair.reference(torch.tensor([prompt])).logits[0]
    cache = PagedKvCache.allocate(pair.model.config, 20, 8)
    found = [
        pair.model.step([SequenceSlice(position, [token], list(range(20)), True)], cache)[0]
        for position, token in enumerate(prompt)
    ]
    assert (torch.stack(found) - expected).abs().max() < 1e-3 * expected.std()


@pytest.mark.parametrize("chunk_tokens", [1, 7, 8, 64, 512])
def test_any_chunk_size_gives_the_same_tokens(llama: Pair, chunk_tokens: int) -> None:
    assert Server(llama.model, chunk_tokens).serve(llama.prompts, NEW_TOKENS) == llama.expected


@pytest.mark.parametrize("preempt_every", [3, 8])
def test_recomputation_after_lost_blocks_gives_the_same_tokens(llama: Pair, preempt_every: int) -> None:
    """A preempted sequence computes prompt and generated tokens again, in other blocks, in chunks."""
    assert Server(llama.model, 64).serve(llama.prompts, NEW_TOKENS, preempt_every) == llama.expected


@pytest.mark.parametrize("block_tokens", [1, 3, 16, 128])
def test_any_block_size_gives_the_same_tokens(llama: Pair, block_tokens: int) -> None:
    server = Server(llama.model, 50, blocks=1600 // block_tokens, block_tokens=block_tokens)
    assert server.serve(llama.prompts, NEW_TOKENS) == llama.expected


def test_a_sequence_whose_blocks_were_copied_to_another_cache_goes_on_alike(llama: Pair) -> None:
    """What a transfer does: the blocks of a prompt, and nothing else, appear under other ids in another cache."""
    prompt, expected = llama.prompts[-1], llama.expected[-1]
    prefill, decode = Server(llama.model, 512), Server(llama.model, 512)
    sequence = Sequence(list(prompt), len(prompt), 1)
    prefill.step([sequence])
    target = [decode.free.pop() for _ in sequence.blocks]
    decode.cache.tensor[:, :, target] = prefill.cache.tensor[:, :, sequence.blocks]
    moved = Sequence(sequence.tokens, len(prompt), NEW_TOKENS, computed=len(prompt), blocks=target)
    while not moved.done:
        decode.step([moved])
    assert moved.output == expected


def test_generation_ends_where_transformers_ends_it(llama: Pair) -> None:
    """The end-of-sequence token is the last of the output, in both."""
    eos = llama.expected[1][6]
    expected = [greedy(llama.reference, prompt, NEW_TOKENS, [eos]) for prompt in llama.prompts]
    assert len(expected[1]) <= 7
    ending = Transformer(replace(llama.model.config, eos_token_ids=(eos,)), llama.model.weights)
    assert Server(ending, 32).serve(llama.prompts, NEW_TOKENS) == expected


def test_layers_are_announced_in_order_once_their_kv_is_in_the_cache(llama: Pair) -> None:
    server = Server(llama.model, 64)
    zero = PagedKvCache.allocate(llama.model.config, 2, 8)
    seen: list[tuple[int, bool, bool]] = []

    def on_layer(layer: int) -> None:
        written = zero.tensor[:, :, 1, 0].abs().sum(dim=(1, 2, 3)) > 0
        seen.append((layer, bool(written[layer]), bool(written[layer + 1 :].any())))

    server.model.step([SequenceSlice(0, [4, 5], [1], wants_logits=False)], zero, on_layer)
    assert seen == [(0, True, False), (1, True, False), (2, True, False)]


def test_half_precision_is_close_to_full(llama: Pair) -> None:
    """bfloat16 keeps 8 bits: logits agree to some per cent of their spread, tokens need not."""
    config = llama.model.config
    half = Transformer(config, random_weights(config, seed=3, dtype=torch.bfloat16))
    slices = [SequenceSlice(0, llama.prompts[2], list(range(8)), wants_logits=True)]
    exact = llama.model.step(slices, PagedKvCache.allocate(config, 8, 8))
    close = half.step(slices, PagedKvCache.allocate(config, 8, 8, dtype=torch.bfloat16))
    assert (close.float() - exact).std() < 0.1 * exact.std()


def test_random_weights_are_those_of_the_written_folder(llama: Pair) -> None:
    in_memory: Weights = random_weights(llama.model.config, seed=3)
    assert torch.equal(in_memory.head, llama.model.weights.head)
    for ours, theirs in zip(in_memory.layers, llama.model.weights.layers, strict=True):
        assert torch.equal(ours.qkv, theirs.qkv)
        assert torch.equal(ours.gate_up, theirs.gate_up)
