"""How long one step of a transformer takes on one worker: a roofline for each class of kernels.

``kvsim.sim.kernels`` says what a kernel takes at the share of the datasheet figures that kernels reach. Classes run one
after the other, and a step takes no less than the host needs to launch it. All figures are per GPU of a tensor-parallel
worker (Megatron partition: Shoeybi et al., arXiv 1909.08053).

Seconds are floats inside this module. They become integer femtoseconds once, rounded to the nearest, and a step's
nanoseconds are the floor of the sum of those. It must not know requests, blocks or time.
"""

from collections.abc import Sequence
from typing import Final

from kvsim.core.integers import div_ceil
from kvsim.core.messages import FEMTOSECONDS_PER_NS
from kvsim.sim.collectives import all_reduce_s, measured_bytes, ring_bytes
from kvsim.sim.hardware import GpuSpec, ModelShape
from kvsim.sim.kernels import GemmLaw, attention_pair_s, decode_tile_pairs, kv_read_s, overlapped_s, prompt_pairs
from kvsim.sim.measured import Asked
from kvsim.sim.step_times import UNBOUNDED

_FEMTOSECONDS_PER_S: Final = 10**15


class StepCosts:
    """Seconds of one step by class of kernels, all layers together. ``overhead_s`` is launches and the step's own."""

    def __init__(
        self,
        qkv_s: float,
        attention_output_s: float,
        router_s: float,
        mlp_s: float,
        prompt_attention_s: float,
        decode_attention_s: float,
        activations_s: float,
        embedding_s: float,
        lm_head_s: float,
        collectives_s: float,
        overhead_s: float,
    ) -> None:
        self.qkv_s = qkv_s
        self.attention_output_s = attention_output_s
        self.router_s = router_s
        self.mlp_s = mlp_s
        self.prompt_attention_s = prompt_attention_s
        self.decode_attention_s = decode_attention_s
        self.activations_s = activations_s
        self.embedding_s = embedding_s
        self.lm_head_s = lm_head_s
        self.collectives_s = collectives_s
        self.overhead_s = overhead_s

    @property
    def gemm_s(self) -> float:
        """All matrix products with weights."""
        return self.qkv_s + self.attention_output_s + self.router_s + self.mlp_s + self.lm_head_s

    @property
    def attention_s(self) -> float:
        """The attention of prompts and of decodes."""
        return self.prompt_attention_s + self.decode_attention_s

    @property
    def total_s(self) -> float:
        """The whole step."""
        others_s = self.activations_s + self.embedding_s + self.collectives_s + self.overhead_s
        return self.gemm_s + self.attention_s + others_s


