"""What a failed work request means for a transfer, a queue pair and a peer.

The statuses are ``enum ibv_wc_status`` (man ibv_poll_cq). This module must not know how anything is repaired.
"""

from typing import Final, Literal, TypeAlias

Consequence: TypeAlias = Literal["refused", "flushed", "lost", "broken"]
"""``refused``: this transfer fails, and its queue pair with it, which is replaced; the peer is well.
``flushed``: nothing was wrong with this one, its queue pair had failed before: do it again on the next.
``lost``: the peer does not answer. ``broken``: this end's device failed."""

SUCCESS: Final = 0

_MEANINGS: Final[dict[int, tuple[str, Consequence]]] = {
    1: ("local length error", "refused"),
    2: ("local queue pair operation error", "broken"),
    3: ("local end-to-end context error", "broken"),
    4: ("local protection error", "refused"),
    5: ("flushed", "flushed"),
    6: ("memory window bind error", "broken"),
    7: ("bad response", "broken"),
    8: ("local access error", "refused"),
    9: ("remote invalid request", "refused"),
    10: ("remote access error: its region is gone, or its key has changed", "refused"),
    11: ("remote operation error", "refused"),
    12: ("transport retry counter exceeded", "lost"),
    13: ("receiver not ready retry counter exceeded", "lost"),
    15: ("remote invalid READ request", "refused"),
    16: ("remote aborted", "refused"),
    19: ("fatal error", "broken"),
    20: ("response timeout", "lost"),
    21: ("general error", "broken"),
}


def consequence_of(status: int) -> Consequence:
    """What follows from a status that is not SUCCESS."""
    return _MEANINGS.get(status, ("", "broken"))[1]


def words_for(status: int) -> str:
    """The status for a log."""
    return _MEANINGS.get(status, (f"work completion status {status}", "broken"))[0]
