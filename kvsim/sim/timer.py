"""The two ways in which the simulator waits. Callbacks instead of generator processes: a third of their cost.

SimPy cannot take a timeout back (its queue keeps it), so whoever may change his mind checks on waking that the wait
still counts.
"""

from collections.abc import Callable

import simpy
from simpy.events import EventPriority

END_OF_INSTANT = EventPriority(2)
"""After every timeout of the same instant: SimPy's own priorities are 0 and 1."""


def call_after(env: simpy.Environment, delay_ns: int, action: Callable[[], None]) -> None:
    """Call ``action`` once, ``delay_ns`` from now."""
    timeout = simpy.Timeout(env, delay_ns)
    assert timeout.callbacks is not None
    timeout.callbacks.append(lambda _: action())


class EndOfInstant(simpy.Event):
    """An event that fires at the present instant, after everything else that is due at it."""

    def __init__(self, env: simpy.Environment, action: Callable[[], None]) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        self.callbacks = [lambda _: action()]
        env.schedule(self, priority=END_OF_INSTANT)
