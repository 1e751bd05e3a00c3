"""One transfer in progress, and the way that it takes: the books of ``kvsim.sim.network``.

Neither must know what a worker is, or who shares with whom.
"""

from collections.abc import Callable
from typing import Final

from kvsim.sim.hardware import WorkerHardware
from kvsim.sim.measured import Asked

_NANO: Final = 10**9
NEVER_NS: Final = 2**62 - 1  # compiled, integers up to here are as cheap as any


class Path:
    """The way of every flow of one kind from one worker to another, and the flows that are on it, by id.

    ``byte_resources`` take a byte per byte; ``operation_uses`` are (resource, what an operation takes of it).
    ``bytes_per_s`` and ``operations_per_s`` bound a flow that is alone. Flows slow each other down only if their paths
    have one of ``meets`` in common: who shares message rates also shares transmit or receive, who shares READs in
    flight also shares posting. ``measured``: the workers at its ends whose NICs have measured times of messages, each
    with what its kind of NIC was asked for.
    ``gap_bytes``: what an operation takes of each byte resource beyond its bytes, or empty where it takes nothing.
    """

    __slots__ = (
        "_capacities",
        "byte_resources",
        "bytes_per_s",
        "flows",
        "gap_bytes",
        "measured",
        "meets",
        "operation_uses",
        "operations_per_s",
    )

    def __init__(
        self,
        byte_resources: tuple[int, ...],
        operation_uses: tuple[tuple[int, float], ...],
        posting: int,
        capacities: list[float],
        measured: tuple[tuple[WorkerHardware, Asked], ...],
        gap_bytes: tuple[float, ...] = (),
    ) -> None:
        self.byte_resources = byte_resources
        self.measured = measured
        self.gap_bytes = gap_bytes
        self._capacities = capacities
        self.meets = (*byte_resources, posting)
        self.flows: dict[int, Flow] = {}
        self.limit(operation_uses, capacities)

    def limit(self, operation_uses: tuple[tuple[int, float], ...], capacities: list[float]) -> None:
        """What bounds a flow from now on that is alone here."""
        self.operation_uses = operation_uses
        self.bytes_per_s = min(capacities[resource] for resource in self.byte_resources)
        self.operations_per_s = min(capacities[resource] / use for resource, use in operation_uses)

    def alone_bytes_per_s(self, size_bytes: int, bytes_per_operation: float) -> float:
        """At which rate the bytes of a transfer of this size move while nothing else does.

        Latency is not part of it (``Network.latency_ns``), so what was measured is taken without it. With several NICs
        each carries its share.
        """
        bytes_per_s = self.bytes_per_s
        for resource, gap_bytes in zip(self.byte_resources, self.gap_bytes, strict=False):
            bytes_per_s = min(bytes_per_s, self._capacities[resource] / (1.0 + gap_bytes / bytes_per_operation))
        for worker, asked in self.measured:
            times = worker.nic.message_times
            assert times is not None, worker.nic.name
            asked.note(size_bytes // worker.nics)
            moving_ns = times.of(size_bytes / worker.nics) - worker.nic.latency_ns
            bytes_per_s = min(bytes_per_s, size_bytes * _NANO / max(1.0, moving_ns))
        return bytes_per_s


class Flow:
    """One transfer in progress. ``remaining`` counts 1e-9 bytes, so that rate x nanoseconds is exact in integers."""

    __slots__ = (
        "bytes_per_operation",
        "bytes_per_s_max",
        "ends_at_ns",
        "finished",
        "id",
        "path",
        "rate_bytes_per_s",
        "remaining",
        "size_bytes",
        "updated_at_ns",
    )

    def __init__(
        self, number: int, path: Path, size_bytes: int, bytes_per_operation: float, finished: Callable[[], None]
    ) -> None:
        self.id = number
        self.path = path
        self.bytes_per_operation = bytes_per_operation
        self.size_bytes = size_bytes
        self.limit()
        self.remaining = size_bytes * _NANO
        self.rate_bytes_per_s = 0
        self.updated_at_ns = 0
        self.ends_at_ns = NEVER_NS  # until it has a rate
        self.finished = finished

    def limit(self) -> None:
        """What bounds it from now on when it is alone."""
        path = self.path
        if path.measured or path.gap_bytes:
            self.bytes_per_s_max = path.alone_bytes_per_s(self.size_bytes, self.bytes_per_operation)
        else:
            self.bytes_per_s_max = path.bytes_per_s

    def set_rate(self, now_ns: int, rate_bytes_per_s: float) -> None:
        """From now on at this rate, rounded to whole bytes per second (at least 1).

        The end is rounded to the nearest nanosecond, so that the rounding of a rate cannot move it past a whole one. It
        depends on the rates and when they held, not on how often they were set: progress is exact.
        """
        rate = max(1, round(rate_bytes_per_s))
        if rate == self.rate_bytes_per_s:
            return
        if self.rate_bytes_per_s:  # compiled, products of numbers beyond 31 bits cost far more than sums, even with 0
            self.remaining -= self.rate_bytes_per_s * (now_ns - self.updated_at_ns)
        self.rate_bytes_per_s = rate
        self.updated_at_ns = now_ns
        self.ends_at_ns = max(now_ns, now_ns + (self.remaining + self.remaining + rate) // (rate + rate))
