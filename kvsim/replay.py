"""Feed the events of a record to a fresh scheduler: it must give the same commands, byte for byte.

This is how "the same scheduler" is proven, for a simulated run and for one on real workers. It must not know which of
the two it reads.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import Command, Record
from kvsim.core.scheduler import Scheduler
from kvsim.errors import RunFolderError
from kvsim.record import read_header, read_records


@dataclass(frozen=True, slots=True)
class Difference:
    """The first call whose commands differ: its number from 0, and both answers."""

    call: int
    now_ns: int
    recorded: tuple[Command, ...]
    replayed: tuple[Command, ...]

    def __str__(self) -> str:
        lines = [f"call {self.call} at {self.now_ns} ns:"]
        for index in range(max(len(self.recorded), len(self.replayed))):
            ours = self.replayed[index] if index < len(self.replayed) else None
            theirs = self.recorded[index] if index < len(self.recorded) else None
            if ours != theirs:
                lines += [f"  command {index} recorded: {theirs}", f"  command {index} replayed: {ours}"]
                break
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay found. ``difference`` is None if every command was the same."""

    variant: str
    calls: int
    events: int
    commands: int
    difference: Difference | None

    @property
    def identical(self) -> bool:
        """Whether the fresh scheduler gave exactly the recorded commands."""
        return self.difference is None


def replay(cluster: ClusterSpec, records: Iterable[Record], variant: str = "") -> ReplayResult:
    """Replay until the end or the first difference."""
    scheduler = Scheduler(cluster)
    encode = msgspec.json.Encoder().encode
    calls = events = commands = 0
    for record in records:
        replayed = tuple(scheduler.handle(record.now_ns, record.events))
        if encode(replayed) != encode(record.commands):
            difference = Difference(calls, record.now_ns, record.commands, replayed)
            return ReplayResult(variant, calls, events, commands, difference)
        calls += 1
        events += len(record.events)
        commands += len(replayed)
    return ReplayResult(variant, calls, events, commands, None)


def replay_file(path: Path) -> ReplayResult:
    """Replay a record file. Raises RunFolderError if it cannot be read."""
    header = read_header(path)
    try:
        return replay(header.cluster, read_records(path), header.variant)
    except (AssertionError, KeyError) as error:
        raise RunFolderError(f"{path}: damaged record: its events cannot have happened: {error}") from error
