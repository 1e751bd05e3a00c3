"""The two processes of one measurement: this one, the initiator, and an owner that obeys it.

It must not know what is measured.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backends.transport.bench_peers import open_side
from backends.transport.bench_side import Side
from backends.transport.port import TransportError

_END_S = 10.0


@dataclass(slots=True, eq=False)
class Pair:
    """The initiator's side and the owner's process."""

    transport: str
    side: Side
    owner: "subprocess.Popen[str]"

    def say(self, line: object) -> None:
        """One line to the owner."""
        assert self.owner.stdin is not None
        try:
            self.owner.stdin.write(json.dumps(line) + "\n")
            self.owner.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def order(self, **command: object) -> None:
        """Tell the owner to do something; ``answer`` must follow."""
        self.say(command)

    def answer(self) -> object:
        """The owner's answer."""
        assert self.owner.stdout is not None
        line = self.owner.stdout.readline()
        if not line:
            raise self._gone()
        return json.loads(line)

    def ask(self, **command: object) -> object:
        """Order and answer."""
        self.order(**command)
        return self.answer()

    def _gone(self) -> TransportError:
        return TransportError(f"the owner's process of {self.transport} ended with status {self.owner.wait(_END_S)}")


@contextmanager
def open_pair(transport: str, pool_bytes: int) -> Iterator[Pair]:
    """Start the owner, connect with it, and end it afterwards. Raises TransportError if that cannot be done."""
    root = str(Path(__file__).resolve().parents[2])  # where the owner finds this package, whatever its directory
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    owner = subprocess.Popen(
        [sys.executable, "-m", "backends.transport.bench_owner", transport, str(pool_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        side = open_side(transport, "initiator", pool_bytes)
        try:
            pair = Pair(transport, side, owner)
            described = pair.answer()
            pair.say(side.describe())
            side.meet(str(described))
            pair.answer()
            yield pair
        finally:
            side.close()
    finally:
        _end(owner)


def _end(owner: "subprocess.Popen[str]") -> None:
    try:
        owner.communicate(timeout=_END_S)  # closes its input, at which it ends
    except subprocess.TimeoutExpired:
        owner.kill()
        owner.communicate()
