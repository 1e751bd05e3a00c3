"""End-to-end times of an engine: how long a batch of prompts and a decode step took, as points to fit and to check.

The table is that of Mutinifni/splitwise-sim (``data/perf-model.csv``): one row per measurement, times in milliseconds.
Rows under the same conditions are folded (median). Rows that cannot be true, or that were not served as one batch, are
left out, and that is said.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvsim.errors import KvsimError
from kvsim.presets import load_models
from kvsim.sim.hardware import GpuSpec, ModelShape

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    "model",
    "hardware",
    "tensor_parallel",
    "prompt_size",
    "batch_size",
    "token_size",
    "prompt_time",
    "token_time",
    "e2e_time",
)
_CONDITIONS = ["model", "hardware", "tensor_parallel", "prompt_size", "batch_size"]
_MODELS = {"llama2-70b": "llama-2-70b", "bloom-176b": "bloom-176b"}
_INTERRUPTED = 1.25
"""Where the whole took this much longer than its parts, requests were preempted or swapped in between."""


class ServingError(KvsimError):
    """A table of end-to-end times cannot be used: every problem, a line each."""


@dataclass(frozen=True, slots=True)
class ServingPoint:
    """``batch`` prompts of ``prompt_tokens`` each in one step, or one decode step in the middle of ``output_tokens``;
    those are 0 for prompts. ``hardware`` and ``model`` as the table calls them."""

    model: str
    hardware: str
    tensor_parallel: int
    prompt_tokens: int
    batch: int
    output_tokens: int
    seconds: float

    @property
    def kind(self) -> str:
        """prompt or token."""
        return "token" if self.output_tokens else "prompt"

    @property
    def shape(self) -> ModelShape:
        """The model."""
        return load_models()[_MODELS[self.model]].value


def read_serving(path: Path, gpu: GpuSpec) -> tuple[list[ServingPoint], list[str]]:
    """The points of a table, and notes on rows left out. ``gpu`` is what they were measured on. Raises ServingError."""
    import pandas as pd  # noqa: PLC0415

    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ServingError(f"{path}: no table that can be read: {error}") from error
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        raise ServingError(f"{path}: columns {', '.join(missing)} are missing, expected {', '.join(_COLUMNS)}")
    unknown = sorted(set(table["model"]) - set(_MODELS))
    if unknown:
        raise ServingError(f"{path}: found model {', '.join(unknown)}, expected one of {', '.join(_MODELS)}")
    numbers = [column for column in _COLUMNS if column not in ("model", "hardware")]
    if not all(pd.api.types.is_numeric_dtype(table[column]) for column in numbers):
        raise ServingError(f"{path}: expected numbers in {', '.join(numbers)}")
    notes: list[str] = []
    parts_ms = table["prompt_time"] + (table["token_size"] - 1) * table["token_time"]
    whole = table["e2e_time"] <= _INTERRUPTED * parts_ms
    if not bool(whole.all()):
        left = ", ".join(_named(row) for row in table[~whole].drop_duplicates(_CONDITIONS).itertuples())
        notes.append(f"left out as not served as one batch (the whole took longer than its parts): {left}")
    points = _points(table[whole])
    _check_units(path, points, gpu)
    return points, notes


def _named(row: object) -> str:
    fields = ("model", "tensor_parallel", "prompt_size", "batch_size")
    model, ranks, tokens, batch = (getattr(row, field) for field in fields)
    return f"{model} TP {ranks}, {batch} x {tokens} tokens"


def _points(table: "pd.DataFrame") -> list[ServingPoint]:
    prompts = table.groupby(_CONDITIONS)[["prompt_time"]].median().reset_index().assign(token_size=0)
    tokens = table.groupby([*_CONDITIONS, "token_size"])[["token_time"]].median().reset_index()
    found = []
    for part, column in ((prompts, "prompt_time"), (tokens, "token_time")):
        numbers = part[["tensor_parallel", "prompt_size", "batch_size", "token_size"]].to_numpy(dtype=int).tolist()
        names = part[["model", "hardware"]].to_numpy(dtype=str).tolist()
        seconds = (part[column].to_numpy(dtype=float) / 1e3).tolist()
        for (model, hardware), (ranks, prompt, batch, output), second in zip(names, numbers, seconds, strict=True):
            found.append(ServingPoint(model, hardware, ranks, prompt, batch, output, second))
    return found


def _check_units(path: Path, points: list[ServingPoint], gpu: GpuSpec) -> None:
    """No step may beat the datasheet; all of them hundreds of times slower is a wrong unit as well."""
    shares = sorted(least_step_s(point, gpu) / point.seconds for point in points)
    if not shares or (points and min(point.seconds for point in points) <= 0):
        raise ServingError(f"{path}: found no points, or times of 0 or less")
    if shares[-1] > 1:
        worst = max(points, key=lambda point: least_step_s(point, gpu) / point.seconds)
        raise ServingError(
            f"{path}: {worst.kind} time {worst.seconds * 1e3:.4g} ms of {worst.batch} x {worst.prompt_tokens} tokens "
            f"is {shares[-1]:.3g} times as fast as {worst.tensor_parallel} x {gpu.name} can be by the datasheet: is "
            "the unit wrong by a factor of 1000, or the GPU another?"
        )
    if shares[len(shares) // 2] < 0.005:
        raise ServingError(
            f"{path}: half of the times reach less than {shares[len(shares) // 2]:.2g} of what {gpu.name} allows by "
            "the datasheet: is the unit wrong by a factor of 1000?"
        )


def least_step_s(point: ServingPoint, gpu: GpuSpec) -> float:
    """Seconds that the datasheet allows at least: weights are multiplied with every token, and read once."""
    shape = point.shape
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim * shape.hidden
    weights = shape.layers * (attention + 3 * shape.hidden * shape.intermediate) / point.tensor_parallel
    tokens = point.batch if point.output_tokens else point.batch * point.prompt_tokens
    return max(2 * weights * tokens / gpu.flops_per_s, weights * shape.dtype_bytes / gpu.memory_bytes_per_s)
