"""How fast trouble is noticed and made good: read off the calls of the scheduler while they happen.

*Detection* is from the blow to the call in which the scheduler learns of the lost worker. *Recovery* is from that call
to the next output token of a request that had blocks on the worker; what its new prefill took is told apart, as it is
work and not waiting. This module must not know how trouble is made.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvsim.core.messages import (
    AssignBlocks,
    Command,
    DecodeAdvanced,
    EndLease,
    Event,
    FinishRequest,
    PrefillDone,
    ReleaseBlocks,
    RequestId,
    RunDecode,
    RunId,
    RunPrefill,
    StartTransfer,
    WorkerId,
    WorkerJoined,
    WorkerLost,
)


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker that the scheduler was told to have lost, and when, on this process's monotonic clock."""

    worker: WorkerId
    at_ns: int


@dataclass(frozen=True, slots=True)
class LeaseOver:
    """KV of a request that was given up on the prefill side, and when."""

    request: RequestId
    at_ns: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """A request that had blocks on a lost worker, or whose KV was given up on the prefill side: from then to its next
    token, and how much of that its new prefill took (0 if it needed none)."""

    request: RequestId
    recovery_ns: int
    prefill_ns: int


class TroubleWatch:
    """An observer of the driver. Lists may be read from another thread once the requests are over; ``transfer`` is the
    one that was ordered last, and ``transfer_started`` is set with it, ``lease_over`` with an entry of ``leases``."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.lost: list[Lost] = []
        self.joined: list[WorkerId] = []
        self.leases: list[LeaseOver] = []
        self.recovered: list[Recovered] = []
        self.lease_over = threading.Event()
        self.transfer_started = threading.Event()
        self.transfer: StartTransfer | None = None
        self._clock_ns = clock_ns
        self._holders: dict[WorkerId, dict[RequestId, None]] = {}
        self._since_ns: dict[RequestId, int] = {}
        self._batches: dict[RunId, tuple[RequestId, ...]] = {}
        self._prefill_began_ns: dict[RunId, int] = {}

    def observe(self, _now_ns: int, events: Sequence[Event], commands: Sequence[Command]) -> None:
        """One call of the scheduler."""
        at_ns = self._clock_ns()
        for event in events:
            self._note_event(at_ns, event)
        for command in commands:
            self._note_command(at_ns, command)

    def _note_event(self, at_ns: int, event: Event) -> None:
        match event:
            case WorkerLost(worker):
                self.lost.append(Lost(worker, at_ns))
                for request in self._holders.pop(worker, {}):
                    self._since_ns.setdefault(request, at_ns)
            case WorkerJoined(worker):
                self.joined.append(worker)
            case PrefillDone(run=run):
                took_ns = at_ns - self._prefill_began_ns.pop(run, at_ns)
                for request in self._batches.pop(run, ()):
                    self._token(request, at_ns, took_ns)
            case DecodeAdvanced(run=run, ended=ended):
                for request in self._batches.pop(run, ()) if ended else self._batches.get(run, ()):
                    self._token(request, at_ns, 0)

    def _note_command(self, at_ns: int, command: Command) -> None:
        match command:
            case AssignBlocks(worker=worker, request=request):
                self._holders.setdefault(worker, {})[request] = None
            case ReleaseBlocks(worker=worker, request=request):
                self._holders.get(worker, {}).pop(request, None)
            case RunPrefill(run=run, completes=completes, decoding=decoding):
                self._batches[run] = (*completes, *decoding)
                self._prefill_began_ns[run] = at_ns
            case RunDecode(run=run, batch=batch):
                self._batches[run] = batch
            case EndLease(request=request):
                self.leases.append(LeaseOver(request, at_ns))
                self._since_ns.setdefault(request, at_ns)
                self.lease_over.set()
            case FinishRequest(request=request):
                self._since_ns.pop(request, None)
            case StartTransfer():
                self.transfer = command
                self.transfer_started.set()

    def _token(self, request: RequestId, at_ns: int, prefill_ns: int) -> None:
        since_ns = self._since_ns.pop(request, None)
        if since_ns is not None:
            self.recovered.append(Recovered(request, at_ns - since_ns, prefill_ns))