class StepModel:
    """Step durations of ``model`` on ``tensor_parallel`` GPUs of one kind. ``tensor_parallel`` divides the heads.

    Where a dimension does not divide evenly, the widest shard counts, for all wait for it. With more GPUs than KV heads
    each GPU holds one whole KV head, some of them copies.
    """

    def __init__(self, model: ModelShape, gpu: GpuSpec, tensor_parallel: int) -> None:
        assert tensor_parallel >= 1, tensor_parallel
        assert model.heads % tensor_parallel == 0, (model.heads, tensor_parallel)
        assert 1 <= model.experts_active <= model.experts, (model.experts_active, model.experts)
        self._model = model
        self._gpu = gpu
        self._ranks = tensor_parallel
        self._layers, self._hidden = model.layers, model.hidden
        self._experts, self._experts_active = model.experts, model.experts_active
        self._dtype_bytes, self._kv_dtype_bytes = model.dtype_bytes, model.kv_dtype_bytes
        self._heads = model.heads // tensor_parallel
        self._kv_heads = div_ceil(model.kv_heads, tensor_parallel)
        self._query_width = self._heads * model.head_dim
        self._kv_width = self._kv_heads * model.head_dim  # of K; V is as wide
        self._intermediate = div_ceil(model.intermediate, tensor_parallel)
        self._vocabulary = div_ceil(model.vocabulary, tensor_parallel)
        self._memory_bytes_per_s = gpu.memory_bytes_per_s * gpu.memory_efficiency
        self._activation_bytes = self._activation_bytes_per_token_and_layer()
        self._attention_latency_s = gpu.kernels.attention_latency_ns / 1e9
        self._launches_s = self._layers * gpu.launch_ns / 1e9
        self._host_layers_s = self._layers * gpu.engine.layer_ns / 1e9
        self._step_ns, self._prompt_ns, self._request_ns = gpu.step_ns, gpu.engine.prompt_ns, gpu.engine.request_ns
        self._gemm = GemmLaw(gpu, model.dtype_bytes)
        self._pair_s = attention_pair_s(gpu, model.head_dim)
        self._decode_tiles_s = decode_tile_pairs(gpu.kernels, self._heads, self._kv_heads) * self._pair_s
        self._context_token_s = self._context_s()
        self._fs_per_context_token = _femtoseconds(self._context_token_s)
        self._decode_fs: dict[int, tuple[int, int]] = {}
        measured = measured_bytes(gpu, tensor_parallel)
        self._reduced = Asked(*measured) if measured is not None else None

    def prefill_ns(self, chunks: Sequence[tuple[int, int]], decode_requests: int, decode_context_tokens: int) -> int:
        """Nanoseconds of one step over chunks of prompts and one token for each of ``decode_requests``.

        ``chunks`` holds (start token, tokens); ``decode_context_tokens`` is the number of tokens that the decoding
        requests attend to, all together, the new ones included.
        """
        base_fs = _femtoseconds(self._without_context(chunks, decode_requests).total_s)
        return (base_fs + self._fs_per_context_token * decode_context_tokens) // FEMTOSECONDS_PER_NS

    def decode_fs(self, batch_requests: int) -> tuple[int, int]:
        """(base_fs, fs_per_context_token) of a decode step over ``batch_requests`` requests.

        With S tokens of context in the whole batch, the new ones included, the step takes
        ``(base_fs + fs_per_context_token * S) // 10**6`` ns; ``prefill_ns`` without chunks answers the same.
        """
        known = self._decode_fs.get(batch_requests)
        if known is None:
            base_fs = _femtoseconds(self._without_context((), batch_requests).total_s)
            known = (base_fs, self._fs_per_context_token)
            self._decode_fs[batch_requests] = known
        return known

    def decode_piece(self, batch_requests: int, _context_tokens: int) -> tuple[int, int, int]:
        """See ``StepTimes``."""
        base_fs, token_fs = self.decode_fs(batch_requests)
        return base_fs, token_fs, UNBOUNDED

    def notes(self, _context_tokens_max: int) -> list[str]:
        """What was asked for beyond what was measured."""
        if self._reduced is None:
            return []
        whose, low, high = f"GPU {self._gpu.name}", self._gpu.all_reduce[0].ranks, self._gpu.all_reduce[-1].ranks
        notes = self._reduced.notes("bytes of an all-reduce", whose)
        if not low <= self._ranks <= high:
            notes.append(f"all-reduces over {self._ranks} GPUs, {whose} measured {low} to {high}: extrapolated")
        return notes

    def breakdown_prefill(
        self, chunks: Sequence[tuple[int, int]], decode_requests: int, decode_context_tokens: int
    ) -> StepCosts:
        """The same step as ``prefill_ns`` in seconds by class of kernels."""
        costs = self._without_context(chunks, decode_requests)
        context_s = self._context_token_s * decode_context_tokens
        costs.decode_attention_s += context_s
        return costs

    def _without_context(self, chunks: Sequence[tuple[int, int]], decode_requests: int) -> StepCosts:
        """Everything but what grows with the contexts of decodes, which is linear and therefore apart.

        The LM head runs on one row per request, its last token: also that of a prompt that goes on in a later step,
        whose logits engines such as vLLM compute and drop. What the GPU waits for the host is part of the overhead;
        reading contexts is taken to come on top of it, so that decode steps grow linearly.
        """
        tokens = sum([chunk_tokens for _, chunk_tokens in chunks]) + decode_requests
        assert tokens > 0, "a step without tokens"
        layers, hidden, requests = self._layers, self._hidden, len(chunks) + decode_requests
        # Embedding: one row is read and one written per token.
        embedding_s = 2 * tokens * hidden * self._dtype_bytes / self._memory_bytes_per_s
        attention_s = self._attention_latency_s  # one call, for prompts and decodes
        prompt_s = layers * self._prompt_attention_s(chunks)
        decode_s = layers * decode_requests * self._decode_tiles_s
        costs = StepCosts(
            qkv_s=layers * self._gemm.seconds(tokens, hidden, self._query_width + 2 * self._kv_width),
            attention_output_s=layers * self._gemm.seconds(tokens, self._query_width, hidden),
            router_s=layers * self._gemm.seconds(tokens, hidden, self._experts) if self._experts > 1 else 0.0,
            mlp_s=layers * self._mlp_s(tokens),
            prompt_attention_s=prompt_s + layers * attention_s if chunks else 0.0,
            decode_attention_s=decode_s if chunks else decode_s + layers * attention_s,
            activations_s=layers * tokens * self._activation_bytes / self._memory_bytes_per_s,
            embedding_s=embedding_s,
            lm_head_s=self._gemm.seconds(requests, hidden, self._vocabulary),
            collectives_s=layers * 2 * self._all_reduce_s(tokens),
            overhead_s=self._launches_s,
        )
        waits_s = max(0.0, self._host_layers_s - costs.total_s)
        host_ns = self._step_ns + len(chunks) * self._prompt_ns + requests * self._request_ns
        costs.overhead_s = costs.overhead_s + waits_s + host_ns / 1e9
        return costs

    def _mlp_s(self, tokens: int) -> float:
        """Gated MLP (gate and up as one product, then down); with experts, each token passes ``experts_active``.

        Weights are read of the experts that any token picks. Under uniform routing a token misses a given expert with
        probability 1 - k/E, so E * (1 - (1 - k/E)**tokens) of E experts are expected to be touched. Dense is E = k = 1.
        """
        hidden, experts, active = self._hidden, self._experts, self._experts_active
        touched = experts * (1.0 - (1.0 - active / experts) ** tokens)
        rows = tokens * active
        gate_and_up_s = self._gemm.seconds(rows, hidden, 2 * self._intermediate, touched)
        return gate_and_up_s + self._gemm.seconds(rows, self._intermediate, hidden, touched)

    def _prompt_attention_s(self, chunks: Sequence[tuple[int, int]]) -> float:
        """Attention of one layer over chunks of prompts, all in one call."""
        if not chunks:
            return 0.0
        gpu = self._gpu
        pairs, longest = prompt_pairs(gpu.kernels, self._heads, self._kv_heads, chunks)
        compute_s = max(pairs, longest) * self._pair_s
        kv_tokens = sum([start + tokens for start, tokens in chunks])
        memory_s = kv_read_s(gpu, self._kv_width, self._kv_dtype_bytes, kv_tokens)
        return overlapped_s(compute_s, memory_s, gpu.kernels.attention_exposed)

    def _context_s(self) -> float:
        """What one more token of context costs a decode step: one query token per request, so there are as many pairs
        as tokens read and the cost is linear in the total context."""
        gpu, model = self._gpu, self._model
        return model.layers * max(self._heads * self._pair_s, kv_read_s(gpu, self._kv_width, model.kv_dtype_bytes, 1))

    def _activation_bytes_per_token_and_layer(self) -> int:
        """Memory traffic of what is neither GEMM nor KV read, with the usual fusions.

        Two norms with residual addition (read and write the value and the residual); rotation of Q and K and the KV
        write (read and write Q, K, V); attention reads Q and writes its output; the gate (read two, write one); with
        experts, the sum over the active ones.
        """
        model = self._model
        active = model.experts_active
        elements = 2 * 4 * model.hidden
        elements += 2 * (self._query_width + 2 * self._kv_width)
        elements += 2 * self._query_width
        elements += 3 * active * self._intermediate
        elements += (active + 1) * model.hidden if model.experts > 1 else 0
        return elements * model.dtype_bytes

    def _all_reduce_s(self, tokens: int) -> float:
        """All-reduce of the hidden states. A layer has two: behind the attention output and behind the MLP (Shoeybi et
        al., section 3)."""
        engine, row_bytes = self._gpu.engine, self._hidden * self._dtype_bytes
        if self._reduced is not None:
            self._reduced.note(tokens * row_bytes)
        seconds = all_reduce_s(self._gpu, self._ranks, tokens * row_bytes)
        if 0 < engine.long_step_tokens < tokens and self._ranks > 1:
            beyond_bytes = (tokens - engine.long_step_tokens) * row_bytes
            seconds += ring_bytes(self._ranks, beyond_bytes) / engine.long_step_bytes_per_s
        return seconds


def _femtoseconds(seconds: float) -> int:
    return round(seconds * _FEMTOSECONDS_PER_S)
