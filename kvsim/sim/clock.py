"""Simulated time: SimPy's environment and queue, with waits that cost little.

The simulator waits by callbacks instead of generator processes and steps through SimPy's queue itself, both for speed:
an event of SimPy also keeps a list of callbacks, a value and a delay that nobody here reads. Entries have SimPy's form,
so processes and events of SimPy in the same environment take their turn among the callbacks.

A wait cannot be taken back, so whoever may change his mind checks on waking that it still counts.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.core import EmptySchedule
from simpy.events import NORMAL


class Wake:
    """What happens when a wait is over: ``act``. ``call_after`` makes one of any callback."""

    def act(self) -> None:
        """Called once, at its instant."""
        raise NotImplementedError


class _Call(Wake):
    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action

    def act(self) -> None:
        self.action()


class Clock:
    """``now_ns`` is the simulated instant. Callbacks of one instant come in the order in which they were asked for."""

    def __init__(self) -> None:
        self.env = simpy.Environment()
        self.now_ns = 0
        environment: Any = self.env
        self._environment = environment
        self._queue: list[tuple[int, int, int, object]] = environment._queue
        self._numbers = environment._eid  # SimPy's own: what is due at the same time comes in the order of these
        self._normal = int(NORMAL)

    def wake_after(self, delay_ns: int, wake: Wake) -> None:
        """Let it act once, ``delay_ns`` from now."""
        assert delay_ns >= 0, f"a wait of {delay_ns} ns"
        heappush(self._queue, (self.now_ns + delay_ns, self._normal, next(self._numbers), wake))

    def call_after(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Call ``action`` once, ``delay_ns`` from now."""
        self.wake_after(delay_ns, _Call(action))

    def step(self) -> None:
        """Do what is due next; then it is that instant. Raises EmptySchedule if nothing is due any more."""
        queue = self._queue
        if not queue:
            raise EmptySchedule
        at_ns, _, _, due = queue[0]
        self.now_ns = at_ns
        if isinstance(due, Wake):
            heappop(queue)
            self._environment._now = at_ns
            due.act()
        else:
            self.env.step()

    def run(self) -> None:
        """Step until nothing is due any more."""
        while self._queue:
            self.step()

    @property
    def instant_is_over(self) -> bool:
        """Whether nothing more is due at this instant."""
        queue = self._queue
        return not queue or queue[0][0] > self.now_ns

    @property
    def is_empty(self) -> bool:
        """Whether nothing is due any more."""
        return not self._queue
