"""Which workers have been silent for too long. A dead process is seen by its launcher; this sees a hung one.

Pure: instants are given, nothing sleeps, no message is sent. Any authenticated message of a worker counts as a beat.
"""

from kvsim.core.messages import WorkerId

HEARTBEAT_INTERVAL_NS = 500_000_000
"""How often a worker beats by default."""
LATE_AFTER_NS = 10_000_000_000
"""How long silence lasts until a worker counts as hung by default: longer than any one layer of a step takes."""


class HeartbeatWatch:
    """Remembers when each worker was last heard of. A worker is late once that is ``late_after_ns`` or more ago."""

    def __init__(self, late_after_ns: int) -> None:
        assert late_after_ns > 0, f"workers late after {late_after_ns} ns"
        self._late_after_ns = late_after_ns
        self._heard_ns: dict[WorkerId, int] = {}

    def beat(self, worker: WorkerId, now_ns: int) -> None:
        """The worker was heard of now; from the first beat on it is watched. An instant in the past changes nothing."""
        self._heard_ns[worker] = max(now_ns, self._heard_ns.get(worker, now_ns))

    def excuse(self, duration_ns: int, now_ns: int) -> None:
        """Nobody listened for so long, up to now: that much of every silence does not count."""
        for worker, heard_ns in self._heard_ns.items():
            self._heard_ns[worker] = max(heard_ns, min(now_ns, heard_ns + duration_ns))

    def forget(self, worker: WorkerId) -> None:
        """Watch this worker no longer. Harmless if it was not watched."""
        self._heard_ns.pop(worker, None)

    def late(self, now_ns: int) -> tuple[WorkerId, ...]:
        """The workers that are late, by id. They stay late until they beat or are forgotten."""
        return tuple(
            sorted(worker for worker, heard_ns in self._heard_ns.items() if now_ns - heard_ns >= self._late_after_ns)
        )

    def deadline_ns(self) -> int | None:
        """The first instant at which a worker will be late if none beats; None if none is watched."""
        heard_ns = min(self._heard_ns.values(), default=None)
        return None if heard_ns is None else heard_ns + self._late_after_ns

    def silence_ns(self, worker: WorkerId, now_ns: int) -> int:
        """How long ago a watched worker was last heard of."""
        return max(0, now_ns - self._heard_ns[worker])
