"""The engine ray: the same bytes as the processes of this machine, from a small Ray that nobody else can reach."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvsim.sweep import SweepError, run_sweep
from kvsim.sweep.result import TABLE
from kvsim.sweep.store import JOURNAL

ROOT = Path(__file__).resolve().parents[1]
SMALL = ROOT / "tests" / "golden" / "small.yaml"
VARY = ["workers.decode.count=1,2"]
TWO = ["workload.requests=6", *(f"variants.{name}=null" for name in ("streamed", "message", "colocated"))]
HAS_RAY = importlib.util.find_spec("ray") is not None

needs_ray = pytest.mark.skipif(not HAS_RAY, reason="needs Ray: pip install 'kvsim[ray]'")

ON_RAY = """
import os, sys

import ray

from kvsim.scenario import load_scenario
from kvsim.sweep import run_sweep
from kvsim.sweep.grid import read_grid
from kvsim.sweep.points import resolve_points
from kvsim.sweep.ray_engine import _try_point_of, run_on_ray

class Deadly:
    def __reduce__(self):
        return (os._exit, (3,))

folder, out, scenario, *overrides = sys.argv[1:]
ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False,
         _temp_dir=folder)
try:
    run_sweep(scenario, ["workers.decode.count=1,2"], 2, out, "ray", overrides=overrides, figures=False)
    assert ray.is_initialized(), "a Ray that the caller started must stay"
    base = load_scenario(scenario, overrides)
    points = resolve_points(base, read_grid(base, ["workers.decode.count=1,2"], 1))
    for _, outcome in run_on_ray([Deadly(), points[0]]):
        print(type(outcome).__name__, getattr(outcome, "message", ""))
    print(_try_point_of(points[0], "another").message)
finally:
    ray.shutdown()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """For what Ray keeps, under a short name: paths of sockets end at 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray") as name:
        yield Path(name)


def run_isolated(folder: Path, *arguments: str, timeout_s: float) -> "subprocess.CompletedProcess[str]":
    """Run Python where Ray, which listens on all interfaces, can be reached by nobody else.

    Where a network namespace can be made, it has only the loopback; a token keeps others out in any case.
    """
    command = [sys.executable, *arguments]
    inside = ["unshare", "--map-root-user", "--net"]
    if (
        shutil.which("unshare")
        and shutil.which("ip")
        and subprocess.run([*inside, "true"], check=False).returncode == 0
    ):
        command = [*inside, "sh", "-c", 'ip link set lo up && exec "$0" "$@"', *command]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HOME": str(folder),
        "RAY_ADDRESS": "",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.urandom(32).hex(),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment)


@needs_ray
@pytest.mark.timeout(300)
def test_a_local_ray_gives_the_same_bytes_and_loses_only_the_point_that_kills_its_worker(
    tmp_path: Path, folder: Path
) -> None:
    run_sweep(SMALL, VARY, 2, tmp_path / "here", workers=1, figures=False, overrides=TWO)
    arguments = ["-c", ON_RAY, str(folder), str(tmp_path / "there"), str(SMALL), *TWO]
    result = run_isolated(folder, *arguments, timeout_s=280)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "there" / TABLE).read_bytes() == (tmp_path / "here" / TABLE).read_bytes()
    lines = result.stdout.splitlines()
    assert sorted(line.split(":")[0].split()[0] for line in lines[-3:-1]) == ["Failure", "list"]
    assert any(line.startswith("Failure Ray lost it: ") for line in lines)
    assert lines[-1].startswith("the node that ran it has kvsim ")
    assert lines[-1].endswith(", expected another")


@needs_ray
@pytest.mark.timeout(120)
def test_a_cluster_that_is_not_there_is_told_with_its_address(tmp_path: Path, folder: Path) -> None:
    arguments = ["sweep", str(SMALL), "--vary", VARY[0], "--engine", "ray", "--out", str(tmp_path / "s")]
    result = run_isolated(folder, "-m", "kvsim", *arguments, timeout_s=110)
    assert result.returncode == 2, result.stderr
    assert "no Ray cluster at auto: " in result.stderr
    assert "start one (ray start --head) or give its address in RAY_ADDRESS" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_ray_the_engine_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SweepError, match=r"needs Ray: pip install 'kvsim\[ray\]'"):
        run_sweep(SMALL, VARY, 1, tmp_path / "s", "ray", figures=False, overrides=TWO)
    assert [file.name for file in (tmp_path / "s").iterdir()] == [JOURNAL]
