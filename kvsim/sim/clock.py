"""Simulated time: an environment of SimPy, with waits that cost little.

The simulator waits by callbacks instead of generator processes, in a queue of its own, both for speed: an event of
SimPy also keeps a list of callbacks, a value and a delay that nobody here reads, and SimPy's heap compares tuples,
where one number does. Processes and events of SimPy in ``env`` take their turn among the callbacks, as if all were in
one queue.

A wait cannot be taken back, so whoever may change his mind checks on waking that it still counts.
"""

from collections.abc import Callable
from typing import Any

import simpy
from simpy.core import EmptySchedule
from simpy.events import NORMAL


class Wake:
    """What happens when a wait is over: ``act``. It waits for one instant at a time, ``at_ns``; ``number`` says where
    it stands among those of the same instant."""

    at_ns: int = 0
    number: int = 0

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
        self.now_ns = 0
        self.env: simpy.Environment = _Environment(self)
        environment: Any = self.env
        self._others: list[tuple[int, int, int, object]] = environment._queue  # what SimPy itself is to do
        self._wakes: list[Wake] = []  # the next one last
        self._numbers = 0

    def next_number(self) -> int:
        """Every wait has another one, SimPy's as well: what is due at the same time comes in their order."""
        self._numbers += 1
        return self._numbers

    def wake_after(self, delay_ns: int, wake: Wake) -> None:
        """Let it act once, ``delay_ns`` from now."""
        assert delay_ns >= 0, f"a wait of {delay_ns} ns"
        wake.at_ns = self.now_ns + delay_ns
        wake.number = self.next_number()
        self._wakes.insert(self._place(wake.at_ns), wake)

    def call_after(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Call ``action`` once, ``delay_ns`` from now."""
        self.wake_after(delay_ns, _Call(action))

    def step(self) -> None:
        """Do what is due next; then it is that instant. Raises EmptySchedule if nothing is due any more."""
        if self._others and self._simpy_comes_first():
            self.env.step()
        elif self._wakes:
            wake = self._wakes.pop()
            self.now_ns = wake.at_ns
            wake.act()
        else:
            raise EmptySchedule

    def run(self) -> None:
        """Step until nothing is due any more."""
        while not self.is_empty:
            self.step()

    @property
    def instant_is_over(self) -> bool:
        """Whether nothing more is due at this instant."""
        if self._others and self._others[0][0] == self.now_ns:
            return False
        return not self._wakes or self._wakes[-1].at_ns > self.now_ns

    @property
    def is_empty(self) -> bool:
        """Whether nothing is due any more."""
        return not self._wakes and not self._others

    def _place(self, at_ns: int) -> int:
        """Where a wait that ends then goes: it acts after all others of that instant. Few wait at a time, two a worker
        and one a transfer, so to make room for one takes less than a heap takes to keep its order."""
        wakes, low, high = self._wakes, 0, len(self._wakes)
        while low < high:
            middle = (low + high) // 2
            if wakes[middle].at_ns > at_ns:
                low = middle + 1
            else:
                high = middle
        return low

    def _simpy_comes_first(self) -> bool:
        """Whether what SimPy is to do next comes before the next wake, by its rule: time, priority, number."""
        if not self._wakes:
            return True
        first = self._wakes[-1]
        return self._others[0][:3] < (first.at_ns, int(NORMAL), first.number)


class _Environment(simpy.Environment):
    """One whose instant is that of a clock, as are the numbers that it gives."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__()
        self._eid = iter(clock.next_number, None)  # type: ignore[assignment]  # SimPy only asks for the next

    @property
    def _now(self) -> int:
        return self._clock.now_ns

    @_now.setter
    def _now(self, at_ns: int) -> None:
        self._clock.now_ns = at_ns
