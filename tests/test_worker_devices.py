"""Where a worker computes and by which attention kernel. Without a GPU here, torch's answers are given for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: real workers are NOT tested; pip install 'kvsim[engine]'")

import torch
from real_models import model_cluster

from backends.control.messages import WorkerMessage
from backends.model.errors import ModelError
from backends.model.transformer import Transformer
from backends.worker import assembly
from backends.worker.assembly import assemble, device_of
from backends.worker.errors import WorkerError
from backends.worker.model_source import ModelSource
from backends.worker.settings import WorkerSettings
from kvsim.core.messages import WorkerId
from kvsim.errors import ScenarioError
from kvsim.scenario import load_scenario

SHIPPED = Path(__file__).parents[1] / "scenarios" / "validate_cpu.yaml"


@pytest.fixture
def see_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Makes torch see so many GPUs; returns the list of those that were made the current one."""

    def see(count: int) -> list[int]:
        made_current: list[int] = []
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", made_current.append)
        return made_current

    return see


def test_workers_take_the_gpus_that_they_see_in_turn_or_all_the_one_that_is_named(
    see_gpus: Callable[[int], list[int]],
) -> None:
    made_current = see_gpus(2)
    assert [str(device_of(WorkerId(worker), "cuda")) for worker in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [str(device_of(WorkerId(worker), "cuda:1")) for worker in range(2)] == ["cuda:1", "cuda:1"]
    assert made_current == [0, 1, 0, 1, 1], "kernels are launched on the current device, so it must be the worker's"
    assert device_of(WorkerId(1), "cpu") == torch.device("cpu")
    assert len(made_current) == 5


@pytest.mark.parametrize(
    ("name", "gpus", "words"),
    [
        ("cuda:2", 2, "device cuda:2: this process sees 2 GPUs, the last of them is cuda:1"),
        ("cuda", 0, "device cuda: torch .* finds no GPU here"),
        ("gpu", 2, "device 'gpu': expected cpu, cuda or cuda:NUMBER"),
        ("cuda:x", 2, "device 'cuda:x': expected cpu, cuda or cuda:NUMBER"),
    ],
)
def test_a_device_that_is_not_there_is_named(
    name: str, gpus: int, words: str, see_gpus: Callable[[int], list[int]]
) -> None:
    made_current = see_gpus(gpus)
    with pytest.raises(WorkerError, match=words):
        device_of(WorkerId(0), name)
    assert made_current == []


def test_a_scenario_names_a_device_and_a_kernel_that_can_exist() -> None:
    with pytest.raises(ScenarioError) as error:
        load_scenario(SHIPPED, ["real.device=gpu", "real.attention=fast"])
    told = str(error.value)
    assert "real.device: found 'gpu', expected cpu, cuda or cuda:NUMBER" in told
    assert "real.attention: found 'fast' (did you mean 'auto'?), expected one of: auto, varlen, flex, gather" in told


def assembled(attention: str) -> None:
    cluster = model_cluster("colocated", prefill=1, decode=0, kv_blocks=8)
    source = ModelSource("tiny")
    config = source.config()
    assert (config.layers, config.kv_heads) == (4, 2)
    settings = WorkerSettings(
        type(cluster)(source.kv_spec(8), cluster.workers, cluster.policy), source, "shm", attention=attention
    )
    said: list[WorkerMessage] = []
    assemble(WorkerId(0), settings, said.append, lambda: None).transport.close()


def test_a_worker_computes_with_the_kernel_that_is_chosen_for_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[object] = []

    def make(*arguments: object) -> object:
        chosen.append(arguments[2])
        return Transformer(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(assembly, "Transformer", make)
    assembled("auto")
    assert [type(kernel).__name__ for kernel in chosen] == ["GatherAttention"]
    with pytest.raises(ModelError, match="cannot run here: flex: needs a CUDA device, not cpu; use auto"):
        assembled("flex")
