"""What a step is planned without, where an engine plans one step ahead (async scheduling, as in vLLM v1).

Such an engine decides on a step while the one before it still runs, so that the GPU never waits for the scheduler. The
decision therefore does not know what happened since that one began: requests that arrived, and blocks and places in
the batch of requests that it finished. They count from the next decision on. It must not know what is planned.
"""

from collections import deque

from kvsim.core.request import RequestState


class Hindsight:
    """What does not count for the next step; nothing where the engine does not plan ahead."""

    def __init__(self, plans_ahead: bool) -> None:
        self.arrived: deque[RequestState] = deque()
        self.blocks = 0
        self.requests = 0
        self._plans_ahead = plans_ahead

    @property
    def pending(self) -> bool:
        """Whether the decision after the next knows more than the next."""
        return bool(self.arrived) or self.blocks > 0

    def arrive(self, state: RequestState) -> bool:
        """Keep a request back. False if it counts at once."""
        if self._plans_ahead:
            self.arrived.append(state)
        return self._plans_ahead

    def freed(self, blocks: int) -> None:
        """A request has ended and gave back so many blocks."""
        if self._plans_ahead:
            self.blocks += blocks
            self.requests += 1

    def settle(self, waiting: deque[RequestState]) -> bool:
        """A step was planned, or there was none to plan: from now on all of this counts. Returns whether there was
        anything."""
        changed = bool(self.arrived) or self.requests > 0
        waiting.extend(self.arrived)
        self.arrived.clear()
        self.blocks = self.requests = 0
        return changed
