"""Workers on the nodes of a Ray cluster, placed by resources. Needs the extra ``kvsim[ray]``.

Ray places processes and tells when they end; orders and reports never go through it (an actor call takes 20 times as
long as a message of the control plane). Three things to know:

* Ray listens on all interfaces of every node, and whoever reaches its ports can run code there. Set
  ``RAY_AUTH_MODE=token``, or keep the cluster on a network of its own; ``RAY_USE_TLS=1`` hides what it sends, and the
  tickets of workers, secret included, are among it. Ray pickles what it sends to its own nodes: that is no channel of
  this package, and a node of the cluster may run code here anyway.
* A node that dies silently is noticed after a minute with Ray's defaults. ``HEALTH_CHECKS`` brings that down to seconds
  where it is in the environment of ``ray start`` on the head node; here it is set for a Ray that this process starts.
* Every node needs this package, and the files that settings name, at the same paths. The driver's channel must be bound
  to an address that the nodes can reach.
"""

import os
from collections.abc import Mapping
from concurrent.futures import Future, wait
from importlib import import_module
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from backends.control.errors import ControlError
from backends.launch.notices import NoticeBox
from backends.launch.port import ExitNotice, WorkerHandle, WorkerLaunch
from backends.launch.ray_shell import WorkerShell

HEALTH_CHECKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "RAY_health_check_initial_delay_ms": "500",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
)
CLOSE_TIMEOUT_S: Final = 5.0
_OPTION_OF: Final = {"CPU": "num_cpus", "GPU": "num_gpus"}


class RayLauncher:
    """See ``backends.launch.port.Launcher``. A worker for whose resources there is no room yet starts when there is.

    Uses the Ray that this process is connected to, and leaves it; or else connects to ``address`` (``RAY_ADDRESS`` or
    the cluster of this machine if None; ``local`` starts one) until ``close``. Raises ControlError if there is none.
    """

    def __init__(self, address: str | None = None) -> None:
        self._ray = _import_ray()
        self._notices = NoticeBox()
        self._actors: dict[int, tuple[Any, Future[ExitNotice]]] = {}
        self._started = 0
        self._connected_here = not self._ray.is_initialized()
        if self._connected_here:
            _connect(self._ray, address or os.environ.get("RAY_ADDRESS") or "auto")

    def start(self, launch: WorkerLaunch) -> WorkerHandle:
        """Ask for an actor with the launch's resources (one CPU if it names none) that runs the worker."""
        options: dict[str, Any] = {"num_cpus": 1.0, "max_restarts": 0, "max_task_retries": 0}
        others = {name: amount for name, amount in launch.resources if name not in _OPTION_OF}
        options |= {_OPTION_OF[name]: amount for name, amount in launch.resources if name in _OPTION_OF}
        handle = WorkerHandle(self._started, launch.ticket.worker, launch.ticket.name)
        self._started += 1
        actor = self._ray.remote(**options, resources=others)(WorkerShell).remote()
        ended: Future[ExitNotice] = actor.run.remote(launch).future()
        self._actors[handle.number] = (actor, ended)
        ended.add_done_callback(lambda future: self._notices.put(_notice(handle, future)))
        return handle

    def kill(self, handle: WorkerHandle) -> None:
        """Kill its actor; the worker dies with it. Harmless if it has ended."""
        if handle.number in self._actors:
            actor, _ = self._actors[handle.number]
            self._ray.kill(actor)

    def exits(self) -> list[ExitNotice]:
        """The workers that have ended since the last call. Does not wait."""
        notices = self._notices.take()
        for notice in notices:
            # an actor lives while somebody holds it
            self._actors.pop(notice.handle.number, None)
        return notices

    def fileno(self) -> int:
        """Readable while ``exits`` has something to tell."""
        return self._notices.fileno()

    def close(self) -> None:
        """Kill every actor of this launcher; disconnect from Ray if this launcher connected. Harmless when closed."""
        for actor, _ in self._actors.values():
            self._ray.kill(actor)
        wait([ended for _, ended in self._actors.values()], timeout=CLOSE_TIMEOUT_S)
        self._actors.clear()
        if self._connected_here:
            self._connected_here = False
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _notice(handle: WorkerHandle, ended: "Future[ExitNotice]") -> ExitNotice:
    error = ended.exception()
    if error is None:
        notice = ended.result()
        return ExitNotice(handle, notice.status, notice.last_lines)
    return ExitNotice(handle, None, tuple(line for line in str(error).splitlines() if line.strip()))


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise ControlError("the launcher ray needs Ray: pip install 'kvsim[ray]'") from None


def _connect(ray: Any, address: str) -> None:
    for name, value in HEALTH_CHECKS.items():
        os.environ.setdefault(name, value)
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ControlError(
            f"no Ray cluster at {address}: {reason}; start one (ray start --head) or give its address in RAY_ADDRESS"
        ) from error
