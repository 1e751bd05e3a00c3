"""Real workers behind one scheduler: start them, submit requests, read their tokens, stop.

``Service`` is what programs use. ``serve_arrivals`` plays a load in the calling thread, to the end; ``start_thread``
serves until ``close``, for clients in other threads. Everything that ends badly is a ServiceError with the reason, for
every stream that was open and every later call; every wait has a limit.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Self

from backends.control.compatibility import Compatibility
from backends.control.driver_channel import DriverChannel
from backends.control.errors import ControlError
from backends.control.heartbeat import HEARTBEAT_INTERVAL_NS, LATE_AFTER_NS, HeartbeatWatch
from backends.control.ticket import new_secret
from backends.driver.arrivals import Arrivals
from backends.driver.connections import Readdress
from backends.driver.driver import Driver, Observer, Watcher
from backends.driver.errors import ServiceError, SubmissionError
from backends.driver.fleet import Fleet, Resources
from backends.driver.loop import Decisions, Loop
from backends.driver.requests import Submission
from backends.driver.streams import Stream, Streams
from backends.launch.port import Launcher
from backends.worker.settings import WorkerSettings
from kvsim.core.cluster import Role
from kvsim.core.messages import RequestId, WorkerId

DRAIN_POLL_S = 0.01

_log = logging.getLogger("kvsim.driver")


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """How long the service waits: for a worker to be there and connected, at first and whenever it is started again,
    for all to end when asked, and for a silent one to be given up (``late_after_ns``; they beat every
    ``heartbeat_interval_ns``)."""

    start_timeout_s: float = 120.0
    stop_timeout_s: float = 10.0
    heartbeat_interval_ns: int = HEARTBEAT_INTERVAL_NS
    late_after_ns: int = LATE_AFTER_NS


class Service:
    """Made of ``settings`` that all workers share. ``observers`` see every call of the scheduler, as in the simulator,
    with instants that count from the end of ``start``; ``watchers`` see every report. ``resources`` say by role what a
    launcher must find for a worker. ``bind`` is where workers reach the driver; ``readdress`` changes how they reach
    each other. The launcher is closed with the service."""

    def __init__(
        self,
        settings: WorkerSettings,
        launcher: Launcher,
        observers: Sequence[Observer] = (),
        *,
        watchers: Sequence[Watcher] = (),
        resources: Mapping[Role, Resources] = MappingProxyType({}),
        bind: str = "tcp://127.0.0.1:0",
        limits: ServiceLimits = ServiceLimits(),
        readdress: Readdress | None = None,
    ) -> None:
        self._config = settings.model.config()
        self._cluster = settings.cluster
        self._launcher = launcher
        self._limits = limits
        self._streams = Streams()
        self._ids = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._shut = False
        self._error: BaseException | None = None
        secret = new_secret()
        compatibility = Compatibility(settings.model.fingerprint(), settings.model.dtype, settings.cluster.kv)
        self._channel = DriverChannel(bind, secret, compatibility, limits.heartbeat_interval_ns)
        watch = HeartbeatWatch(limits.late_after_ns)
        start_timeout_ns = round(limits.start_timeout_s * 1e9)
        self._fleet = Fleet(
            settings, launcher, self._channel, watch, secret, resources, readdress, start_timeout_ns=start_timeout_ns
        )
        self.driver = Driver(
            settings.cluster, self._config.vocabulary, self._fleet.send, self._streams, observers, watchers
        )
        clock_ns = time.monotonic_ns
        self._loop = Loop(self.driver, self._fleet, self._channel, launcher, clock_ns, self._new_id)

    # --- one thread ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers and wait until all are connected. Raises ServiceError, with what a worker said last, if one
        cannot be started or not all are there in time."""
        for spec in self._cluster.workers:
            if spec.present:
                self._loop.launch(spec.id)
        # one that is late is ended, and what it said last is the error; this is for a launcher that cannot end it
        timeout_s = self._limits.start_timeout_s + self._limits.stop_timeout_s
        if not self._until(self._fleet.complete, timeout_s):
            raise ServiceError(f"after {timeout_s} s these workers are not connected: {self._fleet.waiting_for()}")
        self._loop.begin()

    def serve_arrivals(self, arrivals: Iterable[tuple[int, Submission]], timeout_s: float) -> None:
        """Submit each request at its instant, in ns from now, and serve until all are over. Raises SubmissionError
        before anything is served if one cannot be, ServiceError if the workers fail or the time is over."""
        now_ns = self._loop.now_ns
        planned = []
        for request, (at_ns, submission) in enumerate(arrivals):
            try:
                planned.append((now_ns + at_ns, self._checked(submission)))
            except SubmissionError as error:
                raise SubmissionError(f"request {request}: {error}") from None
        self._loop.arrivals = Arrivals(planned)
        if not self._until(lambda: self._loop.idle, timeout_s):
            live = self.driver.scheduler.requests_live
            raise ServiceError(f"after {timeout_s} s {live} requests are not over")

    @property
    def decisions(self) -> Decisions:
        """How long the scheduler's turns took."""
        return self._loop.decisions

    def close(self) -> None:
        """End the workers, by force if they do not end when asked, and everything else. Harmless when closed."""
        if self._thread is not None and self._thread.is_alive():
            self._stopping = True
            self._loop.asked.put(lambda: None)
            self._thread.join()
        self._shut_down()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- any thread ---------------------------------------------------------------------------------------------------

    def start_thread(self) -> None:
        """Serve in a thread of its own from now on, until ``close``."""
        self._thread = threading.Thread(target=self._serve, name="kvsim driver", daemon=True)
        self._thread.start()

    def submit(self, submission: Submission) -> Stream:
        """Ask for a request. Raises SubmissionError if it cannot be, or the error with which the service ended."""
        checked = self._checked(submission)
        stream = self._streams.open(self._new_id())
        self._loop.asked.put(lambda: self.driver.submit(stream.request, checked))
        return stream

    def drain(self, timeout_s: float) -> None:
        """Wait until every request so far is over and everything that it held is free. Raises ServiceError if that
        takes longer."""
        idle = threading.Event()
        deadline_s = time.monotonic() + timeout_s
        while not idle.wait(DRAIN_POLL_S):
            if self._error is not None:
                raise self._error
            if time.monotonic() >= deadline_s:
                raise ServiceError(f"{self.driver.scheduler.requests_live} requests are not over")
            self._loop.asked.put(lambda: idle.set() if self._loop.idle else None)

    def process(self, worker: WorkerId) -> int:
        """The operating system's id of a worker's process on its host; 0 if it is not serving."""
        return self._fleet.process(worker)

    def is_away(self, worker: WorkerId) -> bool:
        """Whether no process of this worker is left, so that it may be launched. A worker that was lost is known to be
        lost a moment before that."""
        return self._fleet.is_away(worker)

    def cancel(self, request: RequestId) -> None:
        """The output of this request is wanted no more. Harmless if it is over."""
        self._loop.asked.put(lambda: self.driver.cancel(request))

    def launch(self, worker: WorkerId) -> None:
        """Start a worker that is not there, or no longer; the scheduler gives it work when it is connected. One that is
        not within the start timeout is ended, and can be started anew; as can one whose process cannot be made, which
        is logged. Raises ServiceError if its last process has not ended (see ``is_away``)."""
        if not self.is_away(worker):
            name = self._cluster.workers[worker].name
            raise ServiceError(f"worker {name} cannot be started: its last process has not ended")
        self._loop.asked.put(lambda: self._launch_again(worker))

    def dismiss(self, worker: WorkerId) -> None:
        """Let a worker end when it has finished what it has."""
        self._loop.asked.put(lambda: self.driver.worker_leaving(worker))

    # --- parts --------------------------------------------------------------------------------------------------------

    def _new_id(self) -> RequestId:
        return RequestId(next(self._ids))

    def _launch_again(self, worker: WorkerId) -> None:
        if self._fleet.is_away(worker):  # two threads may have asked
            try:
                self._loop.launch(worker)
            except ControlError as error:
                _log.warning("%s", error)  # the others serve on without it

    def _checked(self, submission: Submission) -> Submission:
        return submission.checked(self._config.vocabulary, self._config.context_tokens_max)

    def _until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() >= deadline_s:
                return False
            self._loop.turn()
        return True

    def _serve(self) -> None:
        try:
            while not self._stopping:
                self._loop.turn()
            self._streams.fail(ServiceError("the service was closed"))
        except BaseException as error:
            self._error = error
            self._streams.fail(error)
            self._shut_down()

    def _shut_down(self) -> None:
        if self._shut:
            return
        self._shut = True
        self._fleet.stop()
        deadline_s = time.monotonic() + self._limits.stop_timeout_s
        try:
            while not self._fleet.all_away and time.monotonic() < deadline_s:
                self._loop.wind_down()
        finally:
            self._launcher.close()  # ends by force what is left
            self._channel.close()
