"""Commands that say what the scheduler has decided for a request, and why: there is nothing to carry out.

Part of the vocabulary of ``kvsim.core.messages``, which takes all of it in and is where to import it from. It must not
know how a mode is chosen.
"""

from typing import Literal, TypeAlias

from kvsim.core.message_base import Message, RequestId, WorkerId

ServingMode: TypeAlias = Literal["push", "pull", "streamed", "message", "local"]
"""How one request is served: how its KV moves, or ``local``, on one worker without a transfer."""

ModeReason: TypeAlias = Literal[
    "local_sooner", "no_prefill_worker", "transfers_fail", "memory_free", "just_in_time", "memory_scarce"
]
"""``local_sooner``: the decode worker computes the prompt sooner itself, the delay of those that decode there included.
``no_prefill_worker``: there is none (any more). ``transfers_fail``: its KV has reached no decode worker, whatever was
tried. ``memory_free``: decode memory is plenty, so holding it during the
prefill costs nobody. ``just_in_time``: memory is scarce, and what is left of the prefill just hides the transfer.
``memory_scarce``: memory was scarce, and the prefill was over before a transfer could be hidden in it."""


class ChooseMode(Message, frozen=True, gc=False):
    """From now on the request is served like this (policy ``adaptive``), and why: nothing to carry out.

    The scheduler's estimates of that instant: ``queue_ns`` is the wait for a prefill worker (what is left of the run,
    if that has begun), ``prefill_ns`` the prefill on the worker chosen, ``transfer_ns`` the hand-over beside what is on
    the links already, and ``memory_share`` the millionths of the decode worker's memory that are spoken for, this
    request and the growth of contexts included.
    """

    request: RequestId
    mode: ServingMode
    why: ModeReason
    queue_ns: int
    prefill_ns: int
    transfer_ns: int
    memory_share: int


class EndLease(Message, frozen=True, gc=False):
    """Nobody has shown for a whole lease that he wants the KV that the request has on this worker: it is given up, and
    ``ReleaseBlocks`` follows."""

    worker: WorkerId
    request: RequestId
