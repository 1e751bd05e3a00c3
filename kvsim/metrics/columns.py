"""What is known of a finished run, as columns of integers: the one input of every metric, table and figure.

Instants are integer ns, and ``MISSING`` where a thing did not happen. These values hold facts, not statistics; how a
record becomes columns is ``kvsim.metrics.collector``'s and ``kvsim.metrics.derive``'s business.
"""

from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from kvsim.core.cluster import ClusterSpec, Role
from kvsim.core.messages import FinishReason, ServingMode

if TYPE_CHECKING:
    from kvsim.metrics.roles import RoleColumns  # which is made of what stands here

Integers: TypeAlias = NDArray[np.int64]
ShortIntegers: TypeAlias = NDArray[np.signedinteger[Any]]
"""As narrow as the values allow, where a long run has millions of them."""
Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
FirstToken: TypeAlias = Literal["prefill", "decode"]
"""Who sends the first token to the client: the prefill worker when it has it, or the decode worker, which has it when
the last transfer is done."""

MISSING: Final = -1
NS_PER_S = 1_000_000_000
FINISH_REASONS: tuple[FinishReason, ...] = (
    "stop",
    "length",
    "too_long",
    "timeout",
    "cancelled",
    "shed",
    "failed",
    "forbidden",
)
SERVING_MODES: tuple[ServingMode, ...] = ("push", "pull", "streamed", "message", "local")
FINISHED, REJECTED = (0, 1), (2, 3, 5, 7)  # indices of the reasons with and without output
ROLES: tuple[Role, ...] = ("prefill", "decode", "colocated")


class RequestColumns(msgspec.Struct, frozen=True):
    """One row a request, in the order of request ids. Workers are ids, ``outcome`` indexes ``FINISH_REASONS``, ``mode``
    ``SERVING_MODES``.

    Stages are those of the first pass: what a preempted request goes through again is part of its decode stage. Counts
    (``output_tokens``, ``preemptions``, ``transfer_bytes``, ``transfer_operations``) are over all passes, of completed
    transfers. A rejected request has only its arrival, its end and its prompt.
    """

    request: Integers
    outcome: Integers
    mode: Integers
    prompt_tokens: Integers
    output_tokens: Integers
    prefill_worker: Integers
    decode_worker: Integers
    arrival_ns: Integers
    prefill_start_ns: Integers
    prefill_end_ns: Integers
    decode_reserved_ns: Integers
    transfer_start_ns: Integers
    transfer_end_ns: Integers
    decode_start_ns: Integers
    last_token_ns: Integers
    finished_ns: Integers
    preemptions: Integers
    transfer_bytes: Integers
    transfer_operations: Integers

    @property
    def finished(self) -> Flags:
        """Requests that ended with output."""
        return np.isin(self.outcome, FINISHED)

    @property
    def rejected(self) -> Flags:
        """Requests that ended without output."""
        return np.isin(self.outcome, REJECTED)

    def ended_as(self, why: FinishReason) -> int:
        """How many ended for this reason."""
        return int((self.outcome == FINISH_REASONS.index(why)).sum())

    def first_token_ns(self, first_token: FirstToken) -> Integers:
        """When the client gets the first token: at the end of the prefill, or of the transfer where there is one."""
        if first_token == "prefill":
            return self.prefill_end_ns
        return np.where(self.transfer_end_ns != MISSING, self.transfer_end_ns, self.prefill_end_ns)


class StepColumns(msgspec.Struct, frozen=True):
    """One row a step that gave decoding requests a token, sorted by worker, then by time.

    ``worker_first[w]`` is the first row of worker w. ``mixed`` steps computed prompts as well: they are in
    ``PrefillColumns`` too.
    """

    worker_first: Integers
    worker: ShortIntegers
    end_ns: Integers
    duration_ns: ShortIntegers
    mixed: Flags


class TokenSpans(msgspec.Struct, frozen=True):
    """Output tokens of a request that came one after the other: the token of a prefill, or a *stint*, which is an
    unbroken stay in the decode batch of one worker. Sorted by row of the request, then by time.

    ``first_step`` and ``last_step`` are rows of ``StepColumns`` (``MISSING`` for a prefill), ``tokens_before`` and
    ``previous_ns`` the number of the request's earlier tokens and the instant of the last of them.
    """

    row: Integers
    first_step: Integers
    last_step: Integers
    first_ns: Integers
    last_ns: Integers
    tokens: Integers
    tokens_before: Integers
    previous_ns: Integers
    residency: Integers


class PrefillColumns(msgspec.Struct, frozen=True):
    """One row a completed ``RunPrefill``, with the number of requests that it computed for."""

    worker: Integers
    start_ns: Integers
    end_ns: Integers
    requests: Integers


class TransferColumns(msgspec.Struct, frozen=True):
    """One row a completed transfer."""

    source: Integers
    target: Integers
    start_ns: Integers
    end_ns: Integers
    size_bytes: Integers
    operations: Integers


class Changes(msgspec.Struct, frozen=True):
    """Signed changes of a quantity of blocks per worker, in no order; before the first one it is zero."""

    worker: ShortIntegers
    at_ns: Integers
    amount: ShortIntegers


class MemoryColumns(msgspec.Struct, frozen=True):
    """Blocks over time. ``reserved`` counts blocks. ``filled`` and ``held`` count blocks x layers, as a transfer may
    fill a part of the layers; ``held`` is what prefill workers keep after the prefill until it is released.

    ``grown`` are the blocks that decode steps took: they are reserved and filled at once, so they belong to both and
    are kept once. A release is in ``reserved`` and ``filled`` with all that it frees.
    """

    reserved: Changes
    filled: Changes
    held: Changes
    grown: Changes

    @property
    def reserved_parts(self) -> tuple[Changes, Changes]:
        """All changes of the blocks that are reserved."""
        return self.reserved, self.grown


class RunColumns(msgspec.Struct, frozen=True):
    """A run. ``start_ns`` is the first arrival, ``end_ns`` the last event; both are 0 where nothing happened.

    ``mishaps`` has rows of what (``kvsim.metrics.mishaps``), when, and whose id. ``recomputed_tokens`` counts tokens
    that were prefilled more than once.
    """

    cluster: ClusterSpec
    start_ns: int
    end_ns: int
    requests: RequestColumns
    steps: StepColumns
    spans: TokenSpans
    prefills: PrefillColumns
    transfers: TransferColumns
    memory: MemoryColumns
    mishaps: Integers
    recomputed_tokens: int
    roles: "RoleColumns"

    @property
    def makespan_ns(self) -> int:
        """From the first arrival to the last event."""
        return self.end_ns - self.start_ns
