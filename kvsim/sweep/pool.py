"""Points on the cores of this machine: one process per core, fed one point at a time.

A process that dies takes one point with it, whose name is known, and is replaced; ``concurrent.futures`` would give up
all points and not say which one it was. It must not know where results go.
"""

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from kvsim.parent_watch import end_with_parent
from kvsim.sweep.points import Point
from kvsim.sweep.run_point import Failure, Outcome, SweepError, try_point

_READY = "ready"
_JOIN_S = 10.0


def available_cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_here(points: Sequence[Point]) -> Iterator[tuple[Point, Outcome]]:
    """One after the other in this process."""
    for point in points:
        yield point, try_point(point)


def run_on_processes(points: Sequence[Point], workers: int) -> Iterator[tuple[Point, Outcome]]:
    """Points with their outcomes as they are finished, in any order. Close the iterator to end the processes.

    Raises SweepError if processes cannot be started at all.
    """
    waiting = deque(points)
    crew: list[_Worker] = []
    try:
        while waiting or any(worker.point for worker in crew):
            while len(crew) < workers and waiting:
                crew.append(_Worker())
                crew[-1].give(waiting.popleft())
            ready = wait([worker.connection for worker in crew if worker.point is not None])
            for worker in [worker for worker in crew if worker.connection in ready]:
                point = worker.point
                assert point is not None, "an idle worker has news"
                outcome = worker.outcome()
                if outcome is None:  # it only said that it is up
                    continue
                if worker.lost:
                    crew.remove(worker)
                    worker.end()
                elif waiting:
                    worker.give(waiting.popleft())
                yield point, outcome
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    """A process of this machine with the point that it is at work on."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.point: Point | None = None
        self.lost = False
        self._up = False
        self._process: SpawnProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _interrupts_held():
            self._process.start()
        theirs.close()  # the end of the process is then the end of the connection

    def give(self, point: Point) -> None:
        """Have it simulate a point."""
        self.point = point
        try:
            self.connection.send(point)
        except OSError:  # it is dead already, which ``outcome`` will find
            return

    def outcome(self) -> Outcome | None:
        """What came of the point; None for the news that the process is up. To be called when there is news."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            return self._failure()
        if message == _READY:
            self._up = True
            return None
        self.point = None
        outcome: Outcome = message
        return outcome

    def end(self) -> None:
        """Stop the process, whatever it does."""
        self._process.kill()
        self._process.join(_JOIN_S)
        self.connection.close()

    def _failure(self) -> Failure:
        self._process.join(_JOIN_S)
        code = self._process.exitcode
        how = f"exit status {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name + (" (out of memory?)" if -code == signal.SIGKILL else "")
        if not self._up:
            raise SweepError(
                f"a worker process ended with {how} before it began; in a script of your own, call run_sweep under "
                "if __name__ == '__main__', or with workers=1"
            )
        self.lost = True
        return Failure(f"its process ended with {how}")


def _serve(connection: Connection) -> None:
    """The life of a worker process: it ends when the other side hangs up, or at once when that is killed."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where ``_interrupts_held`` can do nothing
    try:
        connection.send(_READY)
        while True:
            connection.send(try_point(connection.recv()))
    except (EOFError, OSError):
        return


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that is started within never sees Ctrl-C, which a terminal sends to all: this process ends it."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # else the first start would do it, and let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
