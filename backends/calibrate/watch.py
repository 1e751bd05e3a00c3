"""Sees every call of the scheduler and every report of a worker, and makes samples of them: steps and transfers.

Whatever is served can be watched: a step's contents follow from the commands, its duration from the worker's report,
and what comes on top from the driver's clock. It must not know how the load was made.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from backends.control.messages import Report
from kvsim.core.messages import (
    Command,
    DecodeAdvanced,
    Event,
    PrefillDone,
    RequestArrived,
    RequestId,
    RunDecode,
    RunPrefill,
    StartTransfer,
    TransferDone,
    TransferId,
    TransferReleased,
    WorkerId,
)
from kvsim.profile.measurement import TransferSample
from kvsim.profile.points import StepPoint


@dataclass(frozen=True, slots=True)
class StepSample:
    """One step. ``point.ns`` is what the worker says. Between ``since_ns`` and ``until_ns``, of the driver's clock, it
    was ordered (``first`` of its run) or the step before was reported, and this one was."""

    worker: WorkerId
    point: StepPoint
    since_ns: int
    until_ns: int
    first: bool

    @property
    def beyond_ns(self) -> int:
        """What passed beside the step itself."""
        return self.until_ns - self.since_ns - round(self.point.ns)


@dataclass(slots=True)
class _Run:
    command: RunPrefill | RunDecode
    since_ns: int
    first: bool = True


class Watch:
    """``observe`` is an observer and ``report`` a watcher of ``backends.driver.driver``."""

    def __init__(self) -> None:
        self.steps: list[StepSample] = []
        self.transfers: list[TransferSample] = []
        self._runs: dict[WorkerId, _Run] = {}
        self._durations_ns: dict[WorkerId, deque[int]] = {}
        self._tokens: dict[RequestId, int] = {}  # prompt and output so far
        self._started: dict[TransferId, tuple[StartTransfer, int]] = {}
        self._moving_ns: dict[TransferId, int] = {}
        self._arrived_ns: dict[TransferId, int] = {}

    def report(self, worker: WorkerId, report: Report) -> None:
        """A worker reports; the scheduler hears of it later in the same turn."""
        match report.event:
            case PrefillDone() | DecodeAdvanced():
                self._durations_ns.setdefault(worker, deque()).append(report.duration_ns)
            case TransferDone(transfer) | TransferReleased(transfer):
                if report.duration_ns:  # of the side that moved the bytes
                    self._moving_ns[transfer] = report.duration_ns

    def observe(self, now_ns: int, events: Sequence[Event], commands: Sequence[Command]) -> None:
        """One call of the scheduler."""
        for event in events:
            match event:
                case RequestArrived(request):
                    self._tokens[request.id] = request.prompt_tokens
                case PrefillDone(worker):
                    self._prefill_done(worker, now_ns)
                case DecodeAdvanced(worker):
                    self._advanced(event, now_ns)
                case TransferDone(transfer):
                    self._arrived_ns[transfer] = now_ns
                    self._end_transfer(transfer)
                case TransferReleased(transfer):
                    self._end_transfer(transfer)
                case _:
                    pass
        for command in commands:
            match command:
                case RunPrefill(worker) | RunDecode(worker):
                    self._runs[worker] = _Run(command, now_ns)
                case StartTransfer(transfer):
                    self._started[transfer] = (command, now_ns)
                case _:
                    pass

    # --- parts --------------------------------------------------------------------------------------------------------

    def _prefill_done(self, worker: WorkerId, now_ns: int) -> None:
        run, duration_ns = self._runs.pop(worker), self._durations_ns[worker].popleft()
        command = run.command
        assert isinstance(command, RunPrefill), f"a prefill is done during {command}"
        chunks = tuple([(chunk.start_token, chunk.tokens) for chunk in command.chunks])
        self._add(worker, run, chunks, command.decoding, duration_ns, now_ns)
        self._grow((*command.decoding, *command.completes))

    def _advanced(self, event: DecodeAdvanced, now_ns: int) -> None:
        run, duration_ns = self._runs[event.worker], self._durations_ns[event.worker].popleft()
        command = run.command
        assert isinstance(command, RunDecode), f"a decode step during {command}"
        if event.steps:
            self._add(event.worker, run, (), command.batch, duration_ns, now_ns)
            self._grow(command.batch)
            run.since_ns, run.first = now_ns, False
        if event.ended:
            del self._runs[event.worker]

    def _add(
        self,
        worker: WorkerId,
        run: _Run,
        chunks: tuple[tuple[int, int], ...],
        decoding: Sequence[RequestId],
        duration_ns: int,
        now_ns: int,
    ) -> None:
        context_tokens = sum([self._tokens[request] for request in decoding])
        point = StepPoint(chunks, len(decoding), context_tokens, float(duration_ns))
        self.steps.append(StepSample(worker, point, run.since_ns, now_ns, run.first))

    def _grow(self, requests: Sequence[RequestId]) -> None:
        for request in requests:
            self._tokens[request] += 1

    def _end_transfer(self, transfer: TransferId) -> None:
        """Once both its ends are known."""
        if transfer not in self._arrived_ns or transfer not in self._moving_ns:
            return
        command, since_ns = self._started.pop(transfer)
        total_ns = self._arrived_ns.pop(transfer) - since_ns
        moving_ns = self._moving_ns.pop(transfer)
        self.transfers.append(TransferSample(command.size_bytes, command.operations, moving_ns, total_ns))


def while_busy(samples: Sequence[StepSample], workers: int, share: float = 0.9) -> list[StepPoint]:
    """The steps during which all of ``workers`` were busy for at least this share of the time."""
    busy: dict[WorkerId, list[tuple[int, int]]] = {}
    for sample in samples:
        busy.setdefault(sample.worker, []).append((sample.since_ns, sample.until_ns))
    kept = []
    for sample in samples:
        others = [spans for worker, spans in busy.items() if worker != sample.worker]
        length_ns = sample.until_ns - sample.since_ns
        if len(others) == workers - 1 and all(_overlap_ns(sample, spans) >= share * length_ns for spans in others):
            kept.append(sample.point)
    return kept


def _overlap_ns(sample: StepSample, spans: Sequence[tuple[int, int]]) -> int:
    return sum([max(0, min(sample.until_ns, end) - max(sample.since_ns, begin)) for begin, end in spans])
