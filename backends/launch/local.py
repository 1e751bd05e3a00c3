"""Workers as processes of this machine: the default launcher, ready in the time that Python takes to start.

One thread starts them, reads what they print and sees their end within milliseconds (pidfd_open(2)). Workers die with
this process, however it ends: see ``backends.launch.shell``. Linux 5.3 or later.
"""

import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

from backends.control.errors import ControlError
from backends.control.ticket import TICKET_FD_VARIABLE, open_ticket
from backends.launch.notices import NoticeBox
from backends.launch.port import LAST_LINES, ExitNotice, WorkerHandle, WorkerLaunch
from backends.launch.tail import Tail

CODE_ROOT = Path(__file__).resolve().parents[2]
"""Where ``backends`` lies: workers run the same code as this process."""
READ_BYTES = 64 << 10

_Answer = TypeVar("_Answer")


@dataclass(slots=True)
class _Child:
    handle: WorkerHandle
    process: "subprocess.Popen[bytes]"
    process_fd: int
    output_fd: int
    tail: Tail = field(default_factory=Tail)


class LocalLauncher:
    """See ``backends.launch.port.Launcher``. Use it as a context manager or call ``close``."""

    def __init__(self) -> None:
        self._notices = NoticeBox()
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False
        # everything from here on belongs to the thread
        self._children: dict[int, _Child] = {}
        self._started = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ, self._do_jobs)
        self._ending = False
        self._thread = threading.Thread(target=self._watch, name="kvsim launcher", daemon=True)
        self._thread.start()

    def start(self, launch: WorkerLaunch) -> WorkerHandle:
        """Start a worker. Raises ControlError if the process cannot be made or the launcher is closed."""
        return self._in_thread(lambda: self._spawn(launch))

    def kill(self, handle: WorkerHandle) -> None:
        """End it and the processes that it started with SIGKILL. Harmless if it has ended."""
        if not self._closed:
            self._in_thread(lambda: self._kill(handle.number))

    def exits(self) -> list[ExitNotice]:
        """The workers that have ended since the last call. Does not wait."""
        return self._notices.take()

    def fileno(self) -> int:
        """Readable while ``exits`` has something to tell."""
        return self._notices.fileno()

    def close(self) -> None:
        """End every worker that still runs and wait until it has; ``exits`` tells of them. Harmless when closed."""
        if not self._closed:
            self._in_thread(self._end)
            self._closed = True
            self._thread.join()
            self._selector.close()
            os.close(self._wake)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _in_thread(self, job: Callable[[], _Answer]) -> _Answer:
        if self._closed:
            raise ControlError("this launcher is closed: workers can be started no more")
        answer: Future[_Answer] = Future()

        def do() -> None:
            try:
                answer.set_result(job())
            except BaseException as error:
                answer.set_exception(error)

        self._jobs.put(do)
        os.eventfd_write(self._wake, 1)
        return answer.result()

    # --- in the thread -----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while self._children or not self._ending:
            for key, _ in self._selector.select():
                # an earlier one of this round may have closed this file, and its number may be another's by now
                if self._selector.get_map().get(key.fd) is key:
                    key.data()

    def _do_jobs(self) -> None:
        os.eventfd_read(self._wake)
        while True:
            try:
                self._jobs.get_nowait()()
            except Empty:
                return

    def _spawn(self, launch: WorkerLaunch) -> WorkerHandle:
        handle = WorkerHandle(self._started, launch.ticket.worker, launch.ticket.name)
        try:
            process, output_fd = _start_process(launch)
            process_fd = _open_process(process)
        except OSError as error:
            raise ControlError(f"worker {handle.name}: cannot start a process: {error}") from error
        self._started += 1
        child = _Child(handle, process, process_fd, output_fd)
        self._children[handle.number] = child
        self._selector.register(output_fd, selectors.EVENT_READ, lambda: self._read(child))
        self._selector.register(process_fd, selectors.EVENT_READ, lambda: self._reap(child))
        return handle

    def _read(self, child: _Child) -> None:
        try:
            chunk = os.read(child.output_fd, READ_BYTES)
        except BlockingIOError:
            return
        child.tail.add(chunk)
        if not chunk:
            self._selector.unregister(child.output_fd)

    def _reap(self, child: _Child) -> None:
        # the group first: while its leader is not waited for, nobody else can have the leader's number
        _kill_group(child.process.pid)
        status = child.process.wait()
        for _ in range(16):  # a pipe holds at most 1 MiB (pipe(7)), and nobody may write for ever
            if child.output_fd in self._selector.get_map():
                self._read(child)
        if child.output_fd in self._selector.get_map():
            self._selector.unregister(child.output_fd)
        self._selector.unregister(child.process_fd)
        os.close(child.output_fd)
        os.close(child.process_fd)
        del self._children[child.handle.number]
        self._notices.put(ExitNotice(child.handle, status, child.tail.lines(LAST_LINES)))

    def _kill(self, number: int) -> None:
        child = self._children.get(number)
        if child is not None:
            _kill_group(child.process.pid)

    def _end(self) -> None:
        self._ending = True
        for number in list(self._children):
            self._kill(number)


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _open_process(process: "subprocess.Popen[bytes]") -> int:
    """A file descriptor that becomes readable when the process ends; if there can be none, neither can the process."""
    try:
        return os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise


def _start_process(launch: WorkerLaunch) -> "tuple[subprocess.Popen[bytes], int]":
    """The process and the end of a pipe from which everything that it prints can be read without blocking."""
    name = launch.ticket.name
    ticket_fd = open_ticket(launch.ticket)
    output_fd, child_output_fd = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(output_fd, False)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "backends.launch.shell", str(os.getpid()), launch.module, name],
            stdin=subprocess.DEVNULL,
            stdout=child_output_fd,
            stderr=child_output_fd,
            env=_environment(launch, ticket_fd),
            pass_fds=(ticket_fd,),
            # a group of its own: Ctrl-C is for the driver, and what the worker starts can be ended with it
            start_new_session=True,
        )
    except OSError:
        os.close(output_fd)
        raise
    finally:
        os.close(ticket_fd)
        os.close(child_output_fd)
    return process, output_fd


def _environment(launch: WorkerLaunch, ticket_fd: int) -> dict[str, str]:
    # workers share the machine: more than one thread each makes every step of all of them slower
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **dict(launch.environment)}
    paths = [str(CODE_ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["PYTHONUNBUFFERED"] = "1"  # the last lines of a worker that is killed
    environment[TICKET_FD_VARIABLE] = str(ticket_fd)
    return environment
