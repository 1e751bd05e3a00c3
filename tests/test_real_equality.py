"""The oracle of real workers: token for token what ``transformers`` generates greedily, fp32, CPU, random weights.

Here all workers live in one process, with real models and real transports; ``test_real_processes`` does it with
processes.
"""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: real workers are NOT tested; pip install 'kvsim[engine]'")
pytest.importorskip(
    "transformers", reason="transformers is not installed: token equality is NOT tested; pip install 'kvsim[hf]'"
)

from fake_cuda import FAKE_CUDA, controls
from real_models import QWEN2, QWEN3, ModelBacking, Reference, model_cluster, prompts, write_model
from real_worlds import InProcess
from worlds import MODES

from backends.control.messages import Sampling
from backends.driver.requests import Submission
from backends.model.config import ModelConfig
from backends.worker.model_source import ModelSource
from kvsim.core.cluster import ClusterSpec, PolicySpec, TransferMode
from kvsim.core.messages import RequestId
from kvsim.replay import replay

TRANSPORT: dict[TransferMode, str] = {
    "push": "shm",
    "pull": "shm",
    "streamed": "tcp",
    "message": "message",
    "colocated": "shm",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(source: ModelSource) -> Reference:
    return Reference(source)


class Served:
    """What a world made of some requests."""

    def __init__(self, cluster: ClusterSpec, source: ModelSource, kind: str, submissions: list[Submission]) -> None:
        backing = ModelBacking(source, kind)
        try:
            self.world = InProcess(cluster, backing=backing)
            tokens = self.world.serve(submissions)
        finally:
            backing.close()
        self.outputs = [tokens[RequestId(request)] for request in range(len(submissions))]
        assert replay(cluster, self.world.records).identical


def check_equal(served: Served, reference: Reference, submissions: list[Submission]) -> None:
    for request, submission in enumerate(submissions):
        expected = reference.generate(submission.prompt, submission.output_tokens_max)
        assert served.outputs[request] == expected, f"request {request}"


@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("mode", MODES)
def test_tokens_equal_transformers_in_every_mode_and_split(
    mode: TransferMode, prefill: int, decode: int, source: ModelSource, reference: Reference
) -> None:
    submissions = [Submission(prompt, 12) for prompt in prompts(9)]
    cluster = model_cluster(mode, prefill=prefill, decode=decode)
    check_equal(Served(cluster, source, TRANSPORT[mode], submissions), reference, submissions)


@FAKE_CUDA
@pytest.mark.parametrize("mode", ["push", "pull", "streamed", "adaptive"])
def test_tokens_are_equal_when_the_kv_caches_lie_on_a_gpu(
    mode: TransferMode, source: ModelSource, reference: Reference
) -> None:
    """As far as their transport can tell: the stand-in for libcuda copies, asynchronously, what torch computes here."""
    submissions = [Submission(prompt, 12) for prompt in prompts(9)]
    batches = controls().fakeBatchCalls()
    check_equal(Served(model_cluster(mode), source, "cuda_ipc", submissions), reference, submissions)
    assert controls().fakeBatchCalls() > batches


@pytest.mark.parametrize("mode", MODES)
def test_tokens_are_equal_after_preemptions_in_a_tiny_pool(
    mode: TransferMode, source: ModelSource, reference: Reference
) -> None:
    submissions = [Submission(prompt, 30) for prompt in prompts(6, longest=20)]
    cluster = model_cluster(mode, kv_blocks=14, block_tokens=4)
    served = Served(cluster, source, TRANSPORT[mode], submissions)
    check_equal(served, reference, submissions)
    assert served.world.collector.finish().requests.preemptions.sum() > 0


def test_tokens_are_equal_when_prompts_are_computed_in_chunks_beside_decoding(
    source: ModelSource, reference: Reference
) -> None:
    submissions = [Submission(prompt, 12) for prompt in prompts(9)]
    cluster = model_cluster("colocated", prefill=1, decode=0, batch_tokens_max=16)
    served = Served(cluster, source, "shm", submissions)
    check_equal(served, reference, submissions)
    assert served.world.collector.finish().steps.mixed.any()


@pytest.mark.parametrize("config", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
def test_tokens_are_equal_for_the_other_architectures(config: ModelConfig, tmp_path: Path) -> None:
    submissions = [Submission(prompt, 12) for prompt in prompts(5)]
    source = write_model(tmp_path, config)
    check_equal(Served(model_cluster("push"), source, "shm", submissions), Reference(source), submissions)


def test_layers_are_read_in_groups_of_every_size(source: ModelSource, reference: Reference) -> None:
    submissions = [Submission(prompt, 6) for prompt in prompts(5)]
    for layers in (1, 3, 8):
        cluster = model_cluster("streamed", policy=PolicySpec("streamed", layers_per_group=layers))
        check_equal(Served(cluster, source, "shm", submissions), reference, submissions)


def test_an_output_ends_with_the_first_stop_token(source: ModelSource, reference: Reference) -> None:
    whole = [reference.generate(prompt, 20) for prompt in prompts(6)]
    stops = tuple({tokens[4 + index] for index, tokens in enumerate(whole)})
    submissions = [Submission(prompt, 20, stop_tokens=stops) for prompt in prompts(6)]
    served = Served(model_cluster("pull"), source, "shm", submissions)
    for output, tokens in zip(served.outputs, whole, strict=True):
        ends = [place for place, token in enumerate(tokens) if token in stops]
        assert output == tokens[: ends[0] + 1]
    assert set(served.world.outputs.finished.values()) == {"stop"}


def test_what_is_drawn_by_a_seed_is_the_same_wherever_it_is_computed(source: ModelSource) -> None:
    submissions = [
        Submission(prompt, 15, Sampling(temperature=0.8, top_p=0.95, top_k=50, seed=request))
        for request, prompt in enumerate(prompts(6, longest=20))
    ]
    one_worker = Served(model_cluster("colocated", prefill=1, decode=0), source, "shm", submissions)
    preempted = Served(model_cluster("pull", kv_blocks=9, block_tokens=4), source, "shm", submissions)
    assert preempted.outputs == one_worker.outputs
    assert len({tuple(output) for output in one_worker.outputs}) == len(submissions)
