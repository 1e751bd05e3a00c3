"""For how long KV is kept without a sign that anybody still wants it.

A request has a lease from the end of its prefill until its KV has arrived and its source is free. Every lease lasts
equally long from when it was granted or renewed, so the one that is renewed goes behind all others and the first is
always the next to end: one that is renewed again and again cannot hide another that is over.

It must not know what happens to a request whose lease is over.
"""

from kvsim.core.messages import RequestId


class Leases:
    """When each lease ends. ``lease_ns`` None: there are none."""

    def __init__(self, lease_ns: int | None) -> None:
        self._lease_ns = lease_ns
        self._now_ns = 0
        self._ends_ns: dict[RequestId, int] = {}  # the next to end first

    @property
    def deadline_ns(self) -> int | None:
        """When the next one is over; None if there are none."""
        if not self._ends_ns:
            return None
        return next(iter(self._ends_ns.values()))

    def begin(self, now_ns: int) -> None:
        """From now on it is ``now_ns``."""
        self._now_ns = now_ns

    def expire(self) -> list[RequestId]:
        """Remove and return those that are over."""
        over: list[RequestId] = []
        if not self._ends_ns:
            return over
        for request, end_ns in self._ends_ns.items():
            if end_ns > self._now_ns:
                break
            over.append(request)
        for request in over:
            del self._ends_ns[request]
        return over

    def grant(self, request: RequestId) -> None:
        """Begin a lease, or renew it."""
        if self._lease_ns is not None:
            self._ends_ns.pop(request, None)
            self._ends_ns[request] = self._now_ns + self._lease_ns

    def renew(self, request: RequestId) -> None:
        """Renew a lease; nothing without one."""
        if request in self._ends_ns:
            self.grant(request)

    def drop(self, request: RequestId) -> None:
        """There is nothing to keep any more."""
        if self._ends_ns:
            self._ends_ns.pop(request, None)
