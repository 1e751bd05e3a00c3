"""NCCL tables in the layout of microsoft/vidur (``send_recv.csv``, ``all_reduce.csv``), as a profile of fitted curves.

``PATH`` is one of the tables or a folder with them. Each placement of two GPUs becomes a link that ``nic`` may name
(``across_nodes``: one GPU of each of two nodes; ``within_node``), each number of GPUs of one node an all-reduce. Times
are milliseconds there. Residuals are those of every third size, held out of a fit to the others.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kvsim.presets.fields import AllReduceFields, NicFields
from kvsim.profile.file_fields import Residual
from kvsim.profile.importers import Imported, ProfileImportError
from kvsim.profile.message_fit import FittedMessages, MessagePoint, fit_messages, signed_errors
from kvsim.sim.collectives import ring_bytes
from kvsim.sim.message_times import MessageTimes
from kvsim.units import exact_bytes, exact_duration

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("send_recv", "all_reduce")
LARGE_BYTES = 65536
"""From here on bandwidth tells; below, latency and protocol do. Errors are reported for each by itself."""

_NS_PER_MS = 1e6
_FASTEST_BYTES_PER_S = 1.8e12  # what all links of one GPU carry, both directions, on the fastest there is (NVLink 5)
_SLOWEST_SMALL_MS = 5.0  # a message of a few KiB does not take longer over any link that GPUs are joined by
_THIRD = 3


class Group(NamedTuple):
    """What was measured together: ``ranks`` GPUs, as many of a node as ``per_node``, and a point for each size."""

    kind: str
    ranks: int
    per_node: int
    points: tuple[MessagePoint, ...]

    @property
    def name(self) -> str:
        """As residuals call it."""
        if self.kind == "send_recv":
            return "within_node" if self.per_node == self.ranks else "across_nodes"
        return f"all_reduce_{self.ranks}" + ("" if self.per_node == self.ranks else f"_by_{self.per_node}")


class Errors(NamedTuple):
    """Signed errors, as shares, of the sizes from ``LARGE_BYTES`` on and of those below."""

    large: np.ndarray[Any, np.dtype[np.float64]]
    small: np.ndarray[Any, np.dtype[np.float64]]


def load(path: Path) -> Imported:
    """Read and fit. Raises ProfileImportError with everything that is wrong."""
    groups = read_groups(path)
    transports: dict[str, NicFields] = {}
    all_reduce: list[AllReduceFields] = []
    residuals: dict[str, Residual] = {}
    notes = ["residuals: every third size, held out of the fit; the curves are fitted to all sizes"]
    for group in groups:
        fitted = fit_messages(group.points)
        if group.kind == "send_recv":
            transports[group.name] = _nic(group.name, fitted)
        elif group.per_node == group.ranks:
            all_reduce.append(_all_reduce(group.ranks, fitted.times))
        else:
            notes.append(f"{group.name}: not used, tensor parallelism stays within a node")
            continue
        errors = held_out_errors(group.points)
        for size, signed in (("from_64_KiB", errors.large), ("below_64_KiB", errors.small)):
            if len(signed):
                residuals[f"{group.name}_{size}"] = _residual(signed)
        if fitted.disturbed:
            notes.append(
                f"{group.name}: {len(fitted.disturbed)} of {len(group.points)} sizes took much longer than larger ones "
                "and were left out of the fit as disturbed"
            )
    fields: dict[str, Any] = {
        "origin": "NCCL times in the layout of microsoft/vidur (profiling/network), medians of the repetitions",
        "date": "not given by the source",
        "machine": "not given by the source",
        "transports": transports,
        "all_reduce": all_reduce,
        "notes": notes,
        "residuals": residuals,
    }
    return Imported(fields)


def held_out_errors(points: Sequence[MessagePoint]) -> Errors:
    """Errors of every third size under a fit to the others."""
    held, times = held_out(points)
    signed = signed_errors(times, held)
    large = np.array([point.size_bytes >= LARGE_BYTES for point in held])
    return Errors(signed[large], signed[~large])


def held_out(points: Sequence[MessagePoint]) -> tuple[list[MessagePoint], MessageTimes]:
    """Every third size, and a curve that is fitted to the others (to these where there are none)."""
    ordered = sorted(points)
    rest, held = [point for index, point in enumerate(ordered) if index % _THIRD], ordered[::_THIRD]
    return held, fit_messages(rest or held).times


def read_groups(path: Path) -> list[Group]:
    """What the tables hold. Raises ProfileImportError."""
    files = [path] if path.is_file() else [path / f"{kind}.csv" for kind in KINDS]
    found = [file for file in files if file.is_file()]
    if not found:
        raise ProfileImportError(f"{path}: found neither {' nor '.join(f'{kind}.csv' for kind in KINDS)}")
    problems: list[str] = []
    groups: list[Group] = []
    for file in found:
        groups += _groups(file, problems)
    if problems:
        raise ProfileImportError("\n".join(problems))
    return groups


def _groups(file: Path, problems: list[str]) -> list[Group]:
    import pandas as pd  # noqa: PLC0415

    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        problems.append(f"{file}: no CSV file that can be read: {error}")
        return []
    kind = next((one for one in KINDS if f"time_stats.{one}.median" in table.columns), None)
    if kind is None:
        wanted = " or ".join(f"time_stats.{one}.median" for one in KINDS)
        problems.append(f"{file}: columns are missing, expected {wanted}, size, num_workers and devices_per_node")
        return []
    median = f"time_stats.{kind}.median"
    wrong = _wrong(table, [median, "size", "num_workers", "devices_per_node"])
    if wrong:
        problems.append(f"{file}: {wrong}")
        return []
    groups = []
    for _, rows in table.groupby(["num_workers", "devices_per_node"]):
        folded = rows.groupby("size")[median].median()
        times = zip(folded.index.tolist(), folded.tolist(), strict=True)
        points = tuple(MessagePoint(int(size), ms * _NS_PER_MS) for size, ms in times)
        ranks, per_node = (int(rows[column].iloc[0]) for column in ("num_workers", "devices_per_node"))
        groups.append(Group(kind, ranks, per_node, points))
    problems += [f"{file}: {text}" for group in groups if (text := _implausible(group, median))]
    return groups


def _wrong(table: "pd.DataFrame", columns: list[str]) -> str | None:
    """What is wrong with the form of a table."""
    import pandas as pd  # noqa: PLC0415

    missing = [column for column in columns if column not in table.columns]
    if missing:
        return f"columns {', '.join(missing)} are missing, expected {', '.join(columns)}"
    if table.empty:
        return "found no rows"
    text = [column for column in columns if not pd.api.types.is_numeric_dtype(table[column])]
    if text:
        return f"columns {', '.join(text)} hold something else than numbers"
    low = [column for column in columns if not bool((table[column] > 0).all())]
    return f"columns {', '.join(low)} hold values that are not above 0" if low else None


def _implausible(group: Group, column: str) -> str | None:
    """Times in a wrong unit are off by 1000: faster than any hardware, or slow even for the smallest message."""
    bytes_of = [
        ring_bytes(group.ranks, point.size_bytes) if group.kind == "all_reduce" else point.size_bytes
        for point in group.points
    ]
    best = max(1e9 * size / point.ns for size, point in zip(bytes_of, group.points, strict=True))
    if best > _FASTEST_BYTES_PER_S:
        return (
            f"{column}: {best / 1e9:,.0f} GB/s is more than any GPU's links carry "
            f"({_FASTEST_BYTES_PER_S / 1e9:,.0f} GB/s), expected milliseconds: is the unit wrong by a factor of 1000?"
        )
    smallest = group.points[0]
    if smallest.size_bytes < LARGE_BYTES and smallest.ns > _SLOWEST_SMALL_MS * _NS_PER_MS:
        return (
            f"{column}: {smallest.ns / _NS_PER_MS:g} ms for {smallest.size_bytes} bytes, expected milliseconds, "
            f"at most {_SLOWEST_SMALL_MS:g}: is the unit wrong by a factor of 1000?"
        )
    return None


def _nic(name: str, fitted: FittedMessages) -> NicFields:
    operation_ns = max(1, fitted.operation_ns)
    return NicFields.model_validate(
        {
            "name": name,
            "rate": f"{fitted.bytes_per_s / 1e9:.6g} GB/s",
            "latency": exact_duration(fitted.latency_ns),
            "operation": exact_duration(fitted.operation_ns),
            "message_rate": f"{1e3 / operation_ns:.6g} Mop/s",
            "reads_outstanding_max": 1_000_000,
            "message_times": _curve(fitted.times),
        }
    )


def _all_reduce(ranks: int, times: MessageTimes) -> AllReduceFields:
    return AllReduceFields.model_validate({"ranks": ranks, **_curve(times)})


def _curve(times: MessageTimes) -> dict[str, object]:
    return {"sizes": [exact_bytes(s) for s in times.size_bytes], "times": [exact_duration(t) for t in times.ns]}


def _residual(signed: np.ndarray[Any, np.dtype[np.float64]]) -> Residual:
    errors = np.abs(signed)
    return Residual(points=len(errors), mean=round(float(errors.mean()), 5), largest=round(float(errors.max()), 5))
