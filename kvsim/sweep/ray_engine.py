"""Points on a Ray cluster, for grids that outgrow one machine. Needs the extra ``kvsim[ray]``.

Every point is one task of one CPU. The nodes need kvsim installed in the version of this process, and the files that a
scenario names at the same paths. It must not know where results go.
"""

import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from kvsim.sweep.points import Point
from kvsim.sweep.run_point import Failure, Outcome, SweepError, try_point
from kvsim.version import VERSION

TASKS_AHEAD_PER_CPU = 4


def run_on_ray(points: Sequence[Point]) -> Iterator[tuple[Point, Outcome]]:
    """Points with their outcomes as they are finished, in any order. Close the iterator to call off what is left.

    Uses the Ray that this process is connected to; else connects to the cluster that ``RAY_ADDRESS`` names, or that
    runs on this machine, and disconnects at the end. Raises SweepError if there is none.
    """
    ray = _ray()
    connected_before = ray.is_initialized()
    if not connected_before:
        _connect(ray)
    pending: dict[Any, Point] = {}
    try:
        task = ray.remote(num_cpus=1, max_retries=0)(_try_point_of)
        ahead = max(1, int(TASKS_AHEAD_PER_CPU * ray.cluster_resources().get("CPU", 1)))
        waiting = iter(points)
        while True:
            # tasks are handed over a few at a time: one grid must not fill the memory of the cluster's scheduler
            while len(pending) < ahead and (point := next(waiting, None)) is not None:
                pending[task.remote(point, VERSION)] = point
            if not pending:
                return
            (done,), _ = ray.wait(list(pending), num_returns=1)
            yield pending.pop(done), _outcome(ray, done)
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        if not connected_before:
            ray.shutdown()


def _try_point_of(point: Point, version: str) -> Outcome:
    """Runs on a node of the cluster."""
    if version != VERSION:
        return Failure(f"the node that ran it has kvsim {VERSION}, expected {version}")
    return try_point(point)


def _outcome(ray: Any, reference: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Failure(f"Ray lost it: {lines[-1] if lines else type(error).__name__}")
    return outcome


def _ray() -> Any:
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise SweepError("the engine ray needs Ray: pip install 'kvsim[ray]'") from None


def _connect(ray: Any) -> None:
    address = os.environ.get("RAY_ADDRESS") or "auto"
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SweepError(
            f"no Ray cluster at {address}: {reason}; start one (ray start --head) or give its address in RAY_ADDRESS"
        ) from error
