"""Who has waited too long for its prefill: the one timer of the core.

Every request waits equally long at most, so the deadlines come in the order of arrival. It must not know what happens
to a request that gives up.
"""

from collections import deque

from kvsim.core.request import Phase, RequestState


class PrefillWaits:
    """Deadlines of requests that have not begun their first prefill. ``wait_max_ns`` None: they may wait for ever."""

    def __init__(self, wait_max_ns: int | None) -> None:
        self._wait_max_ns = wait_max_ns
        self._waits: deque[tuple[int, RequestState]] = deque()

    @property
    def deadline_ns(self) -> int | None:
        """When the request that has waited longest gives up; None if nobody waits with a limit."""
        return self._waits[0][0] if self._waits else None

    def add(self, state: RequestState, now_ns: int) -> None:
        """A request begins to wait."""
        if self._wait_max_ns is not None:
            self._waits.append((now_ns + self._wait_max_ns, state))

    def expire(self, now_ns: int) -> list[RequestState]:
        """Remove and return those whose time is over; forget those that no longer wait."""
        expired = []
        while self._waits:
            deadline_ns, state = self._waits[0]
            waits = state.phase in (Phase.WAITING_MEMORY, Phase.WAITING_PREFILL) and state.generated == 0
            if waits and deadline_ns > now_ns:
                break
            self._waits.popleft()
            if waits:
                expired.append(state)
        return expired
