"""How true predictions are: each target is held against public measurements of real hardware.

A target is one module with a function ``rows(folder) -> list[Row]``; ``folder`` holds the measurements, in the layout
of their own publication. It is registered in ``TARGETS`` and imported only when it is asked for. Nothing here is
fitted to what it is compared with, unless the row says so.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from kvsim.errors import KvsimError
from kvsim.fidelity.rows import Row

__all__ = ["TARGETS", "FidelityError", "Row", "fidelity_rows"]

TARGETS: dict[str, str] = {
    "a100": "kvsim.fidelity.a100_serving",
    "h100": "kvsim.fidelity.h100_kernels",
    "nccl": "kvsim.fidelity.nccl",
    "vllm-runs": "kvsim.fidelity.vllm_runs",
}
"""Module of each target, in the order of the table."""


class FidelityError(KvsimError):
    """The measurements are not there, or no target has such a name."""


def fidelity_rows(folder: Path, only: Sequence[str] = ()) -> list[Row]:
    """The rows of every target, or of those whose name begins with one of ``only``."""
    if not folder.is_dir():
        raise FidelityError(f"{folder}: there is no such folder")
    wanted = [name for name in TARGETS if not only or name.startswith(tuple(only))]
    if only and not wanted:
        raise FidelityError(f"found no target {', '.join(only)}, expected one of {', '.join(TARGETS)}")
    found: list[Row] = []
    for name in wanted:
        found += import_module(TARGETS[name]).rows(folder)
    return found
