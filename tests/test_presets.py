"""The shipped models, GPUs and NICs: complete, sourced, and in keeping with figures published elsewhere."""

import pytest
from msgspec.structs import replace
from pydantic import ValidationError

from kvsim.presets import Preset, load_gpus, load_models, load_nics
from kvsim.presets.fields import GpuFields, ModelFields
from kvsim.scenario.memory import parameters
from kvsim.sim.compute import StepModel
from kvsim.sim.hardware import GpuSpec, ModelShape, NicSpec
from kvsim.sim.kernels import gemm_s

PUBLISHED_PARAMETERS = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-70b": 70_553_706_496,
    "llama-2-70b": 68_976_648_192,
    "bloom-176b": 176_247_271_424,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-32b": 32_763_876_352,
    "qwen3-30b-a3b": 30_532_122_624,
}


def test_every_model_has_the_published_number_of_parameters_but_for_norms_and_biases() -> None:
    models = load_models()
    assert set(models) == set(PUBLISHED_PARAMETERS)
    for name, published in PUBLISHED_PARAMETERS.items():
        assert parameters(models[name].value) == pytest.approx(published, rel=2e-4), name
        assert parameters(models[name].value) <= published, name


def test_the_gpus_and_nics_that_scenarios_may_name() -> None:
    assert set(load_gpus()) == {
        "a100-sxm-80g",
        "a100-sxm-80g-eager",
        "h100-sxm",
        "h200-sxm",
        "b200",
        "a10g",
        "l40s",
        "rtx-4090",
    }
    assert {"cx5-100g", "cx6-200g", "cx7-400g", "efa-400g", "ethernet-25g-tcp"} <= set(load_nics())


def test_every_preset_has_a_source_and_carries_its_name() -> None:
    presets: list[Preset[ModelShape] | Preset[GpuSpec] | Preset[NicSpec]] = []
    presets += [*load_models().values(), *load_gpus().values(), *load_nics().values()]
    for preset in presets:
        assert preset.source.strip(), preset.name
        assert preset.value.name == preset.name
        assert preset.fields["name"] == preset.name
        assert "source" not in preset.fields


def test_an_h100_has_its_datasheet_figures() -> None:
    gpu = load_gpus()["h100-sxm"].value
    assert gpu.flops_per_s == 989.4e12
    assert gpu.memory_bytes_per_s == 3.35e12
    assert 79 * 2**30 < gpu.memory_bytes < 80 * 2**30
    assert gpu.collective_latency_ns == 10_000


def test_a_nic_carries_less_than_its_line_rate() -> None:
    nic = load_nics()["cx7-400g"].value
    assert nic.rate_bytes_per_s == pytest.approx(0.97 * 400e9 / 8)
    assert nic.reads_outstanding_max == 16 * 4


def test_the_tcp_nic_is_slower_in_every_respect_than_rdma() -> None:
    tcp, rdma = load_nics()["ethernet-25g-tcp"].value, load_nics()["cx5-100g"].value
    assert tcp.rate_bytes_per_s < rdma.rate_bytes_per_s
    assert tcp.latency_ns > rdma.latency_ns
    assert tcp.operation_ns > rdma.operation_ns
    assert tcp.messages_per_s < rdma.messages_per_s


def test_a_mapping_of_fields_is_checked_like_a_scenario() -> None:
    fields = dict(load_gpus()["h100-sxm"].fields)
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        GpuFields.model_validate({**fields, "gemm_efficiency": 1.2})
    with pytest.raises(ValidationError, match="without a unit"):
        GpuFields.model_validate({**fields, "memory": 80})
    with pytest.raises(ValidationError, match="more than 0"):
        GpuFields.model_validate({**fields, "memory": "0 GiB"})
    model = dict(load_models()["llama-3.1-8b"].fields)
    with pytest.raises(ValidationError, match="heads 30 and kv_heads 8"):
        ModelFields.model_validate({**model, "heads": 30})
    with pytest.raises(ValidationError, match="experts_active 2, expected at most experts 1"):
        ModelFields.model_validate({**model, "experts_active": 2})


@pytest.mark.parametrize(
    ("m", "n", "k", "measured_us"),
    [(4096, 8192, 8192, 697.7), (2048, 7168, 8192, 285.2), (1024, 8192, 8192, 164.0), (1, 8192, 8192, 51.6)],
)
def test_an_h100_multiplies_as_published(m: int, n: int, k: int, measured_us: float) -> None:
    """Medians of vLLM 0.24 in ai-dynamo/aiconfigurator (h100_sxm, bf16); single shapes are off by a tenth or two."""
    assert gemm_s(load_gpus()["h100-sxm"].value, m, k, n, 2) * 1e6 == pytest.approx(measured_us, rel=0.2)


@pytest.mark.parametrize(("tokens", "measured_us"), [(64, 279.0), (2048, 2896.8)])
def test_an_rtx_4090_multiplies_as_published(tokens: int, measured_us: float) -> None:
    """gate_up_proj of Llama-3.1-8B with vLLM 0.19 in casys-kaist/LLMServingSim 2.0."""
    assert gemm_s(load_gpus()["rtx-4090"].value, tokens, 4096, 28672, 2) * 1e6 == pytest.approx(measured_us, rel=0.06)


@pytest.mark.parametrize(("model", "ranks", "prompt_ms", "token_ms"), [
    ("llama-2-70b", 8, 274.2, 45.4), ("llama-2-70b", 4, 403.3, 45.0), ("llama-2-70b", 2, 688.1, 54.9),
    ("bloom-176b", 8, 540.4, 49.4),
])  # fmt: skip
def test_an_a100_of_2023_serves_as_published_also_what_was_not_fitted(
    model: str, ranks: int, prompt_ms: float, token_ms: float
) -> None:
    """A prompt of 2048 tokens and 128 more; medians of Mutinifni/splitwise-sim. Only TP 8 of llama was fitted."""
    steps = StepModel(load_models()[model].value, load_gpus()["a100-sxm-80g-eager"].value, ranks)
    base_fs, token_fs = steps.decode_fs(1)
    assert steps.prefill_ns([(0, 2048)], 0, 0) / 1e6 == pytest.approx(prompt_ms, rel=0.1)
    assert (base_fs + token_fs * 2112) / 1e12 == pytest.approx(token_ms, rel=0.2)


def test_a_gpu_without_measurements_says_what_it_carries_over_and_from_where() -> None:
    gpus = load_gpus()
    for name, nearest in (("h200-sxm", "h100-sxm"), ("b200", "h100-sxm"), ("a10g", "rtx-4090"), ("l40s", "rtx-4090")):
        assert "no measurements" in gpus[name].source
        assert "carried over" in gpus[name].source
        assert nearest in gpus[name].source
        mine, theirs = gpus[name].value.kernels, gpus[nearest].value.kernels
        assert replace(mine, attention_units=0) == replace(theirs, attention_units=0)
