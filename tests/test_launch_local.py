"""The local launcher: processes start with their ticket, their end is told, and none is left behind."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_world import listen_for, make_driver, make_ticket, stand_in, until, wait_for_exits

from backends.control.errors import ControlError
from backends.control.messages import Heartbeat, Ready, Stop
from backends.control.ticket import TICKET_FD_VARIABLE, open_ticket, read_ticket
from backends.launch.local import LocalLauncher
from backends.launch.port import ExitNotice, WorkerHandle
from backends.launch.tail import TAIL_BYTES_MAX, Tail
from kvsim.core.messages import WorkerId

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def launcher() -> Iterator[LocalLauncher]:
    with LocalLauncher() as local:
        yield local


def is_running(process: int) -> bool:
    """Whether there is such a process that has not ended; one that nobody has waited for yet has."""
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def ready_process(launcher: LocalLauncher, role: str = "serve") -> tuple[WorkerHandle, int]:
    """A stand-in that has joined a driver, and its process id."""
    with make_driver() as driver:
        driver.expect(WorkerId(0))
        handle = launcher.start(stand_in(make_ticket(driver, settings=role.encode())))
        ready = listen_for(driver, Ready).message
        assert isinstance(ready, Ready)
        return handle, ready.process


def test_a_worker_starts_joins_beats_and_ends_with_status_0_when_it_is_stopped(launcher: LocalLauncher) -> None:
    with make_driver() as driver:
        driver.expect(WorkerId(0))
        handle = launcher.start(stand_in(make_ticket(driver, settings=b"serve")))
        assert listen_for(driver, Ready).worker == 0
        assert listen_for(driver, Heartbeat).worker == 0
        assert driver.send(WorkerId(0), Stop())
        assert wait_for_exits(launcher, 1) == [ExitNotice(handle, 0, ())]


def test_a_worker_that_crashes_at_start_is_told_with_its_status_and_its_last_lines(launcher: LocalLauncher) -> None:
    launcher.start(stand_in(make_ticket(None, settings=b"crash")))
    [notice] = wait_for_exits(launcher, 1)
    assert notice.status == 3
    assert str(notice) == (
        "worker worker-0 ended with exit status 3; its last lines:\n"
        "    loading the model\n    no such folder: /models/none"
    )


def test_a_module_that_is_not_there_is_told_by_its_name(launcher: LocalLauncher) -> None:
    launch = stand_in(make_ticket(None))
    launcher.start(type(launch)(launch.ticket, "no_such_worker"))
    [notice] = wait_for_exits(launcher, 1)
    assert notice.status == 1
    assert "No module named no_such_worker" in notice.last_lines[-1]


def test_kill_ends_a_hung_worker_and_the_driver_is_woken_by_a_file_descriptor(launcher: LocalLauncher) -> None:
    handle, process = ready_process(launcher, "hang")
    assert not select.select([launcher], [], [], 0)[0]
    launcher.kill(handle)
    assert select.select([launcher], [], [], 20)[0]
    assert launcher.exits() == [ExitNotice(handle, -signal.SIGKILL, ())]
    assert not select.select([launcher], [], [], 0)[0]
    assert not is_running(process)


def test_a_worker_that_somebody_else_kills_is_noticed_once(launcher: LocalLauncher) -> None:
    handle, process = ready_process(launcher, "hang")
    os.kill(process, signal.SIGKILL)
    assert str(wait_for_exits(launcher, 1)[0]) == "worker worker-0 was ended by SIGKILL"
    launcher.kill(handle)
    assert launcher.exits() == []


def test_two_launches_of_one_worker_have_handles_of_their_own(launcher: LocalLauncher) -> None:
    first = launcher.start(stand_in(make_ticket(None, settings=b"quiet")))
    second = launcher.start(stand_in(make_ticket(None, settings=b"quiet")))
    assert first != second
    launcher.kill(second)
    assert [notice.handle for notice in wait_for_exits(launcher, 1)] == [second]


def test_close_ends_what_the_launcher_started_with_their_children_and_nothing_else(launcher: LocalLauncher) -> None:
    bystander, bystander_process = ready_process(launcher, "hang")
    # earlier tests of this process may have left it children for good (a resource tracker of multiprocessing)
    others = family_of(os.getpid())
    assert bystander_process in others
    other = LocalLauncher()
    other.start(stand_in(make_ticket(None, settings=b"family")))
    until(lambda: len(family_of(os.getpid())) == len(others) + 2)
    mine = [process for process in family_of(os.getpid()) if process not in others]
    other.close()
    other.close()
    assert len(mine) == 2
    until(lambda: not any(is_running(process) for process in mine))
    assert [notice.status for notice in other.exits()] == [-signal.SIGKILL]
    assert is_running(bystander_process)
    assert launcher.exits() == []
    with pytest.raises(ControlError, match="closed"):
        other.start(stand_in(make_ticket(None, settings=b"quiet")))
    other.kill(bystander)
    assert is_running(bystander_process)


def family_of(process: int) -> list[int]:
    """The processes that descend from this one and still run."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and is_running(int(folder.name)):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found: list[int] = []
    for _ in range(4):
        found = [child for child, parent in sorted(parents.items()) if parent == process or parent in found]
    return found


