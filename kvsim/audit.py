"""The audit log: one line of JSON for every movement of KV cache, from where to where, how it ended and why it began.

It follows from what every run says of itself, the calls of its scheduler. So the log of a simulated run and that of one
on real workers are written by the same code, at the time or later from a record, and a log can be checked against the
placement rules by whoever did not write it. It must not know who carried the commands out.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self, TypeAlias

import msgspec

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import (
    ChooseMode,
    Command,
    EndLease,
    Event,
    ModeReason,
    Record,
    RequestId,
    StartTransfer,
    StopTransfer,
    TransferDone,
    TransferFailed,
    TransferId,
    TransferKind,
    WorkerLost,
)
from kvsim.errors import RunFolderError

AUDIT_SUFFIX = ".audit.jsonl"

Outcome: TypeAlias = Literal["arrived", "stale", "failed", "stopped", "expired", "lost", "unfinished"]
"""``stale``: it arrived from blocks that were another request's by then, and nothing was computed from it. ``failed``:
it did not arrive. ``stopped``: it did not as it was no longer wanted. ``expired``: nor as its source was given up when
nobody had shown for a whole lease that he wanted it. ``lost``: one of its workers was. ``unfinished``:
the log ends before it did."""

Reason: TypeAlias = ModeReason | Literal["policy", "retry"]
"""``policy``: it is how all requests are served; ``retry``: the last one of the request did not arrive; else why its
mode was chosen for it."""


class Movement(msgspec.Struct, frozen=True):
    """One transfer. Labels are those of the workers."""

    started_ns: int
    ended_ns: int | None
    request: RequestId
    transfer: TransferId
    kind: TransferKind
    source: str
    target: str
    source_labels: dict[str, str]
    target_labels: dict[str, str]
    first_layer: int
    layers: int
    size_bytes: int
    outcome: Outcome
    reason: Reason


class Auditor:
    """Is shown every call of ``Scheduler.handle`` in order; gives the movements that have ended with each."""

    def __init__(self, cluster: ClusterSpec) -> None:
        self._workers = cluster.workers
        self._moving: dict[TransferId, tuple[int, StartTransfer, Reason]] = {}
        self._stopped: dict[TransferId, Outcome] = {}
        self._chosen: dict[RequestId, ModeReason] = {}
        self._failed: set[RequestId] = set()

    def observe(self, now_ns: int, events: Sequence[Event], commands: Sequence[Command]) -> list[Movement]:
        """Take in one call. Movements that it ended come in the order of the events."""
        ended: list[Movement] = []
        for event in events:
            match event:
                case TransferDone(transfer, generation) if transfer in self._moving:
                    fresh = self._moving[transfer][1].generation == generation
                    ended.append(self._end(transfer, now_ns, "arrived" if fresh else "stale"))
                case TransferFailed(transfer) if transfer in self._moving:
                    ended.append(self._end(transfer, now_ns, self._stopped.get(transfer, "failed")))
                case WorkerLost(worker):
                    lost = [
                        transfer
                        for transfer, (_, order, _) in self._moving.items()
                        if worker in (order.source, order.target)
                    ]
                    ended += [self._end(transfer, now_ns, "lost") for transfer in lost]
                case _:
                    pass
        for command in commands:
            self._ordered(now_ns, command)
        return ended

    def _ordered(self, now_ns: int, command: Command) -> None:
        match command:
            case StartTransfer(transfer, request):
                retry = request in self._failed
                reason: Reason = "retry" if retry else self._chosen.get(request, "policy")
                self._moving[transfer] = now_ns, command, reason
            case StopTransfer(transfer):
                self._stopped.setdefault(transfer, "stopped")
            case EndLease(request=request):
                for transfer, (_, order, _) in self._moving.items():
                    if order.request == request:
                        self._stopped[transfer] = "expired"
            case ChooseMode(request, why=why):
                self._chosen[request] = why
                self._failed.discard(request)
            case _:
                pass

    def unfinished(self) -> list[Movement]:
        """Those that have not ended, in the order in which they began."""
        return [self._end(transfer, None, "unfinished") for transfer in list(self._moving)]

    def _end(self, transfer: TransferId, ended_ns: int | None, outcome: Outcome) -> Movement:
        started_ns, order, reason = self._moving.pop(transfer)
        self._stopped.pop(transfer, None)
        if outcome == "arrived":
            self._failed.discard(order.request)
        else:
            self._failed.add(order.request)
        source, target = self._workers[order.source], self._workers[order.target]
        return Movement(
            started_ns,
            ended_ns,
            order.request,
            transfer,
            order.kind,
            source.name,
            target.name,
            dict(source.labels),
            dict(target.labels),
            order.first_layer,
            order.layers,
            order.size_bytes,
            outcome,
            reason,
        )


def movements(cluster: ClusterSpec, records: Iterable[Record]) -> Iterator[Movement]:
    """The movements of a recorded run in the order in which they ended, those that did not last."""
    auditor = Auditor(cluster)
    for record in records:
        yield from auditor.observe(record.now_ns, record.events, record.commands)
    yield from auditor.unfinished()


class AuditWriter:
    """Writes a log while a run goes on: what has happened is on disk. Use it as a context manager."""

    def __init__(self, path: Path, cluster: ClusterSpec) -> None:
        self._auditor = Auditor(cluster)
        self._encode = msgspec.json.Encoder().encode
        self._file: IO[bytes] = path.open("wb")

    def observe(self, now_ns: int, events: Sequence[Event], commands: Sequence[Command]) -> None:
        """Append what ended with one call of the scheduler."""
        ended = self._auditor.observe(now_ns, events, commands)
        if ended:
            self._write(ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(self._auditor.unfinished())
        self._file.close()

    def _write(self, ended: Sequence[Movement]) -> None:
        self._file.write(b"".join([self._encode(movement) + b"\n" for movement in ended]))
        self._file.flush()


def read_audit(path: Path) -> Iterator[Movement]:
    """Every line of a log. Raises RunFolderError, with the line, if it cannot be read."""
    decode = msgspec.json.Decoder(Movement).decode
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield decode(line)
                except msgspec.DecodeError as error:
                    raise RunFolderError(f"{path}:{number}: this is no line of an audit log: {error}") from error
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read: {error}") from error
