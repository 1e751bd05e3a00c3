"""Searches of many layouts at once, on all the processor's cores. Results do not depend on how many there are.

It must not decide what is searched.
"""

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType
from typing import Self, TypeVar

from kvsim.parent_watch import end_with_parent
from kvsim.plan.load import Load
from kvsim.plan.probe import Probe, probe
from kvsim.plan.search import STEP, TOLERANCE, Found, find_goodput, sharpen
from kvsim.scenario import Variant

JOBS_MAX = 16

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SearchTask:
    """Find the goodput of one variant, as ``find_goodput`` says."""

    variant: Variant
    load: Load
    expected_per_s: float
    target: float
    floor_per_s: float = 0.0
    tolerance: float = TOLERANCE
    step: float = STEP


@dataclass(frozen=True, slots=True)
class SharpenTask:
    """Find rates around a known goodput that meet and miss the target beyond doubt."""

    variant: Variant
    load: Load
    found: Found


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """One run of a variant at one rate."""

    variant: Variant
    load: Load
    rate_per_s: float


class Workers:
    """Processes that search. To be used in a ``with`` block; one job means this process."""

    def __init__(self, jobs: int | None = None, tell: Callable[[], None] | None = None) -> None:
        self.jobs = jobs if jobs is not None else min(os.cpu_count() or 1, JOBS_MAX)
        self._tell = tell
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.jobs > 1:
            self._executor = ProcessPoolExecutor(self.jobs, mp_context=get_context("spawn"), initializer=_start)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=kind is None, cancel_futures=True)

    def search(self, tasks: Sequence[SearchTask]) -> list[Found]:
        """The goodput of each, in order."""
        return self._map(run_search, tasks)

    def sharpen(self, tasks: Sequence[SharpenTask]) -> list[Found]:
        """Each search with more runs, in order."""
        return self._map(run_sharpen, tasks)

    def probe(self, tasks: Sequence[ProbeTask]) -> list[Probe]:
        """Each run, in order."""
        return self._map(run_probe, tasks)

    def _map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        if self._executor is None:
            results = []
            for task in tasks:
                results.append(function(task))
                self._told()
            return results
        futures: list[Future[Result]] = [self._executor.submit(function, task) for task in tasks]
        for _ in as_completed(futures):
            self._told()
        return [future.result() for future in futures]

    def _told(self) -> None:
        if self._tell is not None:
            self._tell()


def run_search(task: SearchTask) -> Found:
    """Carry out a task."""
    return find_goodput(
        lambda rate: probe(task.variant, task.load, rate),
        task.expected_per_s,
        task.target,
        task.floor_per_s,
        task.tolerance,
        task.step,
    )


def run_sharpen(task: SharpenTask) -> Found:
    """Carry out a task."""
    return sharpen(lambda rate: probe(task.variant, task.load, rate), task.found)


def run_probe(task: ProbeTask) -> Probe:
    """Carry out a task."""
    return probe(task.variant, task.load, task.rate_per_s)


def _start() -> None:
    """Ctrl-C ends a worker at once and without a word, as the parent process says what happened, and so does the end
    of the parent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()
