"""The table of a sweep: one row per point, seed and variant, as Parquet that is the same bytes for the same results.

Columns: ``cell`` (the place of the combination in the grid), one per knob, ``seed``, ``variant``, and one per metric,
named by its path in the summary (``ttft_s.p99``). It must not know how rows came about.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvsim.sweep.axes import Axis, Entry
from kvsim.sweep.points import Point
from kvsim.sweep.run_point import Row

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = b"kvsim"


@dataclass(frozen=True, slots=True)
class Layout:
    """What a table is about: the scenario's name, the knobs, and the variants in their order."""

    scenario: str
    axes: tuple[Axis, ...]
    variants: tuple[str, ...]

    @property
    def knobs(self) -> list[str]:
        """The names of the knobs' columns."""
        return [axis.column for axis in self.axes]


def table_bytes(
    layout: Layout, entries: Sequence[tuple[Entry, ...]], points: Sequence[Point], rows: Mapping[str, Sequence[Row]]
) -> bytes:
    """The file's contents. ``entries`` has the knobs' column entries of each cell, ``rows`` those of each digest."""
    import pyarrow as pa  # noqa: PLC0415  # heavy
    import pyarrow.parquet as pq  # noqa: PLC0415

    lines = [(point, row) for point in points for row in rows[point.digest]]
    columns: dict[str, pa.Array] = {"cell": pa.array([point.cell for point, _ in lines], pa.int64())}
    for place, axis in enumerate(layout.axes):
        columns[axis.column] = _column([entries[point.cell][place] for point, _ in lines])
    columns["seed"] = pa.array([point.seed for point, _ in lines], pa.int64())
    columns["variant"] = pa.array([row["variant"] for _, row in lines], pa.string())
    for path in _metric_paths([row for _, row in lines]):
        columns[path] = _column([row["metrics"].get(path) for _, row in lines])
    table = pa.Table.from_arrays(list(columns.values()), names=list(columns))
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({METADATA: _dump_layout(layout)}), buffer, compression="zstd")
    return buffer.getvalue()


def read_layout(metadata: Mapping[bytes, bytes]) -> Layout:
    """The layout from a table's schema metadata. Raises KeyError, ValueError or TypeError if it is none of ours."""
    raw = json.loads(metadata[METADATA])
    axes = tuple(Axis(axis["key"], axis["unit"], tuple(axis["entries"])) for axis in raw["axes"])
    return Layout(raw["scenario"], axes, tuple(raw["variants"]))


def _dump_layout(layout: Layout) -> str:
    axes = [{"key": axis.key, "unit": axis.unit, "entries": axis.entries} for axis in layout.axes]
    return json.dumps({"scenario": layout.scenario, "axes": axes, "variants": layout.variants}, ensure_ascii=False)


def _metric_paths(rows: Sequence[Row]) -> list[str]:
    """Every metric that some row has. Those of one kind stand together, in the order of the summary."""
    kinds: dict[str, dict[str, None]] = {}
    for row in rows:
        for path in row["metrics"]:
            kinds.setdefault(path.split(".")[0], {})[path] = None
    return [path for paths in kinds.values() for path in paths]


def _column(values: Sequence[Any]) -> "pa.Array":
    """Integers, or else floats, or else text; None is null."""
    import pyarrow as pa  # noqa: PLC0415  # heavy

    present = {type(value) for value in values if value is not None}
    if present <= {int}:
        return pa.array(values, pa.int64())
    if present <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array(values, pa.string())
