"""How the simulator waits: a callback instead of a generator process, which costs three times as much.

SimPy cannot take a timeout back (its queue keeps it), so whoever may change his mind checks on waking that the wait
still counts.
"""

from collections.abc import Callable
from typing import cast

import simpy
from simpy.events import NORMAL


class _Wake:
    """What ``simpy.Environment.step`` asks of an event that has succeeded, and no more: ``simpy.Timeout`` also makes a
    list of callbacks and keeps a value and a delay that nobody reads, at three times the cost."""

    __slots__ = ("_ok", "action", "callbacks")

    def __init__(self, action: Callable[[], None]) -> None:
        self._ok = True
        self.action = action
        self.callbacks: tuple[Callable[[_Wake], None], ...] | None = _CALLBACKS


def _act(wake: _Wake) -> None:
    wake.action()


_CALLBACKS = (_act,)


def call_after(env: simpy.Environment, delay_ns: int, action: Callable[[], None]) -> None:
    """Call ``action`` once, ``delay_ns`` from now."""
    env.schedule(cast("simpy.Event", _Wake(action)), NORMAL, delay_ns)
