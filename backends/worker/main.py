"""A worker process: ``python -m backends.worker.main``, started by a launcher with a ticket.

Two threads. The main thread computes, for that is what this process is for; the communication thread sleeps until the
driver, the transport or the main thread has something, and hands it on. Neither waits for the other longer than a queue
takes, so bytes move and layers are announced while a step is computed. Heartbeats come from the main thread.

Exit status 0: the driver said stop. 1: what went wrong is the last thing printed, and was told to the driver.
"""

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from backends.control.errors import DriverGoneError
from backends.control.messages import TEXT_LENGTH_MAX, Trouble, WorkerMessage
from backends.control.order_checks import check_driver_message
from backends.control.ticket import LaunchTicket, read_ticket
from backends.control.worker_channel import WorkerChannel
from backends.worker.mailbox import Mailbox
from backends.worker.settings import decode_settings
from kvsim.errors import KvsimError

SWITCH_INTERVAL_S = 0.0005
"""How soon a thread that has become ready gets the interpreter from one that computes in Python."""
POLL_S = 1.0
"""How often the communication thread looks whether it is to end, if nothing wakes it."""


def _nothing() -> None:
    """What there is to say before there is a worker."""


class Beat:
    """Called often by the main thread; says a heartbeat now and then."""

    def __init__(self) -> None:
        self.interval_ns = 1 << 62  # until the driver says how often
        self.say: Callable[[], None] = _nothing
        self._last_ns = time.monotonic_ns()

    def __call__(self) -> None:
        now_ns = time.monotonic_ns()
        if now_ns - self._last_ns >= self.interval_ns:
            self._last_ns = now_ns
            self.say()


class WorkerProcess:
    """The threads of one worker and how they end together."""

    def __init__(self, ticket: LaunchTicket) -> None:
        from backends.worker.assembly import assemble  # noqa: PLC0415  # torch: after the environment is looked at

        self._outbox: Mailbox[WorkerMessage] = Mailbox()
        self._beat = Beat()
        settings = decode_settings(ticket.settings)
        self._built = assemble(ticket.worker, settings, self._outbox.put, self._beat)
        self._ticket = ticket
        self._channel = WorkerChannel(ticket, self._built.compatibility)
        # half of what is asked for, so that a beat that comes a layer late is still in time
        self._beat.interval_ns = self._channel.heartbeat_interval_ns // 2
        self._beat.say = self._built.worker.beat
        self._failure: BaseException | None = None

    def run(self) -> int:
        """Serve until the driver says stop or something fails; the exit status."""
        communication = threading.Thread(target=self._communicate, name="communication")
        communication.start()
        worker = self._built.worker
        try:
            while not worker.stopped:
                worker.compute(self._beat.interval_ns / 1e9)
                self._beat()
        except BaseException as error:
            self._fail(error)
        communication.join()
        self._built.transport.close()
        if self._failure is None:
            return 0
        _explain(self._failure)
        return 1

    def _communicate(self) -> None:
        try:
            self._channel.wake_on(self._outbox.fileno())
            self._channel.wake_on(self._built.transport.fileno())
            worker = self._built.worker
            worker.begin()
            self._send_all()
            while not worker.stopped:
                for message in self._channel.receive(POLL_S):
                    check_driver_message(message, self._ticket.worker, self._built.limits)
                    worker.take(message)
                worker.poll()
                self._send_all()
        except BaseException as error:
            self._fail(error)
        finally:
            with suppress(DriverGoneError):
                self._send_all()
            self._channel.close()

    def _send_all(self) -> None:
        for message in self._outbox.take():
            self._channel.send(message)

    def _fail(self, error: BaseException) -> None:
        """The first failure counts: tell the driver, if it can still hear, and let both threads end."""
        if self._failure is None:
            self._failure = error
            if not isinstance(error, DriverGoneError):
                self._outbox.put(Trouble(_text(error), fatal=True))
        self._built.worker.stop()


def _text(error: BaseException) -> str:
    text = str(error) if isinstance(error, KvsimError) else "".join(traceback.format_exception(error))
    return text[-TEXT_LENGTH_MAX:]


def _explain(error: BaseException) -> None:
    sys.stderr.write(_text(error).rstrip() + "\n")


def main() -> int:
    """Read the ticket, become the worker, serve."""
    faulthandler.enable()  # a crash below Python, in torch or in a driver, says in which call: the launcher shows it
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        ticket = read_ticket(os.environ)
        settings = decode_settings(ticket.settings)
        # before torch is imported; the command line has set the second one for itself
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(settings.threads)
        process = WorkerProcess(ticket)
    except KvsimError as error:
        _explain(error)
        return 1
    return process.run()


if __name__ == "__main__":
    STATUS = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(STATUS)  # everything is closed; taking torch apart in good order takes a second and does nothing
