"""How busy other processes keep this machine while something is measured. Linux; elsewhere it says nan."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

_BUSY_FIELDS = (1, 2, 3, 6, 7, 8)  # of the first line of /proc/stat, proc(5): user, nice, system, irq, softirq, steal


class OtherLoad:
    """Watches from its making on. ``own`` are the processes that do not count as others."""

    def __init__(self, own: Sequence[int]) -> None:
        self._own = tuple(own)
        self._began = self._now()

    def cores(self) -> float:
        """Cores that others kept busy, on average since the beginning."""
        if self._began is None or (now := self._now()) is None:
            return float("nan")
        seconds, ticks = now[0] - self._began[0], now[1] - self._began[1]
        return max(0.0, ticks / os.sysconf("SC_CLK_TCK") / seconds) if seconds > 0 else 0.0

    def _now(self) -> tuple[float, int] | None:
        """The time in seconds, and ticks of all processes but ours."""
        try:
            fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
            busy = sum(int(fields[at]) for at in _BUSY_FIELDS)
            ours = sum(_ticks(process) for process in self._own)
        except OSError:
            return None
        return time.monotonic(), busy - ours


def _ticks(process: int) -> int:
    text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    after_name = text.rpartition(")")[2].split()  # the name may hold spaces; state is field 3, utime 14, stime 15
    return int(after_name[11]) + int(after_name[12])
