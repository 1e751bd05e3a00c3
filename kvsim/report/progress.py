"""The progress bar of one long piece of work, on stderr. It must not know what is done."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress


class RunProgress:
    """Where ``advance_to`` goes: a bar, or nowhere. Positions only grow; a smaller one is ignored."""

    def __init__(self, progress: "Progress | None", description: str, total: float) -> None:
        self._progress = progress
        self._task = None if progress is None else progress.add_task(description, total=total)
        self._reached = 0.0

    @property
    def is_shown(self) -> bool:
        """Whether anybody sees it."""
        return self._progress is not None

    def advance_to(self, position: float, *, total: float | None = None, description: str | None = None) -> None:
        """Say that ``position`` of the total is done. A new total or description replaces the one before."""
        self._reached = max(self._reached, position)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._reached, total=total, description=description)


@contextmanager
def run_progress(total: float, description: str) -> Iterator[RunProgress]:
    """A progress bar on stderr while the block runs; nothing at all where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield RunProgress(None, description, total)
        return
    from rich import progress  # noqa: PLC0415  # a run in a pipe needs none of it

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        yield RunProgress(bar, description, total)
