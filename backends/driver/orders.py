"""From the scheduler's commands to the orders that workers get: who must know of a command, and which tokens it needs.

A worker is told of a request what it needs when it first needs it: its terms with the first run that names it, its
newest token with the first run in which it decodes there. ``ReleaseBlocks`` makes a worker forget both, so here too.

This module must not know when commands come or how orders travel.
"""

from typing import TypeAlias

from backends.control.messages import DecodeStart, Order, RequestTerms
from backends.driver.requests import RequestBook
from kvsim.core.messages import (
    AssignBlocks,
    CutDecode,
    ReleaseBlocks,
    RequestId,
    RunDecode,
    RunPrefill,
    StartTransfer,
    WorkerId,
)

WorkerCommand: TypeAlias = AssignBlocks | ReleaseBlocks | RunPrefill | RunDecode | CutDecode | StartTransfer
"""What somebody else than the driver carries out."""


class OrderDesk:
    """Remembers what each worker has been told. ``book`` holds the tokens."""

    def __init__(self, book: RequestBook) -> None:
        self._book = book
        self._described: dict[WorkerId, set[RequestId]] = {}
        self._decoding: dict[WorkerId, set[RequestId]] = {}

    def orders(self, command: WorkerCommand) -> tuple[tuple[WorkerId, Order], ...]:
        """Who gets which order."""
        match command:
            case RunPrefill(worker):
                return ((worker, self._prefill(command)),)
            case RunDecode(worker):
                return ((worker, self._decode(command)),)
            case ReleaseBlocks(worker, request):
                self._described.get(worker, set()).discard(request)
                self._decoding.get(worker, set()).discard(request)
                return ((worker, Order(command)),)
            case AssignBlocks(worker) | CutDecode(worker):
                return ((worker, Order(command)),)
            case StartTransfer():
                return tuple([(worker, Order(command)) for worker in movers(command)])

    def forget(self, worker: WorkerId) -> None:
        """The worker is gone: whoever comes in its place knows nothing."""
        self._described.pop(worker, None)
        self._decoding.pop(worker, None)

    def _prefill(self, command: RunPrefill) -> Order:
        worker = command.worker
        terms = self._terms(worker, [*command.decoding, *(chunk.request for chunk in command.chunks)])
        starts = self._starts(worker, command.decoding)
        tokens = {chunk.request: tuple(self._book.chunk_tokens(chunk)) for chunk in command.chunks}
        # the step gives each of them its newest token: it decodes on from there, if it decodes here
        self._decoding.setdefault(worker, set()).update(command.completes)
        return Order(command, terms, tokens, starts)

    def _decode(self, command: RunDecode) -> Order:
        terms = self._terms(command.worker, command.batch)
        return Order(command, terms, starts=self._starts(command.worker, command.batch))

    def _terms(self, worker: WorkerId, requests: list[RequestId] | tuple[RequestId, ...]) -> tuple[RequestTerms, ...]:
        described = self._described.setdefault(worker, set())
        new = [request for request in requests if request not in described]
        described.update(new)
        return tuple([self._book[request].terms() for request in new])

    def _starts(self, worker: WorkerId, requests: tuple[RequestId, ...]) -> tuple[DecodeStart, ...]:
        decoding = self._decoding.setdefault(worker, set())
        new = [request for request in requests if request not in decoding]
        decoding.update(new)
        return tuple([self._book[request].decode_start() for request in new])


def parties(command: WorkerCommand) -> tuple[WorkerId, ...]:
    """The workers whose blocks or runs a command is about."""
    return (command.source, command.target) if isinstance(command, StartTransfer) else (command.worker,)


def movers(command: StartTransfer) -> tuple[WorkerId, ...]:
    """The workers that start a transfer: the one that moves the bytes, or both."""
    match command.kind:
        case "pull":
            return (command.target,)
        case "push":
            return (command.source,)
        case "message":
            return (command.target, command.source)
