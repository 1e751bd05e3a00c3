"""Real processes: launched, shaking hands, connected, serving, ending; and what the user is told when one cannot.

Each test starts processes, which takes seconds, so each asserts a lot.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import pytest

# looked for and not imported: this process needs neither, unless it asks transformers itself
if find_spec("torch") is None:
    pytest.skip(
        "torch is not installed: real workers are NOT tested; pip install 'kvsim[engine]'", allow_module_level=True
    )
if find_spec("transformers") is None:
    pytest.skip(
        "transformers is not installed: token equality is NOT tested; pip install 'kvsim[hf]'", allow_module_level=True
    )

from fake_cuda import FAKE_CUDA, fake_cuda_folder
from real_launchers import MakeLauncher, launchers
from real_models import ASKED, ASKED_TOKENS, KnownAnswers, Oracle, Reference, model_cluster, prompts, write_model
from transport_world import RDMA
from worlds import Recorder

from backends.driver.driver import Observer
from backends.driver.errors import ServiceError, SubmissionError
from backends.driver.requests import Submission
from backends.driver.service import Service, ServiceLimits
from backends.transport.bench_peers import missing
from backends.worker.model_source import ModelSource
from backends.worker.settings import WorkerSettings
from kvsim.core.cluster import ClusterSpec, TransferMode
from kvsim.core.messages import WorkerId, WorkerJoined, WorkerLost
from kvsim.metrics import Collector
from kvsim.record import RecordWriter
from kvsim.replay import replay, replay_file

NO_GPU = "torch is built without CUDA" if "+cpu" in version("torch") else missing("cuda_ipc")
LIMITS = ServiceLimits(start_timeout_s=90.0, stop_timeout_s=10.0)


@pytest.fixture(scope="module")
def known(request: pytest.FixtureRequest) -> Path | None:
    """Where the model and the answers lie, if they have been made before."""
    folder = request.config.getoption("--known-answers")
    return None if folder is None else Path(folder)


@pytest.fixture(scope="module")
def source(known: Path | None, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return write_model(tmp_path_factory.mktemp("model")) if known is None else ModelSource(str(known))


@pytest.fixture(scope="module")
def reference(known: Path | None, source: ModelSource) -> Oracle:
    return Reference(source) if known is None else KnownAnswers(known)


@pytest.fixture(scope="module")
def make_launcher(request: pytest.FixtureRequest) -> Iterator[MakeLauncher]:
    with launchers(request.config.getoption("--launcher")) as make:
        yield make


class MakeService(Protocol):
    """Makes a service that is not started; what is not given is as in most tests."""

    def __call__(
        self,
        cluster: ClusterSpec,
        transport: str = "shm",
        observers: Sequence[Observer] = (),
        limits: ServiceLimits = LIMITS,
        device: str = "cpu",
    ) -> Service: ...


@pytest.fixture
def service(source: ModelSource, make_launcher: MakeLauncher) -> MakeService:
    def make(
        cluster: ClusterSpec,
        transport: str = "shm",
        observers: Sequence[Observer] = (),
        limits: ServiceLimits = LIMITS,
        device: str = "cpu",
    ) -> Service:
        settings = WorkerSettings(cluster, source, transport, device=device)
        return Service(settings, make_launcher(), observers, limits=limits)

    return make


@pytest.mark.parametrize(
    ("mode", "transport", "prefill", "decode"),
    [
        *[pytest.param(mode, "verbs", 1, 1, marks=RDMA) for mode in ("push", "pull", "streamed")],
        ("push", "tcp", 2, 1),
        ("pull", "shm", 1, 2),
        ("streamed", "shm", 1, 1),
        ("message", "message", 1, 1),
        ("colocated", "shm", 1, 1),
    ],
)
def test_processes_give_the_tokens_of_transformers_and_a_record_that_replays(
    mode: TransferMode,
    transport: str,
    prefill: int,
    decode: int,
    service: MakeService,
    reference: Oracle,
    tmp_path: Path,
) -> None:
    check_tokens(mode, transport, prefill, decode, service, reference, tmp_path)


@pytest.mark.skipif(bool(NO_GPU), reason=f"no GPU for torch here: {NO_GPU}")
@pytest.mark.parametrize("mode", ["push", "pull", "streamed"])
def test_two_processes_on_one_gpu_give_the_tokens_of_transformers(
    mode: TransferMode, service: MakeService, reference: Oracle, tmp_path: Path
) -> None:
    check_tokens(mode, "cuda_ipc", 1, 1, service, reference, tmp_path, device="cuda:0")


@FAKE_CUDA
def test_workers_on_a_cpu_can_use_cuda_ipc_where_there_is_a_driver(
    service: MakeService,
    reference: Oracle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Its memory is shared memory then. The driver is the stand-in."""
    if request.config.getoption("--launcher") == "ray":
        pytest.skip("workers of a Ray have its environment, not this one's, in which the stand-in would be found")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_cuda_folder()))
    check_tokens("pull", "cuda_ipc", 1, 1, service, reference, tmp_path)


def test_workers_whose_transport_has_no_driver_say_what_to_install(service: MakeService) -> None:
    if not missing("cuda_ipc"):
        pytest.skip("there is a driver")
    with (
        service(model_cluster("pull"), "cuda_ipc") as running,
        pytest.raises(ServiceError, match=r"the CUDA driver cannot be loaded: .*; install the driver"),
    ):
        running.start()