def test_workers_outlive_the_thread_that_asked_for_them(launcher: LocalLauncher) -> None:
    processes: list[int] = []
    asking = threading.Thread(target=lambda: processes.append(ready_process(launcher, "hang")[1]))
    asking.start()
    asking.join()
    assert is_running(processes[0])
    assert launcher.exits() == []


PARENT = """
import sys, time
from control_world import make_ticket, stand_in
from backends.launch.local import LocalLauncher

launcher = LocalLauncher()
for role in (b"quiet", b"quiet"):
    launcher.start(stand_in(make_ticket(None, settings=role)))
print("started", flush=True)
time.sleep(60)
"""


def test_workers_end_with_their_launcher_even_if_that_is_killed() -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        workers = family_of(parent.pid)
        assert len(workers) == 2
        parent.kill()
        until(lambda: not any(is_running(worker) for worker in workers))


def test_endless_output_neither_blocks_the_worker_nor_is_kept(launcher: LocalLauncher) -> None:
    launcher.start(stand_in(make_ticket(None, settings=b"chatty")))
    [notice] = wait_for_exits(launcher, 1)
    assert notice.status == 0
    assert notice.last_lines == tuple(f"line {number}" for number in range(199_980, 200_000))


def test_a_worker_gets_its_settings_and_one_thread_and_its_secret_where_nobody_sees_it(
    launcher: LocalLauncher,
) -> None:
    launcher.start(stand_in(make_ticket(None, worker=7, settings=b"environment of mine")))
    [notice] = wait_for_exits(launcher, 1)
    assert notice.last_lines == ("1 7 environment of mine", "no secret in sight")


def test_a_ticket_is_read_once() -> None:
    ticket = make_ticket(None, settings=b"anything")
    environment = {TICKET_FD_VARIABLE: str(open_ticket(ticket))}
    assert read_ticket(environment) == ticket
    with pytest.raises(ControlError, match="started by a launcher"):
        read_ticket(environment)


@pytest.mark.parametrize("value", ["", "-1", "no number", "99999"])
def test_a_worker_that_no_launcher_started_is_told_so(value: str) -> None:
    with pytest.raises(ControlError, match=TICKET_FD_VARIABLE):
        read_ticket({TICKET_FD_VARIABLE: value})


def test_settings_that_fit_no_ticket_are_refused_before_a_process_starts(launcher: LocalLauncher) -> None:
    with pytest.raises(ControlError, match="put large parts into a file"):
        launcher.start(stand_in(make_ticket(None, settings=bytes(70_000))))
    assert launcher.exits() == []


def test_the_secret_is_in_no_text_of_a_launch() -> None:
    launch = stand_in(make_ticket(None))
    assert repr(launch.ticket.secret) not in repr(launch)


def test_a_tail_is_bounded_and_printable() -> None:
    tail = Tail()
    tail.add(b"x" * TAIL_BYTES_MAX * 3)
    tail.add(b"\n\n\x1b[31mred\xff\n  \nlast")
    long_line, *rest = tail.lines(3)
    assert len(long_line) < TAIL_BYTES_MAX
    assert rest == ["?[31mred\N{REPLACEMENT CHARACTER}", "last"]
    assert tail.lines(1) == ("last",)


def test_an_exit_notice_tells_of_signals_without_a_name_and_of_lost_machines() -> None:
    handle = WorkerHandle(0, WorkerId(1), "decode-1")
    assert str(ExitNotice(handle, -62, ())) == "worker decode-1 was ended by signal 62"
    assert str(ExitNotice(handle, None, ("node died",))) == "worker decode-1 was lost; its last lines:\n    node died"
