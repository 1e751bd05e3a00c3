"""What only transport verbs is held against: the same blocks in plain chains of work requests (``bench_chain``), timed
in turn with it, and perftest on the same device.

It must not know tables.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from backends.transport import bench_perftest
from backends.transport.bench_pair import Pair, open_pair
from backends.transport.bench_perftest import Place
from backends.transport.bench_side import Operation


@dataclass(frozen=True, slots=True)
class PerftestFigures:
    """Of one block size. ``read_latency_ns``: one READ alone. None where perftest printed no figure."""

    bytes_per_s: float | None
    read_latency_ns: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """``chain`` is a pair of its own with the same pools; ``no_perftest`` why perftest was not asked, or empty."""

    chain: Pair
    place: Place
    no_perftest: str

    def perftest(self, operation: Operation, block_bytes: int, total_bytes: int) -> PerftestFigures:
        """Ask perftest, now."""
        if self.no_perftest:
            return PerftestFigures(None, None)
        if operation == "write":
            return PerftestFigures(bench_perftest.measured("ib_write_bw", self.place, block_bytes, total_bytes), None)
        return PerftestFigures(
            bench_perftest.measured("ib_read_bw", self.place, block_bytes, total_bytes),
            bench_perftest.measured("ib_read_lat", self.place, block_bytes, total_bytes),
        )


@contextmanager
def open_beside(transport: str, pool_bytes: int) -> Iterator[Beside | None]:
    """For the time that this transport is measured; None for those that have nothing of the kind."""
    if transport != "verbs":
        yield None
        return
    with open_pair("chain", pool_bytes) as chain:
        yield Beside(chain, _place(), bench_perftest.missing())


def _place() -> Place:
    """Where transport verbs is when nobody names a device."""
    from backends.transport.verbs import sysfs  # noqa: PLC0415

    port = sysfs.nearest(sysfs.usable_ports(sysfs.ports(), ""), "")
    gid = sysfs.gid_of(port)
    return Place(port.device, port.number, gid.index if gid is not None and port.layer == "Ethernet" else None)
