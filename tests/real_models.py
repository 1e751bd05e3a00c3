"""A tiny random model on disk, what transformers generates with it (the oracle of the equality tests), and worlds whose
workers compute with it.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from backings import Action, Parts
from real_worlds import real_cluster
from transport_world import open_with_pool

from backends.model.config import ModelConfig
from backends.transport.port import Transport
from backends.worker.model_source import ModelSource
from kvsim.core.cluster import ClusterSpec, KvSpec, TransferMode, WorkerSpec
from kvsim.core.kv_tensor import contiguous_kv_tensor

LLAMA = ModelConfig(
    architecture="llama",
    layers=4,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate=128,
    vocabulary=300,
    context_tokens_max=512,
    eos_token_ids=(257,),
)
QWEN2 = replace(LLAMA, architecture="qwen2", qkv_bias=True, tied_embeddings=True)
QWEN3 = replace(LLAMA, architecture="qwen3", qk_norm=True)
SEED = 5


ANSWERS_FILE = "answers.json"


def write_model(folder: Path, config: ModelConfig = LLAMA) -> ModelSource:
    """A random model as a Hugging Face folder."""
    from backends.model.random_tensors import write_random_model

    write_random_model(folder, config, SEED)
    return ModelSource(str(folder))


def prompts(count: int, longest: int = 70) -> list[tuple[int, ...]]:
    """Tokens of the vocabulary, of many lengths."""
    return [
        tuple((31 * request + 7 * place * place + 3) % LLAMA.vocabulary for place in range(1 + 13 * request % longest))
        for request in range(count)
    ]


ASKED, ASKED_TOKENS = prompts(10, longest=40), 12
"""What the equality tests of real processes ask."""


class Oracle(Protocol):
    """Knows what a model generates."""

    def generate(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """``tokens`` output tokens, whatever they are."""
        ...


class Reference:
    """Greedy generation by transformers, in fp32 on the CPU, one prompt at a time."""

    def __init__(self, source: ModelSource) -> None:
        import torch
        import transformers

        torch.set_num_threads(1)
        models: Any = transformers.AutoModelForCausalLM
        self._model = models.from_pretrained(source.name, dtype=torch.float32)
        self._answers: dict[tuple[int, ...], list[int]] = {}

    def generate(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """``tokens`` output tokens, whatever they are."""
        key = (*prompt, tokens)
        if key not in self._answers:
            self._answers[key] = self._generate(prompt, tokens)
        return self._answers[key]

    def _generate(self, prompt: Sequence[int], tokens: int) -> list[int]:
        import torch

        ids = torch.tensor([list(prompt)])
        answer = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return [int(token) for token in answer[0, len(prompt) :]]


class KnownAnswers:
    """What ``write_known_answers`` has kept in a folder: an oracle without torch and transformers."""

    def __init__(self, folder: Path) -> None:
        kept = json.loads((folder / ANSWERS_FILE).read_text(encoding="ascii"))
        self._answers = {tuple(prompt): answer for prompt, answer in kept}

    def generate(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """See ``Oracle``."""
        answer: list[int] = self._answers[tuple(prompt)]
        assert len(answer) == tokens, f"{len(answer)} tokens are known, not {tokens}"
        return answer


def write_known_answers(folder: Path) -> None:
    """The model of ``write_model``, and what transformers generates with it for ``ASKED``."""
    reference = Reference(write_model(folder))
    kept = [(prompt, reference.generate(prompt, ASKED_TOKENS)) for prompt in ASKED]
    (folder / ANSWERS_FILE).write_text(json.dumps(kept), encoding="ascii")


def model_cluster(mode: TransferMode, block_tokens: int = 8, **arguments: Any) -> ClusterSpec:
    """A cluster of workers for these models; the rest as ``real_cluster``."""
    kv = KvSpec(LLAMA.layers, LLAMA.kv_heads, LLAMA.head_dim, dtype_bytes=4, block_tokens=block_tokens)
    return real_cluster(mode, kv=kv, **arguments)


class ModelBacking:
    """A model in torch and real transports, whose threads move the bytes while the world goes on."""

    def __init__(self, source: ModelSource, kind: str) -> None:
        from backends.model.weights import load_weights

        self._config = source.config()
        self._weights = load_weights(Path(source.name), self._config)
        self._kind = kind
        self._transports: list[Transport] = []
        self.vocabulary = self._config.vocabulary

    def parts(self, spec: WorkerSpec, kv: KvSpec) -> Parts:
        import torch

        from backends.model.kv_cache import PagedKvCache
        from backends.model.transformer import Transformer
        from backends.worker.language_model import LanguageModel

        tensor = contiguous_kv_tensor(kv, kv.kv_heads, spec.kv_blocks)
        size_bytes = int(np.prod(tensor.shape)) * kv.dtype_bytes
        transport, memory, pool = open_with_pool(self._kind, spec.name, size_bytes)
        self._transports.append(transport)
        cache = PagedKvCache(torch.frombuffer(pool.data, dtype=torch.float32).view(tensor.shape))
        cache.tensor.fill_(float("nan"))  # whatever is read before it was written shows
        model = LanguageModel(Transformer(self._config, self._weights), cache, wait_each_layer=False)
        return Parts(model, transport, transport.register(memory, tensor).tensor)

    def actions(self, random: np.random.Generator) -> list[Action]:
        del random
        return [lambda: time.sleep(1e-4)]

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
