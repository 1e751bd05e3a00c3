"""What ``kvsim bench transfer`` shows and writes: a table, and one link profile for each transport.

It must not know how anything was measured.
"""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backends.transport.bench import TransferBench, TransferRow
from backends.transport.link_profile import LinkPoint, LinkProfile, link_profile, profile_yaml
from kvsim.units import format_bytes, format_duration_ns, format_rate

if TYPE_CHECKING:
    from rich.table import Table

OTHER_CORES_MAX = 0.5
"""Above this many cores busy with other work a row is marked: its rates, not its ratios, are too low."""


def transfer_table(result: TransferBench) -> "Table":
    """One cell a row. ``x memcpy`` and ``x stream`` are shares of what one thread, or for cuda_ipc one GPU, copies and
    one plain socket sends.
    For verbs ``x chain`` is that of what a plain chain of work requests moves; ``perftest``: ib_read_bw, ib_write_bw.
    """
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("transport")
    table.add_column("operation")
    compared = any(row.chain_ratio is not None for row in result.rows)
    beside = ("x chain", "perftest", "x perftest", "chain's", "ib_read_lat") if compared else ()
    for title in ("total", "block", "rate", "x memcpy", "x stream", *beside[:3], "one block", *beside[3:], "wrong"):
        table.add_column(title, justify="right")
    for row in result.rows:
        mark = "*" if row.other_cores > OTHER_CORES_MAX else ""
        table.add_row(
            row.transport,
            row.operation,
            format_bytes(row.total_bytes),
            format_bytes(row.block_bytes),
            format_rate(row.bytes_per_s) + mark,
            f"{row.memcpy_ratio:.2f}",
            f"{row.stream_ratio:.2f}",
            *(_ratios_beside(row) if compared else ()),
            format_duration_ns(row.latency_ns),
            *(_latencies_beside(row) if compared else ()),
            str(row.wrong_blocks),
        )
    return table


def _ratios_beside(row: TransferRow) -> tuple[str, str, str]:
    ratio = "" if row.chain_ratio is None else f"{row.chain_ratio:.2f}"
    if row.perftest_bytes_per_s is None:
        return ratio, "", ""
    return ratio, format_rate(row.perftest_bytes_per_s), f"{row.bytes_per_s / row.perftest_bytes_per_s:.2f}"


def _latencies_beside(row: TransferRow) -> tuple[str, str]:
    chain, perftest = row.chain_latency_ns, row.perftest_latency_ns
    return "" if chain is None else format_duration_ns(chain), "" if perftest is None else format_duration_ns(perftest)


def notes(result: TransferBench) -> list[str]:
    """Lines below the table: idle costs, marks, and what was left out."""
    lines = [
        f"{row.transport}: idle owner {row.cpu_share:.1%} of a core, {row.wakeups_per_s:.0f} wake-ups/s"
        for row in result.idle
    ]
    if result.posting_ns is not None:
        lines.append(f"verbs: {result.posting_ns / 1000:.2f} us of CPU per work request of 4 KiB, without the device's")
    if any(row.other_cores > OTHER_CORES_MAX for row in result.rows):
        lines.append(f"*: other processes kept more than {OTHER_CORES_MAX} cores busy meanwhile")
    return lines + [f"{transport}: skipped, {reason}" for transport, reason in result.skipped.items()]


def profiles(result: TransferBench, date: str) -> list[LinkProfile]:
    """A profile of each transport: its READs of the largest total. ``date`` in ISO 8601."""
    names = list(dict.fromkeys(row.transport for row in result.rows))
    return [_profile([row for row in result.rows if row.transport == name], date) for name in names]


def write_profiles(out: Path, made: Sequence[LinkProfile]) -> list[Path]:
    """Write profiles: to ``out`` itself if there is one, else to ``out`` with ``-<transport>`` in its name."""
    paths = [
        out if len(made) == 1 else out.with_name(f"{out.stem}-{profile.transport}{out.suffix}") for profile in made
    ]
    for path, profile in zip(paths, made, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(profile_yaml(profile), encoding="utf-8")
    return paths


def _profile(rows: list[TransferRow], date: str) -> LinkProfile:
    largest = max(row.total_bytes for row in rows)
    reads = [row for row in rows if row.total_bytes == largest and row.operation == "read"]
    points = [LinkPoint(row.block_bytes, row.bytes_per_s, row.latency_ns) for row in reads]
    host = f"{platform.node()}, {platform.machine()}, {platform.system()} {platform.release()}"
    origin = f"kvsim bench transfer: two processes on {host}; scattered READs of {format_bytes(largest)}"
    return link_profile(rows[0].transport, "read", points, total_bytes=largest, origin=origin, date=date)
