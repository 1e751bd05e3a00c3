"""Stands in for ``backends.worker.main`` in tests of launchers: the same ticket and channel, but no model.

What it does is the first word of its settings:
``serve``: joins, beats, and ends on Stop. ``crash``: says why and ends with status 3. ``hang``: joins, then falls
silent. ``quiet``: sleeps, without a driver; ``family``: the same, with a child of its own, whose id it prints.
``chatty``: prints far more than anybody keeps, then ends. ``environment``: prints what it was given, then ends.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from control_world import COMPATIBILITY

from backends.control.messages import Heartbeat, Ready, Stop
from backends.control.ticket import TICKET_FD_VARIABLE, LaunchTicket, read_ticket
from backends.control.worker_channel import WorkerChannel

LIFE_S = 60.0
"""No stand-in outlives this, whatever a test forgets."""


def serve(ticket: LaunchTicket) -> None:
    with WorkerChannel(ticket, COMPATIBILITY) as channel:
        channel.send(Ready("none", b"regions", ("read",), 8, os.getpid(), socket.gethostname()))
        deadline_s = time.monotonic() + LIFE_S
        while time.monotonic() < deadline_s:
            if Stop() in channel.receive(channel.heartbeat_interval_ns / 1e9):
                return
            channel.send(Heartbeat())


def hang(ticket: LaunchTicket) -> None:
    with WorkerChannel(ticket, COMPATIBILITY) as channel:
        channel.send(Ready("none", b"regions", ("read",), 8, os.getpid(), socket.gethostname()))
        time.sleep(LIFE_S)


def crash(_: LaunchTicket) -> None:
    print("loading the model", file=sys.stderr)
    print("no such folder: /models/none", file=sys.stderr)
    sys.exit(3)


def quiet(_: LaunchTicket) -> None:
    print(os.getpid())
    time.sleep(LIFE_S)


def family(_: LaunchTicket) -> None:
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LIFE_S})"])
    print(child.pid)
    time.sleep(LIFE_S)


def chatty(_: LaunchTicket) -> None:
    for number in range(200_000):
        print(f"line {number}")


def environment(ticket: LaunchTicket) -> None:
    print(os.environ["OMP_NUM_THREADS"], ticket.worker, ticket.settings.decode())
    given = " ".join(sys.orig_argv) + str({**os.environ, TICKET_FD_VARIABLE: ""})
    print("secret in sight" if ticket.secret.hex() in given or repr(ticket.secret) in given else "no secret in sight")


def main() -> None:
    ticket = read_ticket(os.environ)
    roles: list[Callable[[LaunchTicket], None]] = [serve, hang, crash, quiet, family, chatty, environment]
    {role.__name__: role for role in roles}[ticket.settings.decode().split()[0]](ticket)


if __name__ == "__main__":
    main()
