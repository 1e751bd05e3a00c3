"""What ``kvsim fidelity --out`` stores and ``notebooks/fidelity.ipynb`` draws: the table, and points behind its rows.

One JSON document: ``date``, ``rows`` (``kvsim.fidelity.rows.Row``) and ``points``, by section and label two lists of as
many numbers, ``measured`` and ``predicted``, with what they are over in ``x`` where that is drawn.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvsim.fidelity.a100_serving import is_fitted, predictions
from kvsim.fidelity.h100_kernels import LABELS
from kvsim.fidelity.rows import Row
from kvsim.fidelity.vllm_runs import FIRST_STEPS, recorded_runs, replay
from kvsim.presets import load_gpus
from kvsim.profile.fit_kernels import chosen
from kvsim.profile.kernel_import import load
from kvsim.profile.laws import predicted_seconds
from kvsim.profile.nccl_import import held_out, read_groups

_KERNELS_SHOWN = 400
Series = dict[str, dict[str, list[float]]]


def figures(folder: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """The document. ``rows`` are those of all targets on the same folder."""
    return {
        "date": datetime.now(tz=UTC).date().isoformat(),
        "rows": [list(row) for row in rows],
        "points": {
            "vllm": _vllm(folder),
            "a100": _a100(folder),
            "h100": _h100(folder),
            "nccl": _nccl(folder),
        },
    }


def rows_of(document: dict[str, Any]) -> list[Row]:
    """The table of a stored document."""
    return [Row(*row) for row in document["rows"]]


def _series(x: Sequence[float], measured: Sequence[float], predicted: Sequence[float]) -> dict[str, list[float]]:
    columns = {"x": x, "measured": measured, "predicted": predicted}
    return {name: [float(f"{value:.4g}") for value in values] for name, values in columns.items()}


def _vllm(folder: Path) -> Series:
    """Seconds by arrival, of each request."""
    found = {}
    for run in recorded_runs(folder):
        table = replay(run, *FIRST_STEPS.get(run.name, (None, 0))).requests
        for latency, word in (("ttft", "TTFT"), ("tpot", "TPOT"), ("e2e", "latency")):
            told = table.dropna(subset=[f"{latency}_measured_s", f"{latency}_predicted_s"])
            columns = ("arrival_s", f"{latency}_measured_s", f"{latency}_predicted_s")
            x, measured, predicted = (told[column].tolist() for column in columns)
            found[f"{run.name.replace('_', ' ')}, {word}"] = _series(x, measured, predicted)
    return found


def _a100(folder: Path) -> Series:
    """Seconds by tokens of the step."""
    groups: dict[str, list[tuple[float, float, float]]] = {}
    for point, seconds in predictions(folder)[0]:
        held = "fitted" if is_fitted(point) else "not fitted"
        label = f"{point.model} TP {point.tensor_parallel}, {point.kind} ({held})"
        tokens = point.batch if point.output_tokens else point.batch * point.prompt_tokens
        groups.setdefault(label, []).append((tokens, point.seconds, seconds))
    return {label: _series(*zip(*sorted(members), strict=True)) for label, members in groups.items()}


def _h100(folder: Path) -> Series:
    """Microseconds of every so many rows under the preset, which is fitted to all of them; by place in the table."""
    gpu = load_gpus()["h100-sxm"].value
    found = {}
    for name, table in load(folder / "h100_vllm_kernels").tables.items():
        kept = chosen(name, table)
        shown = kept.iloc[:: max(1, len(kept) // _KERNELS_SHOWN)]
        predicted_us = (predicted_seconds(name, shown, gpu) * 1e6).tolist()
        found[LABELS[name]] = _series(list(range(len(shown))), shown["us"].tolist(), predicted_us)
    return found


def _nccl(folder: Path) -> Series:
    """Nanoseconds by bytes of every third size, which the fit did not see."""
    found = {}
    for group in read_groups(folder / "a100_nccl"):
        if group.kind != "send_recv":
            continue
        held, times = held_out(group.points)
        shown = [point for index, point in enumerate(held) if point.size_bytes < 2**20 or index % 6 == 0]
        sizes = [point.size_bytes for point in shown]
        found[group.name.replace("_", " ")] = _series(
            sizes, [point.ns for point in shown], [times.of(size) for size in sizes]
        )
    return found
