"""A load, played to real workers of this machine from their start to their end.

The caller sees every call of the scheduler through its observers; what comes back is what only this side knows. This
module must not know what the load is for, nor any simulator.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from backends.driver.driver import Observer, Watcher
from backends.driver.requests import Submission
from backends.driver.service import Service, ServiceLimits
from backends.launch.local import LocalLauncher
from backends.transport.bench_load import OtherLoad
from backends.worker.settings import WorkerSettings
from kvsim.core.messages import Labels, WorkerId

LIMITS = ServiceLimits(start_timeout_s=180.0, stop_timeout_s=15.0)
"""For tests and programs that have no others."""


def limits_of(start_timeout_s: float) -> ServiceLimits:
    """These limits with another time until a worker must be there."""
    return replace(LIMITS, start_timeout_s=start_timeout_s)


@dataclass(frozen=True, slots=True)
class Served:
    """``decision_ns``: the mean turn of the scheduler. ``other_cores``: that other processes kept busy meanwhile, on
    average. ``start_s``: until all workers were there."""

    decision_ns: int
    other_cores: float
    start_s: float


class Running:
    """Workers that are there and connected. ``serve`` may be called again and again."""

    def __init__(self, service: Service, vocabulary: int, seed: int) -> None:
        self.service = service
        self._vocabulary = vocabulary
        self._random = np.random.default_rng(np.random.SeedSequence(seed))

    def serve(
        self, requests: Iterable[tuple[int, int, int, int]], timeout_s: float, labels: Sequence[Labels] = ()
    ) -> None:
        """Serve requests to the end: (arrival in ns from now, prompt tokens, output tokens, limit of output tokens)
        each, with their ``labels`` if there are any. Prompts are drawn at random. Raises ServiceError or
        SubmissionError."""
        arrivals = []
        for index, (at_ns, prompt_tokens, output_tokens, limit) in enumerate(requests):
            prompt = self._random.integers(self._vocabulary, size=prompt_tokens).tolist()
            own = labels[index] if labels else ()
            arrivals.append((at_ns, Submission(prompt, limit, output_tokens=output_tokens, labels=own)))
        self.service.serve_arrivals(arrivals, timeout_s)

    @property
    def decision_ns(self) -> int:
        """The mean turn of the scheduler so far."""
        decisions = self.service.decisions
        return decisions.total_ns // max(1, decisions.calls)


@contextmanager
def running_workers(
    settings: WorkerSettings,
    observers: Sequence[Observer],
    watchers: Sequence[Watcher] = (),
    seed: int = 0,
    limits: ServiceLimits = LIMITS,
) -> Iterator[Running]:
    """Workers of these settings as processes of this machine. At the end their block pools must be empty: raises
    AssertionError if something is left. Raises ServiceError, with what a worker said last, if one cannot start."""
    with Service(settings, LocalLauncher(), observers, watchers=watchers, limits=limits) as service:
        service.start()
        yield Running(service, settings.model.config().vocabulary, seed)
        service.close()
        service.driver.scheduler.check()
        assert service.driver.idle, "requests are left when all have been served"


def serve_load(
    settings: WorkerSettings,
    requests: Sequence[tuple[int, int, int, int]],
    observers: Sequence[Observer],
    timeout_s: float,
    seed: int = 0,
    labels: Sequence[Labels] = (),
    limits: ServiceLimits = LIMITS,
) -> Served:
    """Start workers, serve the requests (see ``Running.serve``), end the workers."""
    began_s = time.monotonic()
    with running_workers(settings, observers, seed=seed, limits=limits) as running:
        start_s = time.monotonic() - began_s
        load = other_load(running.service, settings)
        running.serve(requests, timeout_s, labels)
        other_cores = load.cores()
        decision_ns = running.decision_ns
    return Served(decision_ns, other_cores, start_s)


def other_load(service: Service, settings: WorkerSettings) -> OtherLoad:
    """Counts what all processes but this one and the workers use from now on."""
    workers = [service.process(WorkerId(spec.id)) for spec in settings.cluster.workers]
    return OtherLoad([os.getpid(), *(process for process in workers if process)])
