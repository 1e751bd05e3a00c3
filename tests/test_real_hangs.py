"""Workers that hang before they are connected or after they were told to stop: nobody waits for them for ever.

Those that hang while they serve are in ``test_real_fleet`` (silence) and ``test_real_processes`` (SIGSTOP).
"""

from dataclasses import replace

import msgspec
import pytest
from control_world import stand_in, until, wait_for_exits
from test_real_fleet import CLUSTER, D1, D2, LATE_NS, P0, START_NS, Bench

from backends.control.errors import ControlError
from backends.control.messages import Heartbeat, Stop
from backends.driver.errors import ServiceError
from backends.driver.service import Service, ServiceLimits
from backends.launch.local import LocalLauncher
from backends.launch.port import WorkerHandle, WorkerLaunch
from backends.worker.model_source import ModelSource
from backends.worker.settings import WorkerSettings


def test_a_worker_that_is_started_again_and_never_connects_is_ended_at_the_start_timeout() -> None:
    bench = Bench()
    bench.connect_all()
    bench.fleet.give_up_late(START_NS)
    assert bench.launcher.killed == [P0, D1, D2], "silent, all of them: not those that took long to start"
    bench = Bench()
    bench.connect_all()
    bench.exits(D1)
    bench.fleet.launch(D1, 10)
    beat_ns = 10 + START_NS - 1
    bench.says(P0, Heartbeat(), now_ns=beat_ns)
    bench.says(D2, Heartbeat(), now_ns=beat_ns)
    assert bench.fleet.deadline_ns() == 10 + START_NS
    bench.fleet.give_up_late(beat_ns)
    assert bench.launcher.killed == []
    bench.fleet.give_up_late(10 + START_NS)
    assert bench.launcher.killed == [D1]
    assert bench.fleet.deadline_ns() == beat_ns + LATE_NS
    bench.exits(D1, number=3)
    assert bench.driver.news == [("lost", D1)], "the scheduler never counted on the second one"
    bench.fleet.launch(D1, 20)


def test_a_worker_that_loaded_and_does_not_reach_its_peers_is_ended_too() -> None:
    bench = Bench()
    bench.connect_all()
    bench.exits(D1)
    bench.fleet.launch(D1, 0)
    for worker in (P0, D1, D2):
        bench.says(worker, Heartbeat(), now_ns=START_NS)
    bench.fleet.give_up_late(START_NS)
    assert bench.launcher.killed == [D1]


class Muted(LocalLauncher):
    """Starts processes that do nothing, as a worker does that hangs while it loads its model."""

    def start(self, launch: WorkerLaunch) -> WorkerHandle:
        return super().start(stand_in(replace(launch.ticket, settings=b"quiet")))


def test_a_process_that_hangs_while_it_loads_is_killed_at_the_start_timeout() -> None:
    with Muted() as launcher:
        bench = Bench(launcher)
        bench.fleet.give_up_late(START_NS)
        said = r"worker (\w+): it is not connected 0\.0 s after its start: .*; worker \1 was ended by SIGKILL"
        with pytest.raises(ServiceError, match=said):
            bench.fleet.exited(wait_for_exits(launcher, 1)[0], bench.driver)


def test_a_service_says_which_worker_is_not_there_in_time() -> None:
    settings = WorkerSettings(CLUSTER, ModelSource("tiny"), "shm")
    with (
        Service(settings, Muted(), limits=ServiceLimits(start_timeout_s=0.1)) as service,
        pytest.raises(ServiceError, match=r"not connected 0\.\d s after its start: .*worker \w+ was ended by SIGKILL"),
    ):
        service.start()


class Full(LocalLauncher):
    """Has room for one process less than it is asked for."""

    started = 0

    def start(self, launch: WorkerLaunch) -> WorkerHandle:
        self.started += 1
        if self.started == 1:
            raise ControlError(f"worker {launch.ticket.name}: cannot start a process: no room")
        return super().start(stand_in(replace(launch.ticket, settings=b"quiet")))


def test_a_worker_for_which_there_is_no_room_ends_no_service_and_can_be_asked_for_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = tuple([msgspec.structs.replace(spec, present=False) for spec in CLUSTER.workers])
    settings = WorkerSettings(msgspec.structs.replace(CLUSTER, workers=away), ModelSource("tiny"), "shm")
    with Full() as launcher, Service(settings, launcher, limits=ServiceLimits(stop_timeout_s=0.1)) as service:
        service.start()
        service.start_thread()
        service.launch(D1)
        until(lambda: "worker decode1: cannot start a process: no room" in caplog.text)

        def has_not_ended() -> bool:
            try:
                service.launch(D1)
            except ServiceError as error:
                return str(error) == "worker decode1 cannot be started: its last process has not ended"
            return False

        until(has_not_ended)
        assert launcher.started == 2, "asked for more than once, started once"
        service.launch(D2)
        until(lambda: launcher.started == 3)


def test_a_worker_that_hangs_when_it_is_told_to_stop_is_killed() -> None:
    bench = Bench()
    bench.connect_all()
    bench.fleet.send(D1, Stop())
    bench.says(P0, Heartbeat(), now_ns=LATE_NS)
    bench.says(D2, Heartbeat(), now_ns=LATE_NS)
    bench.fleet.give_up_late(LATE_NS)
    assert bench.launcher.killed == [D1]
    bench.exits(D1)
    assert ("lost", D1) not in bench.driver.news, "it was let go before"
