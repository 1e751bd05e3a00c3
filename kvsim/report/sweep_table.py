"""A sweep on the terminal: a table of its statistics, and a progress bar with the time that is left.

This module must not compute a metric; it is given statistics.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from kvsim.report.style import decimals_for, number_text, time_unit
from kvsim.report.sweep_looks import LABELS, short_names, table_metrics

if TYPE_CHECKING:
    import pandas as pd

ROWS_MAX = 60


def sweep_table(statistics: "pd.DataFrame", differences: "pd.DataFrame", knobs: Sequence[str]) -> Table:
    """A row per combination and variant; with several seeds each mean has the reach of its 95 % interval.

    The last column is the change of the mean E2E against the first variant, with its reach. Longer tables end after
    ``ROWS_MAX`` rows.
    """
    names = short_names(knobs)
    metrics = table_metrics(statistics)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for knob in knobs:
        table.add_column(Text(names[knob].replace(".", ".\n").replace(" (", "\n(")), justify="right", overflow="fold")
    table.add_column("variant", no_wrap=True)
    cells = {metric: _metric_cells(statistics, metric) for metric in metrics}
    for metric in metrics:
        table.add_column(f"{LABELS[metric].replace('attainment', 'met')} ({cells[metric][0]})", justify="right")
    changes = _changes(differences)
    if changes:
        table.add_column("E2E vs first (%)", justify="right")
    rows = statistics.drop_duplicates(["cell", "variant"])
    for _, row in rows.head(ROWS_MAX).iterrows():
        key = (row["cell"], row["variant"])
        values = [cells[metric][1].get(key, "–") for metric in metrics]
        change = [changes.get(key, "")] if changes else []
        knob_texts = [f"{row[knob]:g}" if isinstance(row[knob], float) else str(row[knob]) for knob in knobs]
        table.add_row(*(Text(text) for text in (*knob_texts, row["variant"], *values, *change)))
    if len(rows) > ROWS_MAX:
        table.caption = f"{len(rows) - ROWS_MAX} more rows are in the table file"
    return table


def _metric_cells(statistics: "pd.DataFrame", metric: str) -> tuple[str, dict[Any, str]]:
    """The unit, and the text of each combination and variant."""
    rows = statistics[statistics["metric"] == metric]
    factor, unit = time_unit(rows["mean"])
    if metric == "slo_attainment":
        factor, unit = 100.0, "%"
    elif metric == "goodput_req_per_s":
        factor, unit = 1.0, "req/s"
    digits = 1 if unit == "%" else decimals_for([float((rows["mean"] * factor).abs().max())])
    return unit, {
        (cell, variant): _with_reach(mean * factor, (high - mean) * factor, digits)
        for cell, variant, mean, high in zip(rows["cell"], rows["variant"], rows["mean"], rows["high"], strict=True)
    }


def _changes(differences: "pd.DataFrame") -> Mapping[Any, str]:
    rows = differences[(differences["metric"] == "e2e_s.mean") & (differences["base_mean"] > 0)]
    return {
        (cell, variant): _with_reach(100 * mean / base, 100 * (high - mean) / base, 1, sign="+")
        for cell, variant, mean, high, base in zip(
            rows["cell"], rows["variant"], rows["mean"], rows["high"], rows["base_mean"], strict=True
        )
    }


def _with_reach(value: float, reach: float, digits: int, sign: str = "") -> str:
    text = f"{value:{sign}z.{digits}f}" if sign else number_text(value, digits)
    return f"{text} ±{reach:.{digits}f}" if isfinite(reach) else text


class PointsProgress:
    """Where ``advance_to`` goes: a bar, or nowhere."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def advance_to(self, phase: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` of a phase are done. A new phase replaces the one before."""
        if self._progress is None:
            return
        if phase not in self._tasks:
            for task in self._tasks.values():
                self._progress.update(task, visible=False)
            self._tasks[phase] = self._progress.add_task(phase, total=total)
        self._progress.update(self._tasks[phase], completed=done)


class _TimeLeftColumn(ProgressColumn):
    """Time so far, times what is to do over what is done; nothing before the first point."""

    def __init__(self) -> None:
        super().__init__()
        self._news: dict[int, tuple[float, float]] = {}  # task -> points done, and when the last one was

    def render(self, task: Task) -> Text:
        """The text of the column, such as ``3:20 left``."""
        if not task.completed or task.total is None or task.elapsed is None:
            return Text("")
        now = time.monotonic()
        done, since = self._news.get(task.id, (0.0, now))
        if done != task.completed:
            since = now
            self._news[task.id] = (task.completed, now)
        waited_s = now - since
        left_s = max(0.0, (task.elapsed - waited_s) * (task.total - task.completed) / task.completed - waited_s)
        minutes, seconds = divmod(round(left_s), 60)
        hours, minutes = divmod(minutes, 60)
        return Text(f"{hours}:{minutes:02d}:{seconds:02d} left" if hours else f"{minutes}:{seconds:02d} left")


@contextmanager
def points_progress() -> Iterator[PointsProgress]:
    """A progress bar on stderr while the block runs; nothing at all where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield PointsProgress(None)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    timing = (TimeElapsedColumn(), _TimeLeftColumn())
    with Progress(*columns, *timing, console=Console(file=sys.stderr), transient=True) as progress:
        yield PointsProgress(progress)
