"""Which attention kernel this machine can run, found out by asking and by a trial, with the reasons against others.

Nothing is swallowed: what a kernel lacks, or the error of its trial, is part of the answer, and an error if the user
asked for that very kernel.
"""

import importlib.util
import inspect
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backends.model.attention import AttentionKernel
from backends.model.attention_flex import FlexPagedAttention
from backends.model.attention_gather import GatherAttention
from backends.model.attention_varlen import VarlenAttention
from backends.model.batch import SequenceSlice, flatten
from backends.model.config import ModelConfig
from backends.model.errors import ModelError, problem
from backends.model.kv_cache import PagedKvCache, blocks_needed

KERNELS = ("varlen", "flex", "gather")
"""In order of preference on CUDA. Elsewhere only the last runs."""

TOLERANCE = {torch.float32: 1e-2, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""Largest accepted difference from ``gather`` for inputs of deviation 1. fp32 may be computed as TF32 on a GPU."""

TRIAL_BATCHES = (((40, 1),), ((45, 1), (50, 1), (0, 70), (25, 100)), ((0, 20),), ((3, 12), (1, 1)))
"""Batches of slices as (first token, new tokens): decodes alone and together, first and later chunks."""


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The kernel, and why each preferred one was not taken, one line each: worth a line in the worker's log."""

    kernel: AttentionKernel
    rejected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ground:
    """What kernels are chosen for."""

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    block_tokens: int


def choose_attention(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, block_tokens: int, wanted: str = "auto"
) -> AttentionChoice:
    """The best kernel that passes its trial on this device, or the wanted one.

    Raises ``ModelError`` if the wanted one is unknown or cannot run here. "varlen" activates FlashAttention 3 for the
    whole process.
    """
    if wanted not in {"auto", *KERNELS}:
        raise ModelError([problem("attention", wanted, f"no such kernel; accepted: auto, {', '.join(KERNELS)}")])
    ground = Ground(config, device, dtype, block_tokens)
    rejected: list[str] = []
    preferred = KERNELS if device.type == "cuda" else ("gather",)
    for name in preferred if wanted == "auto" else (wanted,):
        reason = why_not(name, ground)
        if reason is None:
            kernel = _kernel(name)
            reason = None if name == "gather" else trial(kernel, ground)
            if reason is None:
                return AttentionChoice(kernel, tuple(rejected))
        rejected.append(f"{name}: {reason}")
    raise ModelError([problem("attention", wanted, f"cannot run here: {line}; use auto") for line in rejected])


def why_not(name: str, ground: Ground) -> str | None:
    """What a kernel lacks here; None if nothing is known to be missing."""
    if name == "gather":
        return None
    if ground.device.type != "cuda":
        return f"needs a CUDA device, not {ground.device.type}"
    return _why_not_varlen(ground) if name == "varlen" else _why_not_flex(ground)


def _why_not_varlen(ground: Ground) -> str | None:
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return f"torch {torch.__version__} has no varlen_attn"
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - older ones lack it

    if "block_table" not in inspect.signature(varlen_attn).parameters:
        return f"varlen_attn of torch {torch.__version__} takes no block_table"
    if ground.dtype not in {torch.float16, torch.bfloat16}:
        return f"FlashAttention computes in float16 or bfloat16, not {ground.dtype}"
    if (capability := torch.cuda.get_device_capability(ground.device)) != (9, 0):
        return f"FlashAttention 3 needs compute capability 9.0, not {capability[0]}.{capability[1]}"
    if importlib.util.find_spec("flash_attn_interface") is None:
        return "FlashAttention 3 (module flash_attn_interface) is not installed"
    return None


def _why_not_flex(ground: Ground) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if ground.block_tokens < 16 or ground.block_tokens & (ground.block_tokens - 1):
        return f"needs blocks of 16 tokens or a larger power of two, not {ground.block_tokens}"
    from torch.nn.attention.flex_attention import BlockMask  # noqa: PLC0415 - beside its use

    if "compute_q_blocks" not in inspect.signature(BlockMask.from_kv_blocks).parameters:
        return f"BlockMask of torch {torch.__version__} takes no compute_q_blocks"
    return None


def _kernel(name: str) -> AttentionKernel:
    if name == "gather":
        return GatherAttention()
    if name == "flex":
        return FlexPagedAttention()
    from torch.nn.attention import activate_flash_attention_impl  # noqa: PLC0415 - older ones lack it
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415

    activate_flash_attention_impl("FA3")
    return VarlenAttention(varlen_attn)


@torch.inference_mode()
def trial(kernel: AttentionKernel, ground: Ground) -> str | None:
    """Compare a kernel with ``gather`` on the small batches of ``TRIAL_BATCHES``, in this model's shape.

    Returns what went wrong, None if nothing did. A kernel that compiles for kinds of shapes does most of it here.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    for spans in TRIAL_BATCHES:
        try:
            difference = _largest_difference(kernel, spans, ground, generator)
        except RuntimeError as error:  # what torch raises for kernels that cannot be compiled or launched
            return f"its trial failed: {type(error).__name__}: {error}".splitlines()[0]
        if not difference <= TOLERANCE[ground.dtype]:
            return f"its trial differs from gather by {difference:.2g}"
    return None


def _largest_difference(
    kernel: AttentionKernel, spans: tuple[tuple[int, int], ...], ground: Ground, generator: np.random.Generator
) -> float:
    """The largest difference between this kernel's outputs and those of ``gather`` on random numbers."""
    config = ground.config

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32)).to(ground.device, ground.dtype)

    counts = [blocks_needed(first + new, ground.block_tokens) for first, new in spans]
    tables = np.split(generator.permutation(sum(counts)), np.cumsum(counts)[:-1])
    cache = PagedKvCache(normal(1, 2, sum(counts), ground.block_tokens, config.kv_heads, config.head_dim))
    slices = [
        SequenceSlice(first, np.zeros(new, dtype=np.int64), table, wants_logits=False)
        for (first, new), table in zip(spans, tables, strict=True)
    ]
    batch = flatten(slices, cache, config.vocabulary)
    tokens = len(batch.token_ids)
    queries = normal(tokens, config.heads, config.head_dim)
    keys, values = (normal(tokens, config.kv_heads, config.head_dim) for _ in range(2))
    cache.write(0, torch.from_numpy(batch.slots).to(ground.device), keys, values)
    expected = GatherAttention().prepare(batch, cache)(0, queries, keys, values)
    found = kernel.prepare(batch, cache)(0, queries, keys, values)
    return float((found - expected).abs().max())
