"""A transformer, its paged cache and its sampling as the engine's ``StepModel``.

On a GPU work is queued, so before anything is reported that another process may act upon, this waits for it. It must
not know requests, blocks' owners or transfers.
"""

from collections.abc import Sequence

import numpy as np
import torch

from backends.control.messages import Sampling
from backends.model.batch import SequenceSlice
from backends.model.kv_cache import PagedKvCache
from backends.model.sampling import SamplingParameters, sample, token_generator
from backends.model.transformer import Transformer
from backends.worker.steps import Draw, OnLayer, StepPart


class LanguageModel:
    """Computes steps of one model on one cache. ``wait_each_layer``: on a GPU, wait for each layer before it is told;
    only a worker that announces layers needs that."""

    def __init__(self, transformer: Transformer, cache: PagedKvCache, *, wait_each_layer: bool) -> None:
        self._transformer = transformer
        self._cache = cache
        self._on_gpu = cache.tensor.is_cuda
        self._wait_each_layer = self._on_gpu and wait_each_layer

    @property
    def layers(self) -> int:
        """How often ``on_layer`` is called in a step."""
        return self._transformer.config.layers

    def step(self, parts: Sequence[StepPart], on_layer: OnLayer) -> list[int]:
        """See ``StepModel.step``."""
        slices = [
            SequenceSlice(part.first_token, part.token_ids, part.block_table, part.draw is not None) for part in parts
        ]

        def layer_written(layer: int) -> None:
            if self._wait_each_layer:
                torch.cuda.synchronize(self._cache.tensor.device)
            on_layer(layer)

        logits = self._transformer.step(slices, self._cache, layer_written)
        draws = [part.draw for part in parts if part.draw is not None]
        tokens = sample(logits, [_parameters(draw.sampling) for draw in draws], [_generator(draw) for draw in draws])
        if self._on_gpu:
            torch.cuda.synchronize(self._cache.tensor.device)
        return tokens


def _parameters(sampling: Sampling) -> SamplingParameters:
    return SamplingParameters(sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed)


def _generator(draw: Draw) -> np.random.Generator | None:
    return token_generator(draw.sampling.seed, draw.place) if draw.sampling.temperature > 0 else None
