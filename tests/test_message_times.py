"""Measured times of messages and all-reduces: interpolation by hand, and the shipped ones against public tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic import ValidationError
from scenario_mappings import one_request_for_two

from kvsim.presets import load_gpus, load_nics
from kvsim.presets.fields import AllReduceFields, GpuFields, MessageTimesFields
from kvsim.scenario import scenario_from_mapping
from kvsim.sim.collectives import all_reduce_s, measured_bytes
from kvsim.sim.compute import StepModel
from kvsim.sim.hardware import AllReduceTimes, GpuSpec, ModelShape
from kvsim.sim.message_times import MessageTimes
from kvsim.study import simulate, workload_of

CURVE = MessageTimes((1000, 2000, 4000), (50, 100, 100))
GPU = GpuSpec("gpu", 1e12, 1, 1e12, 1.0, 1.0, 1.0, 1.0, 1e9, 7, 0, 0)
MEASURED = replace(
    GPU, all_reduce=(AllReduceTimes(2, CURVE), AllReduceTimes(4, MessageTimes((1000, 2000), (300, 400))))
)


@pytest.mark.parametrize(
    ("size_bytes", "ns"), [(0, 50), (999, 50), (1000, 50), (1500, 75), (2000, 100), (3000, 100), (4000, 100)]
)
def test_lines_lie_between_the_measured_sizes(size_bytes: int, ns: float) -> None:
    assert CURVE.of(size_bytes) == ns


def test_beyond_the_largest_size_the_last_line_goes_on() -> None:
    assert MessageTimes((1000, 2000), (50, 100)).of(5000) == 250
    assert MessageTimes((1000,), (50,)).of(5000) == 50


@given(st.integers(0, 8000), st.integers(0, 8000))
def test_a_larger_message_never_takes_less(one: int, other: int) -> None:
    for times in (CURVE, MessageTimes((1000,), (50,)), MessageTimes((1000, 2000), (50, 1000))):
        assert times.of(min(one, other)) <= times.of(max(one, other))


def test_an_all_reduce_without_measurements_is_a_ring() -> None:
    """4 GPUs: each sends 2 * 3/4 of 2000 bytes at a byte a nanosecond, plus 7 ns."""
    assert all_reduce_s(GPU, 4, 2000) == pytest.approx(3007e-9)
    assert all_reduce_s(GPU, 1, 2000) == all_reduce_s(MEASURED, 1, 2000) == 0


def test_a_measured_all_reduce_is_taken_as_it_was_measured() -> None:
    assert all_reduce_s(MEASURED, 2, 1500) == pytest.approx(75e-9)
    assert all_reduce_s(MEASURED, 4, 1500) == pytest.approx(350e-9)


def test_between_two_measured_numbers_of_gpus_times_are_interpolated() -> None:
    assert all_reduce_s(MEASURED, 3, 1500) == pytest.approx((75 + 350) / 2 * 1e-9)


def test_beyond_them_the_bytes_are_scaled_as_in_a_ring() -> None:
    """8 GPUs send 2 * 7/8 where 4 send 2 * 3/4: 1200 bytes are as 1400, 340 ns."""
    assert all_reduce_s(MEASURED, 8, 1200) == pytest.approx(340e-9)


def test_all_reduces_beyond_the_measured_sizes_and_gpus_are_told() -> None:
    """24 bytes for each of 3 tokens, where 1000 to 2000 were measured over both 2 and 4 GPUs."""
    model = ModelShape("tiny", 2, 4, 4, 4, 2, 8, 10, 1, 1, False, 2, 2, 1000)
    steps = StepModel(model, MEASURED, 2)
    steps.prefill_ns([(0, 200)], 0, 0)  # 1600 bytes
    assert steps.notes(0) == []
    steps.prefill_ns([(0, 600)], 0, 0)
    steps.decode_fs(3)
    (note,) = steps.notes(0)
    assert (
        note == "bytes of an all-reduce went down to 24 and up to 4,800, GPU gpu measured 1,000 to 4,000: extrapolated"
    )
    assert measured_bytes(MEASURED, 3) == (1000, 2000)
    assert measured_bytes(MEASURED, 1) is None
    assert measured_bytes(GPU, 2) is None
    alone = StepModel(replace(model, heads=8), replace(MEASURED, all_reduce=MEASURED.all_reduce[:1]), 8)
    assert alone.notes(0) == ["all-reduces over 8 GPUs, GPU gpu measured 2 to 2: extrapolated"]


def test_a_run_tells_which_messages_lay_beyond_the_measured_ones() -> None:
    """1000 tokens of llama-3.1-8b are 131 MB of KV cache and 8.2 MB of hidden states."""
    pool = {"count": 1, "gpu": "a100-sxm-80g", "tensor_parallel": 2, "nics": 1, "nic": "nvlink3-nccl"}
    scenario = scenario_from_mapping(one_request_for_two(pool, prompt_tokens=1000))
    (variant,) = scenario.variants
    notes = simulate(variant, workload_of(scenario, variant)).summary["notes"]
    (note,) = (note for note in notes if "extrapolated" in note)
    assert note.startswith("bytes of a transfer and NIC went up to 132,120,576, NIC nvlink3-nccl measured 2,048 to 67,")


def test_the_step_model_takes_the_measured_all_reduce() -> None:
    """3 tokens of 4 values of 2 bytes are 24 bytes: the first point, two of them in each of 2 layers."""
    model = ModelShape("tiny", 2, 4, 2, 2, 2, 8, 10, 1, 1, False, 2, 2, 1000)
    assert StepModel(model, MEASURED, 2).breakdown_prefill([(0, 3)], 0, 0).collectives_s == pytest.approx(4 * 50e-9)


@pytest.mark.parametrize(
    ("sizes", "times", "message"),
    [
        (["1 KiB", "2 KiB"], ["1 us"], "2 sizes and 1 times"),
        (["2 KiB", "1 KiB"], ["1 us", "2 us"], "size 2048 B before 1024 B"),
        (["1 KiB", "2 KiB"], ["2 us", "1 us"], "time 2000 ns before 1000 ns"),
        ([], [], "at least 1 item"),
    ],
)
def test_a_curve_that_cannot_be_is_refused(sizes: list[str], times: list[str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MessageTimesFields.model_validate({"sizes": sizes, "times": times})


def test_numbers_of_gpus_ascend() -> None:
    one = AllReduceFields.model_validate({"ranks": 2, "sizes": ["1 KiB"], "times": ["1 us"]})
    fields = {**load_gpus()["h100-sxm"].fields, "all_reduce": [one, one]}
    with pytest.raises(ValidationError, match="ranks 2 before 2"):
        GpuFields.model_validate(fields)


# Of the public tables of microsoft/vidur (A100-DGX), medians in microseconds; the shipped curves are fitted to them.
SEND_RECV = {
    "nvlink3-nccl": {51200: 15, 1310720: 20, 4489216: 27, 8192000: 36, 16678912: 64, 33161216: 120, 67108864: 294},
    "a100-nodes-nccl": {67584: 35, 460800: 89, 1867776: 276, 4489216: 611, 16678912: 2173, 67108864: 8586},
}
ALL_REDUCE = {2: {67108864: 430, 24117248: 187}, 4: {67108864: 603, 4227072: 87}, 8: {67108864: 675, 8421376: 154}}


@pytest.mark.parametrize("name", SEND_RECV)
def test_the_shipped_links_meet_public_measurements(name: str) -> None:
    times = load_nics()[name].value.message_times
    assert times is not None
    for size_bytes, us in SEND_RECV[name].items():
        assert times.of(size_bytes) / 1000 == pytest.approx(us, rel=0.16), size_bytes
    errors = [abs(times.of(size_bytes) / 1000 / us - 1) for size_bytes, us in SEND_RECV[name].items()]
    assert sum(errors) / len(errors) < 0.07


def test_the_shipped_all_reduce_meets_public_measurements() -> None:
    gpu = load_gpus()["a100-sxm-80g"].value
    for ranks, measured in ALL_REDUCE.items():
        for size_bytes, us in measured.items():
            assert all_reduce_s(gpu, ranks, size_bytes) * 1e6 == pytest.approx(us, rel=0.08), (ranks, size_bytes)


def test_one_message_over_published_verbs_takes_what_was_published() -> None:
    """uccl-project/uccl#113: GB/s of one message; the simulator's READ is two latencies and the bytes."""
    nic = load_nics()["uccl-200g"].value
    published = {4096: 0.63, 16384: 2.37, 65536: 7.36, 262144: 15.5, 1048576: 21.3, 10485760: 23.8}
    errors = []
    for size_bytes, gigabytes_per_s in published.items():
        predicted_ns = 2 * nic.latency_ns + size_bytes / nic.rate_bytes_per_s * 1e9
        errors.append(abs(predicted_ns / (size_bytes / gigabytes_per_s) - 1))
    assert max(errors) < 0.022
    assert sum(errors) / len(errors) < 0.008
