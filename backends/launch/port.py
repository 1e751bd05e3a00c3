"""What every launcher offers: start a worker process somewhere, tell when it ends, end it.

Launchers differ in where processes run and in nothing else: the worker is the same module with the same ticket. This
module must not know what a worker does, nor the control protocol beyond the ticket that it passes on.
"""

import signal
from dataclasses import dataclass
from typing import Protocol

from backends.control.ticket import LaunchTicket
from kvsim.core.messages import WorkerId

WORKER_MODULE = "backends.worker.main"
LAST_LINES = 20
"""How many of a worker's last lines an exit notice keeps."""


@dataclass(frozen=True, slots=True)
class WorkerLaunch:
    """What to start.

    ``module`` is run as ``python -m``; it finds ``ticket`` with ``read_ticket(os.environ)``. ``environment`` is added
    to the worker's environment and must hold no secrets. ``resources`` (``("GPU", 1.0)``, ``("prefill", 1.0)``, ...)
    say where it may be placed; a launcher with one machine ignores them.
    """

    ticket: LaunchTicket
    module: str = WORKER_MODULE
    environment: tuple[tuple[str, str], ...] = ()
    resources: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerHandle:
    """One started process. ``number`` counts the starts of its launcher: a worker that is started again has another."""

    number: int
    worker: WorkerId
    name: str


@dataclass(frozen=True, slots=True)
class ExitNotice:
    """A worker process has ended. Each start gives exactly one.

    ``status`` is its exit status, minus the signal's number if a signal ended it, None if nobody knows (its machine is
    gone). ``last_lines`` are the last ones that it wrote to stdout and stderr.
    """

    handle: WorkerHandle
    status: int | None
    last_lines: tuple[str, ...]

    def __str__(self) -> str:
        """What happened, and the last lines, for the user."""
        match self.status:
            case None:
                how = "was lost"
            case status if status < 0:
                how = f"was ended by {_signal_name(-status)}"
            case status:
                how = f"ended with exit status {status}"
        lines = "".join(f"\n    {line}" for line in self.last_lines)
        return f"worker {self.handle.name} {how}" + (f"; its last lines:{lines}" if lines else "")


class Launcher(Protocol):
    """Starts, watches and ends workers. Owned by one thread; nothing here waits for a worker to get ready."""

    def start(self, launch: WorkerLaunch) -> WorkerHandle:
        """Start a worker. Raises ControlError if the process cannot be made; later failures come as exit notices."""
        ...

    def kill(self, handle: WorkerHandle) -> None:
        """End it at once, whatever it is doing; its exit notice follows. Harmless if it has ended."""
        ...

    def exits(self) -> list[ExitNotice]:
        """The workers that have ended since the last call, in the order in which that was noticed. Does not wait."""
        ...

    def fileno(self) -> int:
        """A file descriptor that is readable while ``exits`` has something to tell: for ``DriverChannel.wake_on``."""
        ...

    def close(self) -> None:
        """End every process that this launcher started and that still runs, and no other. Harmless when closed."""
        ...


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
