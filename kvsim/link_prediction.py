"""Holds a measured link against the simulated one that was fitted to it: ``kvsim bench transfer`` prints both.

The simulator itself answers, through ``kvsim.sim.link_curve``. This module must not know how links are measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvsim.presets.fields import NicFields
from kvsim.sim.link_curve import transfer_ns
from kvsim.units import format_bytes, format_duration_ns, format_rate

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Prediction:
    """READs of blocks of one size, measured and simulated: many in one transfer, and one alone."""

    block_bytes: int
    measured_bytes_per_s: float
    simulated_bytes_per_s: float
    measured_latency_ns: float
    simulated_latency_ns: float

    @property
    def rate_error(self) -> float:
        """Relative to the measured rate."""
        return self.simulated_bytes_per_s / self.measured_bytes_per_s - 1

    @property
    def latency_error(self) -> float:
        """Relative to the measured latency."""
        return self.simulated_latency_ns / self.measured_latency_ns - 1


def predict(
    nic: Mapping[str, object], total_bytes: int, points: Sequence[tuple[int, float, float]]
) -> list[Prediction]:
    """What the simulator makes of a link whose NICs a scenario describes by ``nic``.

    Each point is the size of a block in bytes, the measured bytes per second of READs of ``total_bytes`` in such
    blocks, and the nanoseconds of one alone.
    """
    spec = NicFields.model_validate(nic).value()
    found = []
    for block_bytes, bytes_per_s, latency_ns in points:
        blocks = total_bytes // block_bytes
        all_ns = transfer_ns(spec, "pull", size_bytes=blocks * block_bytes, operations=blocks)
        alone_ns = transfer_ns(spec, "pull", size_bytes=block_bytes, operations=1)
        found.append(Prediction(block_bytes, bytes_per_s, blocks * block_bytes / all_ns * 1e9, latency_ns, alone_ns))
    return found


def prediction_table(predictions: Sequence[Prediction]) -> "Table":
    """One block size a row."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("block", "rate", "simulated", "off by", "one block", "simulated", "off by"):
        table.add_column(title, justify="right")
    for row in predictions:
        table.add_row(
            format_bytes(row.block_bytes),
            format_rate(row.measured_bytes_per_s),
            format_rate(row.simulated_bytes_per_s),
            f"{row.rate_error:+.1%}",
            format_duration_ns(row.measured_latency_ns),
            format_duration_ns(row.simulated_latency_ns),
            f"{row.latency_error:+.1%}",
        )
    return table
