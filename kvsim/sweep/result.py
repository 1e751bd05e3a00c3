"""A finished sweep: its table, and what the seeds say about how far each number can be trusted.

It must not know how points are run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvsim.confidence import LEVEL, student_t_quantile
from kvsim.errors import RunFolderError
from kvsim.sweep.table import Layout, read_layout

if TYPE_CHECKING:
    import pandas as pd

TABLE = "sweep.parquet"
METRICS = ("e2e_s.mean", "ttft_s.p99", "tpot_s.p99", "slo_attainment", "goodput_req_per_s")
"""What figures and the terminal show, where the sweep has it."""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The folder of a finished sweep. ``notes`` is what the user must be told of its runs, each thing once."""

    path: Path
    layout: Layout
    table: "pd.DataFrame"
    notes: tuple[str, ...] = ()

    def statistics(self, metrics: Sequence[str] = METRICS) -> "pd.DataFrame":
        """Mean over the seeds with its 95 % interval: a row per combination, variant and metric.

        Columns: ``cell``, the knobs, ``variant``, ``metric``, ``mean``, ``low``, ``high``, ``seeds``. The limits are
        NaN with one seed. Metrics that the sweep does not have are left out.
        """
        return _intervals(self._long(metrics), self.layout.knobs)

    def differences(self, base: str | None = None, metrics: Sequence[str] = METRICS) -> "pd.DataFrame":
        """Every other variant minus ``base`` (the first if None), paired by seed: the same requests went to both.

        The columns of ``statistics``, and ``base_mean``.
        """
        name = self.layout.variants[0] if base is None else base
        if name not in self.layout.variants:
            raise ValueError(f"no variant {name!r}, only {', '.join(self.layout.variants)}")
        long = self._long(metrics)
        keys = ["cell", "seed", "metric"]
        of_base = long[long["variant"] == name].set_index(keys)["value"].rename("base_value")
        paired = long[long["variant"] != name].join(of_base, on=keys).dropna(subset=["value", "base_value"])
        paired["value"] -= paired["base_value"]
        intervals = _intervals(paired, self.layout.knobs)
        base_mean = paired.groupby(["cell", "variant", "metric"])["base_value"].mean().rename("base_mean")
        return intervals.join(base_mean, on=["cell", "variant", "metric"])

    def _long(self, metrics: Sequence[str]) -> "pd.DataFrame":
        present = [metric for metric in metrics if metric in self.table]
        keys = ["cell", *self.layout.knobs, "seed", "variant"]
        return self.table.melt(keys, present, "metric", "value").astype({"value": "float64"})


def load_sweep(path: Path | str) -> SweepResult:
    """Open the folder of a finished sweep. Raises RunFolderError if it is none."""
    import pyarrow.parquet as pq  # noqa: PLC0415  # heavy

    file = Path(path) / TABLE
    if not file.is_file():
        raise RunFolderError(f"{path}: no finished sweep: it holds no {TABLE}")
    try:
        table = pq.read_table(file)
        layout = read_layout(table.schema.metadata or {})
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise RunFolderError(f"{file}: this is no table of a kvsim sweep: {error}") from error
    return SweepResult(Path(path), layout, table.to_pandas())


def _intervals(long: "pd.DataFrame", knobs: Sequence[str]) -> "pd.DataFrame":
    """Mean and limits of ``value`` over the seeds, in the order of appearance."""
    import numpy as np  # noqa: PLC0415

    keys = ["cell", *knobs, "variant", "metric"]
    groups = long.dropna(subset=["value"]).groupby(keys, sort=False)["value"]
    frame = groups.agg(mean="mean", variance="var", seeds="count").reset_index()
    factors = {
        seeds: student_t_quantile((1 + LEVEL) / 2, seeds - 1) if seeds > 1 else np.nan
        for seeds in frame["seeds"].unique().tolist()
    }
    half = frame["seeds"].map(factors) * (frame["variance"] / frame["seeds"]) ** 0.5
    frame["low"], frame["high"] = frame["mean"] - half, frame["mean"] + half
    return frame[[*keys, "mean", "low", "high", "seeds"]]
