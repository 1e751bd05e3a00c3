"""From tables of kernels to the steps of one model: what ``kvsim profile steps`` does.

Products and attention take what ``kvsim.profile.interpolate`` says; the small kernels, collectives and the embedding
what the roofline says, as no table has them. The steps so composed become the tables of a profile as measured steps do
(``kvsim.profile.fit``), with what is left over; the simulator then needs no kernels. It must not know files.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kvsim.core.integers import div_ceil
from kvsim.errors import KvsimError
from kvsim.profile.fit import FittedSteps, fit_steps
from kvsim.profile.fit_kernels import chosen
from kvsim.profile.interpolate import KernelTable
from kvsim.profile.laws import predicted_seconds
from kvsim.profile.least_squares import Floats
from kvsim.profile.points import StepPoint
from kvsim.profile.product_shapes import product_shapes
from kvsim.sim.compute import StepModel
from kvsim.sim.hardware import GpuSpec, ModelShape

if TYPE_CHECKING:
    import pandas as pd

_TABLES = ("gemm", "context_attention", "generation_attention")
_PROMPTS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_STARTS = (1024, 4096, 16384)
_CHUNKS = ((128, 2), (128, 8), (512, 2), (512, 4), (512, 8), (1024, 4), (2048, 4))
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONTEXTS = (128, 512, 1024, 2048, 4096, 8192)


class StepTablesError(KvsimError):
    """Tables of kernels do not hold what the steps of a model need."""


class _Ratios:
    """What the tables say over what the law says, for shapes of one model on one GPU of a worker."""

    def __init__(self, tables: "Mapping[str, pd.DataFrame]", gpu: GpuSpec, model: ModelShape, ranks: int) -> None:
        self._gpu, self._model, self._ranks = gpu, model, ranks
        self._shapes = product_shapes(model, ranks)
        self._tables = {name: KernelTable(name, chosen(name, tables[name]), gpu) for name in _TABLES}
        self.asked = self.by_law = self.outside = 0

    def products(self, rows: int, names: Sequence[str]) -> Floats:
        """Of the products of these names over ``rows`` rows."""
        import pandas as pd  # noqa: PLC0415

        shapes = [self._shapes[name] for name in names]
        asked = pd.DataFrame({"dtype": "bfloat16", "m": rows, "n": [n for n, _ in shapes], "k": [k for _, k in shapes]})
        return self._of("gemm", asked)

    def attention(self, name: str, batch: int, tokens: int) -> float:
        """Of one layer's attention. Prompts: those that start from nothing, also for later chunks."""
        import pandas as pd  # noqa: PLC0415

        shape = {"dtype": "bfloat16", "kv_dtype": "bfloat16", "batch": batch, "tokens": tokens, "window": 0}
        shape |= {"heads": self._model.heads // self._ranks, "kv_heads": div_ceil(self._model.kv_heads, self._ranks)}
        if name == "context_attention":
            shape["start"] = 0
        return float(self._of(name, pd.DataFrame([{**shape, "head_dim": self._model.head_dim}]))[0])

    def _of(self, name: str, shapes: "pd.DataFrame") -> Floats:
        answer = self._tables[name].times(shapes)
        told = ~np.isnan(answer.seconds)
        self.asked += len(shapes)
        self.by_law += int((~told).sum())
        self.outside += int((told & answer.outside).sum())
        law_s = predicted_seconds(name, shapes, self._gpu)
        return np.asarray(np.where(told, answer.seconds / law_s, 1.0), dtype=np.float64)


def steps_of(
    tables: "Mapping[str, pd.DataFrame]", model: ModelShape, gpu: GpuSpec, tensor_parallel: int
) -> FittedSteps:
    """Durations of steps without ``gpu.step_ns``, which the engine takes between two. Raises StepTablesError."""
    missing = [name for name in _TABLES if name not in tables]
    if missing:
        raise StepTablesError(f"found no table {', '.join(missing)}, expected {', '.join(_TABLES)}")
    if model.experts > 1:
        raise StepTablesError(f"found {model.name}, a mixture of experts, expected a dense model: no table has experts")
    if model.heads % tensor_parallel:
        raise StepTablesError(f"found tensor_parallel {tensor_parallel}, expected a divisor of {model.heads} heads")
    steps = StepModel(model, gpu, tensor_parallel)
    ratios = _Ratios(tables, gpu, model, tensor_parallel)
    points = [_prompt_point(steps, ratios, gpu, [(0, tokens)]) for tokens in _PROMPTS]
    points += [
        _prompt_point(steps, ratios, gpu, [(start, tokens)])
        for start in _STARTS
        for tokens in _PROMPTS
        if tokens <= 2048
    ]
    points += [_prompt_point(steps, ratios, gpu, [(0, tokens)] * count) for tokens, count in _CHUNKS]
    points += [_decode_point(steps, ratios, gpu, batch, context) for batch in _BATCHES for context in _CONTEXTS]
    found = fit_steps(points)
    notes = [
        "composed of kernels: norms, rotation, gate, embedding and collectives are the roofline's",
        "attention of chunks behind other tokens was not measured: the law's, by what it is off for prompts",
    ]
    for count, why in ((ratios.by_law, "the law's, as no measured shape is near"), (ratios.outside, "extrapolated")):
        if count:
            notes.append(f"{count:,} of {ratios.asked:,} kernel times are {why}")
    return FittedSteps(found.steps, found.residuals, (*notes, *found.notes))


def _prompt_point(steps: StepModel, ratios: _Ratios, gpu: GpuSpec, chunks: Sequence[tuple[int, int]]) -> StepPoint:
    """A step over chunks of as many tokens each."""
    ratio = ratios.attention("context_attention", len(chunks), chunks[0][1])
    seconds = _composed_s(steps, ratios, gpu, chunks, 0, 0, ratio)
    return StepPoint(tuple(chunks), 0, 0, seconds * 1e9)


def _decode_point(steps: StepModel, ratios: _Ratios, gpu: GpuSpec, batch: int, context: int) -> StepPoint:
    ratio = ratios.attention("generation_attention", batch, context)
    return StepPoint(
        (), batch, batch * context, _composed_s(steps, ratios, gpu, (), batch, batch * context, ratio) * 1e9
    )


def _composed_s(
    steps: StepModel,
    ratios: _Ratios,
    gpu: GpuSpec,
    chunks: Sequence[tuple[int, int]],
    decodes: int,
    context_tokens: int,
    attention: float,
) -> float:
    """The roofline's step, with products and attention as the tables say."""
    costs = steps.breakdown_prefill(chunks, decodes, context_tokens)
    tokens = sum(count for _, count in chunks) + decodes
    qkv, output, gate_and_up, down = ratios.products(
        tokens, ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    ).tolist()
    lm_head = float(ratios.products(len(chunks) + decodes, ("lm_head",))[0])
    mlp = (2 * gate_and_up + down) / 3  # weights and FLOPs of gate and up are twice those of down
    changes_s = (
        (qkv - 1) * costs.qkv_s
        + (output - 1) * costs.attention_output_s
        + (mlp - 1) * costs.mlp_s
        + (lm_head - 1) * costs.lm_head_s
        + (attention - 1) * costs.attention_s
    )
    return float(costs.total_s + changes_s - gpu.step_ns / 1e9)