def check_tokens(
    mode: TransferMode,
    transport: str,
    prefill: int,
    decode: int,
    service: MakeService,
    reference: Oracle,
    tmp_path: Path,
    device: str = "cpu",
) -> None:
    """Serve, and hold every token against the oracle's and the record against a fresh scheduler."""
    cluster = model_cluster(mode, prefill=prefill, decode=decode, kv_blocks=28, block_tokens=4, batch_tokens_max=48)
    submissions = [Submission(prompt, ASKED_TOKENS) for prompt in ASKED]
    file, collector = tmp_path / "real.jsonl.gz", Collector(cluster)
    with (
        RecordWriter(file, "real", cluster) as writer,
        service(cluster, transport, (writer.observe, collector.observe), device=device) as running,
    ):
        running.start()
        running.start_thread()
        streams = [running.submit(submission) for submission in submissions]
        outputs = [list(stream.tokens(timeout_s=30.0)) for stream in streams]
        running.drain(timeout_s=10.0)
        running.close()
        running.driver.scheduler.check()
    for submission, output in zip(submissions, outputs, strict=True):
        assert output == reference.generate(submission.prompt, ASKED_TOKENS)
    assert replay_file(file).identical
    requests = collector.finish().requests
    assert (requests.output_tokens == ASKED_TOKENS).all()
    assert (requests.arrival_ns <= requests.finished_ns).all()


def test_arrivals_come_at_their_instants_and_the_run_ends_when_all_are_over(service: MakeService) -> None:
    cluster = model_cluster("pull")
    collector = Collector(cluster)
    with service(cluster, observers=(collector.observe,)) as running:
        running.start()
        arrivals = [(place * 40_000_000, Submission((1, 2, 3, place), 5, output_tokens=5)) for place in range(4)]
        running.serve_arrivals(arrivals, timeout_s=30.0)
        requests = collector.finish().requests
        assert (requests.arrival_ns - requests.arrival_ns[0] >= [0, 39_000_000, 79_000_000, 119_000_000]).all()
        assert requests.output_tokens.tolist() == [5, 5, 5, 5]
        wrong = [(0, Submission((299,), 5)), (0, Submission((300,), 5))]
        with pytest.raises(SubmissionError, match="request 1: token 300 is not in the vocabulary of 300"):
            running.serve_arrivals(wrong, timeout_s=1.0)


def test_a_worker_that_cannot_start_is_named_with_its_last_words(service: MakeService) -> None:
    with (
        service(model_cluster("pull"), device="cuda:63") as running,
        pytest.raises(ServiceError, match=r"worker (prefill|decode)\d ended with exit status 1; its last lines:\n"),
    ):
        running.start()


def test_a_transport_that_cannot_do_what_the_mode_needs_is_refused_in_words(service: MakeService) -> None:
    with (
        service(model_cluster("pull"), "message") as running,
        pytest.raises(ServiceError, match="transport message cannot read a peer's memory"),
    ):
        running.start()


def wait_for(what: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        time.sleep(0.01)


def test_a_killed_and_a_hung_decode_worker_lose_no_request_and_one_comes_back(
    service: MakeService, reference: Oracle
) -> None:
    cluster = model_cluster("pull", prefill=1, decode=2)
    killed, hung = WorkerId(1), WorkerId(2)
    submissions = [Submission(prompt, 150) for prompt in prompts(6, longest=20)]
    recorder = Recorder()
    limits = ServiceLimits(late_after_ns=1_500_000_000, heartbeat_interval_ns=200_000_000)
    with service(cluster, observers=(recorder.observe,), limits=limits) as running:
        running.start()
        running.start_thread()
        streams = [running.submit(submission) for submission in submissions]
        for stream in streams:
            stream.next_tokens(30.0)
        os.kill(running.process(killed), signal.SIGKILL)
        wait_for(lambda: running.is_away(killed))
        running.launch(killed)
        wait_for(lambda: running.process(killed) != 0)
        os.kill(running.process(hung), signal.SIGSTOP)
        streams += [running.submit(submission) for submission in submissions]
        for index, stream in enumerate(streams):
            tokens = list(stream.tokens(60.0))
            expected = reference.generate(submissions[index % len(submissions)].prompt, 150)
            assert tokens == expected[len(expected) - len(tokens) :]
            assert len(tokens) in (149, 150), "the first one was read above"
        running.drain(timeout_s=20.0)
        running.driver.scheduler.check()
    events = [event for record in recorder.records for event in record.events]
    assert [event.worker for event in events if isinstance(event, WorkerLost)] == [killed, hung]
    assert [event.worker for event in events if isinstance(event, WorkerJoined)] == [killed]
    assert replay(cluster, recorder.records).identical


def test_clients_give_up_and_workers_leave_while_others_are_served(service: MakeService, reference: Oracle) -> None:
    cluster = model_cluster("pull", prefill=1, decode=2)
    prompt = prompts(3)[2]
    with service(cluster) as running:
        running.start()
        running.start_thread()
        unwanted, wanted = running.submit(Submission(prompt, 400)), running.submit(Submission(prompt, 100))
        unwanted.next_tokens(30.0)
        running.cancel(unwanted.request)
        running.dismiss(WorkerId(1))
        assert len(list(unwanted.tokens(30.0))) < 399
        assert unwanted.ended is not None
        assert unwanted.ended.why == "cancelled"
        assert list(wanted.tokens(30.0)) == reference.generate(prompt, 100)
        wait_for(lambda: running.process(WorkerId(1)) == 0)
        assert list(running.submit(Submission(prompt, 5)).tokens(30.0)) == reference.generate(prompt, 5)
        running.drain(timeout_s=10.0)
        running.driver.scheduler.check()
