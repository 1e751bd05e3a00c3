"""How much a simulation costs: whole ``kvsim run`` processes, imports and output included.

CPU time and not wall-clock time, since other load on a shared machine distorts only the latter. Unix only.
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from kvsim.core import scheduler
from kvsim.errors import KvsimError
from kvsim.run_folder import load_run
from kvsim.scenario import load_scenario

if TYPE_CHECKING:
    from rich.table import Table

REFERENCE_ADDITIONS = 5_000_000

PEAK_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024
"""Unit of ``ru_maxrss``: bytes on macOS, KiB elsewhere (getrusage(2))."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Medians over the rounds for one scenario. ``requests`` counts those of all its variants.

    ``marginal_ms`` are the CPU milliseconds that each request costs beyond those of a smaller run of the same scenario.
    """

    scenario: str
    requests: int
    output_tokens: int
    cpu_s: float
    cpu_range_s: tuple[float, float]
    peak_bytes: int
    marginal_ms: float | None = None


def measure_sizes(
    scenario: Path, overrides: Sequence[str], rounds: int, requests: Sequence[int]
) -> Iterator[Measurement]:
    """``measure`` for each number of requests, smallest first; from the second on with the marginal cost."""
    smaller: Measurement | None = None
    for number in sorted(requests):
        found = measure(scenario, (*overrides, f"workload.requests={number}"), rounds)
        if smaller is not None and found.requests > smaller.requests:
            marginal_s = (found.cpu_s - smaller.cpu_s) / (found.requests - smaller.requests)
            found = replace(found, marginal_ms=marginal_s * 1e3)
        smaller = found
        yield found


def circumstances() -> str:
    """What a reader must know to compare figures of two machines: what ran, and how fast this one is just now."""
    compiled = not str(scheduler.__file__).endswith(".py")
    begin_s = time.process_time()
    total = 0
    for number in range(REFERENCE_ADDITIONS):
        total += number
    reference_s = time.process_time() - begin_s
    return (
        f"Python {platform.python_version()}, core and simulator {'compiled' if compiled else 'interpreted'}; "
        f"{REFERENCE_ADDITIONS:,} additions in a plain loop take {reference_s:.2f} CPU s here and now"
    )


def measure(scenario: Path, overrides: Sequence[str], rounds: int) -> Measurement:
    """Run ``kvsim run --no-report`` on a scenario ``rounds`` times. Raises KvsimError if it cannot be run."""
    loaded = load_scenario(scenario, tuple(overrides))
    cpu_s: list[float] = []
    peak_bytes: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "kvsim", "run", str(scenario), "--no-report", "--out", folder]
        for override in overrides:
            command += ["--set", override]
        for _ in range(rounds):
            usage = _run(command)
            cpu_s.append(usage.ru_utime + usage.ru_stime)
            peak_bytes.append(usage.ru_maxrss * PEAK_UNIT_BYTES)
        variants = load_run(folder).summary["variants"].values()
    return Measurement(
        loaded.name,
        sum(variant["requests"]["arrived"] for variant in variants),
        round(sum(variant["throughput"]["output_tokens_per_s"] * variant["makespan_s"] for variant in variants)),
        median(cpu_s),
        (min(cpu_s), max(cpu_s)),
        round(median(peak_bytes)),
    )


def bench_table(measurements: Sequence[Measurement]) -> "Table":
    """One row a scenario."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("scenario")
    for name in (
        "requests",
        "CPU s",
        "range",
        "requests / CPU s",
        "output tokens / CPU s",
        "ms / request more",
        "peak MiB",
    ):
        table.add_column(name, justify="right")
    for row in measurements:
        table.add_row(
            row.scenario,
            f"{row.requests:,}",
            f"{row.cpu_s:.2f}",
            f"{row.cpu_range_s[0]:.2f}-{row.cpu_range_s[1]:.2f}",
            f"{row.requests / row.cpu_s:,.0f}",
            f"{row.output_tokens / row.cpu_s:,.0f}",
            "" if row.marginal_ms is None else f"{row.marginal_ms:.3f}",
            f"{row.peak_bytes / 2**20:.0f}",
        )
    return table


def _run(command: Sequence[str]) -> resource.struct_rusage:
    """Run one process to its end; returns what it used. ``wait4`` and not RUSAGE_CHILDREN, which adds processes up."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise KvsimError(errors.read().decode(errors="replace").strip())
    return usage
