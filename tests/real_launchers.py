"""The launchers under which the tests of real processes run: ``pytest --launcher ray tests/test_real_processes.py``."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from backends.launch.local import LocalLauncher
from backends.launch.port import Launcher

WORKERS_MAX = 4
"""How many workers a test has at once, one that is being replaced included."""

MakeLauncher: TypeAlias = Callable[[], Launcher]


@contextmanager
def launchers(kind: str) -> Iterator[MakeLauncher]:
    """Makes launchers of this kind: ``local``, or ``ray`` on a Ray of its own with room for every worker. Ray listens
    on all interfaces: see ``test_sweep_ray.run_isolated``."""
    if kind == "local":
        yield LocalLauncher
        return
    import ray

    from backends.launch.ray import RayLauncher

    # a short name: paths of sockets end at 107 characters
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        ray.init(
            address="local",
            num_cpus=WORKERS_MAX,
            include_dashboard=False,
            object_store_memory=80 << 20,
            log_to_driver=False,
            _temp_dir=folder,
        )
        try:
            yield RayLauncher
        finally:
            ray.shutdown()
