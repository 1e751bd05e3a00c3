"""Numbers that no file holds, because they follow from others: each with the formula.

The KV cache is told step by step, as ``kvsim.scenario.memory`` derives it. It must not know sources.
"""

from collections.abc import Iterator

from kvsim.scenario.budget import memory_budget
from kvsim.scenario.memory import kv_block_bytes_per_rank, kv_memory
from kvsim.scenario.profile_resolve import HANDSHAKE_NS
from kvsim.scenario.resolve import step_tokens_max
from kvsim.scenario.schema import Document, Pool
from kvsim.scenario.values import Variant
from kvsim.units import exact_bytes

Derived = tuple[str, str, str, str]
"""Key, value, unit, formula."""


def derived_numbers(document: Document, variant: Variant) -> Iterator[Derived]:
    """Of one variant: each pool's KV cache, what is kept free of it, and times that were left open."""
    blocks_by_pool = {}
    index = 0
    for name, pool in document.workers.items():
        if pool.count:
            blocks_by_pool[name] = variant.cluster.workers[index]
        index += pool.count
    for name, pool in document.workers.items():
        prefix = f"derived.workers.{name}"
        yield from _kv_cache(prefix, pool, document)
        if name in blocks_by_pool:
            spec = blocks_by_pool[name]
            yield f"{prefix}.kv_blocks", str(spec.kv_blocks), "blocks", _blocks_formula(pool)
            kept = f"watermark x kv_blocks = {pool.watermark:g} x {spec.kv_blocks}, rounded down"
            yield f"{prefix}.watermark_blocks", str(spec.watermark_blocks), "blocks", kept
            rate = f"nics x nic.rate = {pool.nics} x {pool.nic.rate:g} B/s"
            yield f"{prefix}.link_bytes_per_s", str(spec.link_bytes_per_s), "B/s", rate
    decision, handshake = variant.hardware.decision_ns, variant.hardware.message.handshake_ns
    if document.scheduling.decision is None:
        source = "the largest host.decision of the pools' profiles, else 0"
        yield "derived.scheduling.decision", str(decision), "ns", source
    if document.transfer.message.handshake is None:
        source = f"the largest message.handshake of the pools' profiles, else {HANDSHAKE_NS} (estimate, in Python)"
        yield "derived.transfer.message.handshake", str(handshake), "ns", source


def _blocks_formula(pool: Pool) -> str:
    if pool.kv_blocks is not None:
        return "kv_blocks of the pool, as given"
    if pool.kv_memory is not None:
        return "kv_memory / bytes of a block, rounded down"
    return "(usable - weights - rotary - the larger of forward and sampler - runtime - graphs) / block, rounded down"


def _kv_cache(prefix: str, pool: Pool, document: Document) -> Iterator[Derived]:
    model, ranks = document.model.value(), pool.tensor_parallel
    block = kv_block_bytes_per_rank(model, pool.block_tokens_of(document.cache), ranks)
    formula = "2 (K, V) x layers x block_tokens x KV heads of a GPU x head_dim x kv_dtype_bytes"
    yield f"{prefix}.memory.block", *_bytes(block), formula
    if pool.gpu is None or pool.kv_blocks is not None or pool.kv_memory is not None:
        return
    budget = memory_budget(pool, document.cache, pool.gpu, step_tokens_max(pool, document))
    memory = kv_memory(model, ranks, budget)
    parts = (
        ("usable", memory.usable_bytes, "gpu.memory x cache.memory_utilization"),
        ("weights", memory.weights_bytes, f"matrices and embeddings of the model over {ranks} GPUs, model.dtype_bytes"),
        ("rotary", memory.rotary_bytes, "model.context_tokens_max x head_dim x dtype_bytes"),
        (
            "forward",
            memory.forward_bytes,
            f"{budget.step_tokens} tokens of a step x (4 x hidden + 2 x intermediate of a GPU) x dtype_bytes",
        ),
        (
            "sampler",
            memory.sampler_bytes,
            f"cache.logit_memory x {min(budget.step_requests, budget.step_tokens)} requests x vocabulary, and hidden "
            f"states of {budget.step_tokens} tokens",
        ),
        ("runtime", memory.runtime_bytes, "cache.runtime_memory; auto: vLLM 0.11 logs on H100, one GPU or several"),
        ("graphs", memory.graph_bytes, "cache.graph_memory; auto: 0"),
    )
    for name, size_bytes, formula in parts:
        yield f"{prefix}.memory.{name}", *_bytes(size_bytes), formula


def _bytes(size_bytes: int) -> tuple[str, str]:
    number, _, unit = exact_bytes(size_bytes).partition(" ")
    return number, unit
