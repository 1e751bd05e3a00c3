"""What the scheduler remembers of one request, and the table of the phases that it may go through.

A phase change that is not in ``NEXT_PHASES`` is a bug by construction. The diagram of the documentation is drawn from
the table. This module must not decide anything.
"""

from enum import Enum
from typing import Final

from kvsim.core.messages import Request, ServingMode, TransferId, WorkerId


class Phase(Enum):
    """Where a request stands. Phases name what the request *waits for or does*, not which mode it is served in."""

    ARRIVED = "arrived"
    WAITING_MEMORY = "waiting for decode memory"
    WAITING_PREFILL = "waiting for prefill"
    PREFILLING = "prefilling"
    TRANSFERRING = "transferring"
    WAITING_DECODE = "waiting for a decode step"
    DECODING = "decoding"
    FINISHED = "finished"

    __hash__ = object.__hash__  # by identity: hashing its name costs more than the rest of a look-up


NEXT_PHASES: Final[dict[Phase, tuple[Phase, ...]]] = {
    Phase.ARRIVED: (Phase.WAITING_MEMORY, Phase.WAITING_PREFILL),
    # push asks for decode memory before the prefill, pull after it; to compute locally takes decode memory first
    Phase.WAITING_MEMORY: (Phase.WAITING_PREFILL, Phase.TRANSFERRING, Phase.FINISHED),
    # push, when the worker with its decode memory is lost: first to where that is waited for
    Phase.WAITING_PREFILL: (Phase.PREFILLING, Phase.WAITING_MEMORY, Phase.FINISHED),
    # on one worker: decodes there (as soon as the batch has a place), or is preempted between two chunks
    Phase.PREFILLING: (
        Phase.WAITING_MEMORY,
        Phase.TRANSFERRING,
        Phase.DECODING,
        Phase.WAITING_DECODE,
        Phase.WAITING_PREFILL,
        Phase.FINISHED,
    ),
    # a worker was lost: back to where decode memory or a prefill is waited for; FINISHED: the client is gone
    Phase.TRANSFERRING: (Phase.WAITING_DECODE, Phase.WAITING_MEMORY, Phase.WAITING_PREFILL, Phase.FINISHED),
    Phase.WAITING_DECODE: (Phase.DECODING, Phase.WAITING_MEMORY, Phase.WAITING_PREFILL, Phase.FINISHED),
    # preemption by recompute: back to where decode memory (push) or a prefill is waited for
    Phase.DECODING: (Phase.WAITING_MEMORY, Phase.WAITING_PREFILL, Phase.FINISHED),
    Phase.FINISHED: (),
}


class RequestState:
    """The mutable side of a request. Owned by the scheduler; nobody else writes to it.

    ``context_tokens`` of KV are in a cache once the current prefill is complete; a decode step adds one. ``generated``
    output tokens are known to the scheduler up to the last report; while decoding, ``generated`` and ``context_tokens``
    stay at their values of ``joined_step`` and the worker's step count says the rest.
    ``mode`` is how it is served in this pass; where each request has its own it may still change until its memory is
    asked for. ``layers_*`` count layers of the current hand-over: ready at the source, handed to transfers, arrived at
    the target.
    ``awaits_source``: preempted before its old prefill blocks were let go; it queues again when they are.
    ``first_token_ns`` is when its first token was reported.
    ``restarts`` counts how often it was set back because a worker or a lease was lost. Where its transfers stand on the
    ladder: ``transfer_failures`` in a row on ``transfer_path``, decode workers given up (``transfer_targets``), and how
    often the KV was computed anew for that (``transfer_recomputes``), the next time not by ``avoid_prefill``.
    """

    prefill_worker: WorkerId | None = None
    decode_worker: WorkerId | None = None
    computed_tokens: int = 0
    generated: int = 0
    joined_step: int = 0
    reserved: bool = False
    layers_ready: int = 0
    layers_started: int = 0
    layers_arrived: int = 0
    transfer: TransferId | None = None
    transfers_unreleased: int = 0
    preemptions: int = 0
    awaits_source: bool = False
    cancelled: bool = False
    restarts: int = 0
    transfer_failures: int = 0
    first_token_ns: int = 0
    transfer_path: int = 0
    transfer_targets: int = 0
    transfer_recomputes: int = 0
    avoid_prefill: WorkerId | None = None

    def __init__(
        self, request: Request, phase: Phase, generated_max: int, context_tokens: int = 0, mode: ServingMode = "pull"
    ) -> None:
        self.request = request
        self.id = request.id
        self.phase = phase
        self.generated_max = generated_max
        self.context_tokens = context_tokens
        self.mode = mode

    def goes_first(self) -> bool:
        """Whether it waits ahead of new requests: it has been served before and was set back."""
        return self.preemptions + self.restarts > 0

    def tokens_known(self) -> int:
        """Tokens that a prefill from the beginning computes: the prompt and what has been generated."""
        return self.request.prompt_tokens + self.generated

    def climb_down(self) -> None:
        """Its KV has arrived: whatever fails from now on is tried from the first rung of the ladder."""
        self.transfer_failures = self.transfer_path = self.transfer_targets = self.transfer_recomputes = 0
        self.avoid_prefill = None

    def prefill_side(self) -> WorkerId:
        """The prefill worker of a request that must have one by now."""
        assert self.prefill_worker is not None, f"request {self.id} is {self.phase.value}, by no prefill worker"
        return self.prefill_worker

    def decode_side(self) -> WorkerId:
        """The decode worker of a request that must have one by now."""
        assert self.decode_worker is not None, f"request {self.id} is {self.phase.value}, by no decode worker"
        return self.decode_worker

    def enter(self, phase: Phase) -> None:
        """Change the phase, as the table allows."""
        assert phase in NEXT_PHASES[self.phase], f"request {self.id}: {self.phase.value} -> {phase.value}"
        self.phase = phase
