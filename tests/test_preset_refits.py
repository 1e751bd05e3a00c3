"""Shipped presets are what ``kvsim profile fit`` finds in the public measurements, number by number."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kvsim.presets import load_gpus, load_nics
from kvsim.profile.fitters import fit_gpu, fit_text_of
from kvsim.profile.gpu_values import value_of
from kvsim.units import parse_bytes, parse_duration, parse_rate

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "kvsim" / "presets" / "published_links.yaml"
HARDWARE = ROOT.parent / "shared" / "hardware"

needs_measurements = pytest.mark.skipif(
    not HARDWARE.is_dir(), reason="needs the public measurements beside the checkout, see 'Measured GPUs' of the README"
)

GPU_FITS = {
    "h100-sxm": ("vllm-kernels", "h100_vllm_kernels", ()),
    "rtx-4090": ("layers", "rtx4090_vllm_run/profile", ()),
    "a100-sxm-80g-eager": (
        "serving",
        "a100_llama2_serving/perf_model_a100.csv",
        ("model=llama2-70b", "tensor_parallel=8"),
    ),
}
"""Kind, data and rows that each GPU's fitted constants come from."""

STARTS_FROM = {"a100-sxm-80g-eager": "a100-sxm-80g"}
"""Where that is not the preset itself: kernels as they were carried over, to which the fit adds the engine."""

NCCL_LINKS = {"nvlink3-nccl": "within_node", "a100-nodes-nccl": "across_nodes"}


@needs_measurements
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", GPU_FITS)
def test_the_constants_of_a_measured_gpu_are_those_of_a_fit(name: str) -> None:
    kind, data, where = GPU_FITS[name]
    preset = load_gpus()[name]
    assert "fitted to" in preset.source
    result = fit_gpu(kind, HARDWARE / data, STARTS_FROM.get(name, name), where)
    for constant, fitted in result.values.items():
        assert value_of(preset.value, constant) == pytest.approx(fitted, rel=0.01), constant


@needs_measurements
def test_links_and_all_reduces_of_nccl_are_those_of_a_fit() -> None:
    fitted = yaml.safe_load(fit_text_of("nccl", HARDWARE / "a100_nccl", None))
    nics = load_nics()
    for name, group in NCCL_LINKS.items():
        shipped = nics[name].fields
        for key in ("rate", "message_rate"):
            assert float(str(shipped[key]).split()[0]) == pytest.approx(
                float(fitted["nics"][group][key].split()[0]), 1e-3
            )
        for key in ("latency", "operation"):
            assert parse_duration(shipped[key]) == pytest.approx(parse_duration(fitted["nics"][group][key]), rel=1e-3)
        assert_alike(shipped["message_times"], fitted["nics"][group]["message_times"])
    shipped_reduces: Any = load_gpus()["a100-sxm-80g"].fields["all_reduce"]
    for one, other in zip(shipped_reduces, fitted["all_reduce"], strict=True):
        assert one["ranks"] == other["ranks"]
        assert_alike(one, other)


def assert_alike(shipped: Any, fitted: Any) -> None:
    assert [parse_bytes(size) for size in shipped["sizes"]] == [parse_bytes(size) for size in fitted["sizes"]]
    times = [[parse_duration(time) for time in one["times"]] for one in (shipped, fitted)]
    assert times[0] == pytest.approx(times[1], rel=1e-3)


def test_verbs_figures_give_the_rate_latency_and_operation_that_ship() -> None:
    fitted = yaml.safe_load(fit_text_of("verbs", PUBLISHED, None))["nics"]
    shipped = load_nics()["uccl-200g"].fields
    assert {key: shipped[key] for key in ("rate", "latency")} == fitted["uccl-200g"]
    operation_ns = parse_duration(fitted["uccl-100g-blocks"]["operation"])
    for name in ("cx5-100g", "cx6-200g", "cx7-400g", "bluefield-3-400g", "uccl-200g"):
        assert load_nics()[name].value.operation_ns == pytest.approx(operation_ns, rel=0.03), name
    assert parse_rate(fitted["uccl-100g-blocks"]["rate"]) < 12.5e9  # the line


def test_what_no_fit_gives_is_said_to_be_of_a_datasheet_a_publication_or_an_estimate() -> None:
    for name, gpu in load_gpus().items():
        words = ("datasheet", "whitepaper")
        assert any(word in gpu.source for word in words) or name in STARTS_FROM, name
        assert name in GPU_FITS or "carried over" in gpu.source, name
        assert "estimated" in gpu.source or name in STARTS_FROM, name
    for name, nic in load_nics().items():
        fitted = name in NCCL_LINKS or name == "uccl-200g"
        assert ("Fitted to" in nic.source) == fitted, name
        assert fitted or "estimated" in nic.source, name
