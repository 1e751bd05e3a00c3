"""Workers of sweeps and plans end when the process that started them is killed, in the middle of their work."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kvsim.plan.workers import Workers
from kvsim.sweep.pool import run_on_processes

WORKERS = 2
SPIN_SECONDS, PATIENCE_SECONDS = 120.0, 30.0
"""How long work lasts that nothing ends, and how long the test waits for its end."""


class Work:
    """Whoever unpickles it, tells so on standard output and then computes for ``SPIN_SECONDS``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_tell_and_spin, ())


def _tell_and_spin() -> None:
    os.write(1, b"at work\n")
    end = time.monotonic() + SPIN_SECONDS
    while time.monotonic() < end:
        pass


def sweep() -> None:
    works: Any = [Work() for _ in range(WORKERS)]
    list(run_on_processes(works, WORKERS))


def plan() -> None:
    works: Any = [Work() for _ in range(WORKERS)]
    with Workers(WORKERS) as workers:
        workers.probe(works)


@pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups of POSIX")
@pytest.mark.parametrize("start", [sweep, plan])
def test_workers_end_when_their_parent_is_killed(start: Callable[[], None]) -> None:
    """All processes write to one pipe, which ends when the last of them has ended."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += f"from {__name__.rpartition('.')[2]} import {start.__name__}\n{start.__name__}()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(WORKERS)] == [b"at work\n"] * WORKERS
            process.kill()
            rest, _ = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert rest == b""
    assert process.returncode == -signal.SIGKILL
