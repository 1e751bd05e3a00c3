"""The launcher on Ray: the same worker, started, watched and ended through a small Ray that nobody else can reach."""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_sweep_ray import run_isolated

from backends.control.errors import ControlError
from backends.launch.ray import RayLauncher

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'kvsim[ray]'")

ON_RAY = """
import os, select, signal, sys
from dataclasses import replace

tests, folder = sys.argv[1:]
sys.path.insert(0, tests)
import ray

from backends.control.messages import Heartbeat, Ready, Stop
from backends.launch.ray import RayLauncher
from control_world import PATIENCE_S, listen_for, make_driver, make_ticket, stand_in, until, wait_for_exits
from test_launch_local import is_running

def start(worker, role, resources):
    launch = stand_in(make_ticket(driver, worker, role))
    handle = launcher.start(replace(launch, resources=resources))
    if role == b"crash":
        return handle, 0
    ready = listen_for(driver, Ready)
    assert ready.worker == worker, ready
    return handle, ready.message.process

ray.init(address="local", num_cpus=2, resources={"decode": 1}, include_dashboard=False,
         object_store_memory=80 << 20, log_to_driver=False, _temp_dir=folder)
try:
    with make_driver() as driver, RayLauncher() as launcher:
        driver.wake_on(launcher.fileno())
        for worker in range(5):
            driver.expect(worker)

        served, process = start(0, b"serve", (("CPU", 0.5),))
        listen_for(driver, Heartbeat)
        assert driver.send(0, Stop())
        [notice] = wait_for_exits(launcher, 1)
        print("served", notice.handle == served, notice.status, notice.last_lines)

        crashed, _ = start(1, b"crash", (("CPU", 0.5),))
        [notice] = wait_for_exits(launcher, 1)
        print("crashed", notice.handle == crashed, notice.status, notice.last_lines)

        hung, process = start(2, b"hang", (("CPU", 0.5), ("decode", 1.0)))
        os.kill(process, signal.SIGKILL)
        [notice] = wait_for_exits(launcher, 1)
        print("killed", notice.handle == hung, notice.status)

        hung, process = start(3, b"hang", (("CPU", 0.5), ("decode", 1.0)))
        launcher.kill(hung)
        [notice] = wait_for_exits(launcher, 1)
        print("ended", notice.handle == hung, notice.status)
        until(lambda: not is_running(process))

        hung, process = start(4, b"hang", (("CPU", 0.5),))
        launcher.close()
        until(lambda: not is_running(process))
        print("closed", [notice.handle == hung for notice in launcher.exits()], ray.is_initialized())
finally:
    ray.shutdown()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """For what Ray keeps, under a short name: paths of sockets end at 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray") as name:
        yield Path(name)


@needs_ray
@pytest.mark.timeout(300)
def test_workers_on_ray_join_crash_hang_and_end_as_on_one_machine(folder: Path) -> None:
    result = run_isolated(folder, "-c", ON_RAY, str(Path(__file__).parent), str(folder), timeout_s=280)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "served True 0 ()",
        "crashed True 3 ('loading the model', 'no such folder: /models/none')",
        "killed True -9",
        "ended True None",
        "closed [True] True",
    ]


def test_without_ray_the_launcher_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ControlError, match=r"needs Ray: pip install 'kvsim\[ray\]'"):
        RayLauncher()
