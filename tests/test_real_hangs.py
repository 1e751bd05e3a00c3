"""Workers that hang before they are connected or after they were told to stop: nobody waits for them for ever.

Those that hang while they serve are in ``test_real_fleet`` (silence) and ``test_real_processes`` (SIGSTOP).
"""

from dataclasses import replace

import pytest
from control_world import stand_in, wait_for_exits
from test_real_fleet import CLUSTER, D1, D2, LATE_NS, P0, START_NS, Bench

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
