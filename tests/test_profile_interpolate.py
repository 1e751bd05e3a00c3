"""Kernel times between measured shapes: exact where measured, the law's shape in between, and flagged beyond."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvsim.presets import load_gpus, load_models
from kvsim.profile import ProfileFile
from kvsim.profile.fitters import ProfileFitError, steps_profile
from kvsim.profile.importers import Imported, write_imported
from kvsim.profile.interpolate import KernelTable
from kvsim.profile.kernel_tables import COLUMNS
from kvsim.profile.kriging import Places, estimate
from kvsim.profile.laws import predicted_seconds
from kvsim.profile.step_tables import StepTablesError
from kvsim.sim.compute import StepModel
from kvsim.sim.measured import MeasuredSteps

H100 = load_gpus()["h100-sxm"].value


def table(factor: float = 1.0) -> pd.DataFrame:
    """Products that take ``factor`` times as long as the law says, and with more tokens ever more."""
    shapes = list(product((16, 64, 256, 1024, 4096), (1024, 4096), (1024, 4096)))
    found = pd.DataFrame(shapes, columns=["m", "n", "k"]).assign(dtype="bfloat16")
    return found.assign(us=predicted_seconds("gemm", found, H100) * 1e6 * factor * np.log2(found["m"]))


def shapes(*rows: tuple[int, int, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["m", "n", "k"]).assign(dtype="bfloat16")


def test_measured_shapes_take_what_was_measured() -> None:
    known = table()
    answer = KernelTable("gemm", known, H100).times(known.drop(columns="us"))
    assert answer.seconds * 1e6 == pytest.approx(known["us"].to_numpy(), rel=1e-9)
    assert not answer.outside.any()


def test_between_two_shapes_the_ratio_to_the_law_lies_between_theirs_nearer_to_the_nearer_one() -> None:
    """Ratios are 8 at 256 tokens and 10 at 1024."""
    asked = shapes((320, 1024, 4096), (512, 1024, 4096), (896, 1024, 4096))
    answer = KernelTable("gemm", table(), H100).times(asked)
    ratios = answer.seconds / predicted_seconds("gemm", asked, H100)
    assert 8 < ratios[0] < ratios[1] < ratios[2] < 10


def test_kernels_that_keep_their_distance_to_the_law_keep_it_between_and_beyond() -> None:
    """Weights add up to 1: one ratio everywhere is the ratio everywhere."""
    known = table().assign(us=lambda rows: predicted_seconds("gemm", rows, H100) * 1e6 * 1.7)
    asked = shapes((300, 3000, 2000), (1, 99, 70_000), (100_000, 4096, 4096))
    answer = KernelTable("gemm", known, H100).times(asked)
    assert answer.seconds == pytest.approx(1.7 * predicted_seconds("gemm", asked, H100), rel=1e-9)
    assert answer.outside.tolist() == [False, True, True]


def test_beyond_the_measured_range_the_law_goes_on_from_the_nearest_ratio_and_that_is_flagged() -> None:
    asked = shapes((16384, 1024, 4096), (4096, 1024, 4096))
    answer = KernelTable("gemm", table(), H100).times(asked)
    assert answer.seconds == pytest.approx(predicted_seconds("gemm", asked, H100) * 12, rel=1e-9)
    assert answer.outside.tolist() == [True, False]


def test_a_shape_whose_other_conditions_were_not_measured_has_no_answer() -> None:
    asked = shapes((256, 1024, 1024)).assign(dtype="fp8")
    assert np.isnan(KernelTable("gemm", table(), H100).times(asked).seconds).all()


def test_the_order_of_the_measurements_does_not_matter() -> None:
    asked = shapes((300, 3000, 2000))
    known = table()
    first = KernelTable("gemm", known, H100).times(asked).seconds
    assert KernelTable("gemm", known[::-1], H100).times(asked).seconds == pytest.approx(first, rel=1e-9)


def test_a_token_beyond_a_tile_is_nearer_to_the_next_tile() -> None:
    """Times jump by half behind each 64 rows: 65 rows are told by 96, not by the nearer 64."""
    rows = list(product((16, 48, 64, 96, 112, 128), (1024, 2048, 4096), (1024, 4096)))
    known = pd.DataFrame(rows, columns=["m", "n", "k"]).assign(dtype="bfloat16")
    law_us = predicted_seconds("gemm", known, H100) * 1e6
    known = known.assign(us=law_us * np.where(known["m"] > 64, 1.5, 1.0))
    asked = shapes((65, 2048, 4096), (63, 2048, 4096))
    ratios = KernelTable("gemm", known, H100).times(asked).seconds / predicted_seconds("gemm", asked, H100)
    assert ratios[0] > 1.35
    assert ratios[1] < 1.05


def line(values: list[float]) -> Places:
    places = np.array([[value] for value in values])
    return Places(places, places)


def test_two_measurements_are_weighed_as_computed_by_hand() -> None:
    """At distance 1 from one and 2 from the other, which are 3 apart: weights solve [[1.1, e^-3], [e^-3, 1.1]]."""
    near, far, between = np.exp([-1.0, -2.0, -3.0])
    weight = 0.5 + 0.5 * (near - far) / (1.1 - between)
    assert estimate(line([0, 3]), np.array([10.0, 20.0]), line([1])) == pytest.approx([10 * weight + 20 * (1 - weight)])


def test_a_value_that_was_measured_is_returned_and_a_far_place_has_the_mean_of_its_neighbours() -> None:
    known, values = line([0, 1, 5]), np.array([1.0, 2.0, 6.0])
    assert estimate(known, values, line([0, 1, 5])) == pytest.approx([1, 2, 6])
    assert 1 < estimate(known, values, line([1000]))[0] < 6
    assert estimate(line([7]), np.array([3.0]), line([0, 7])) == pytest.approx([3, 3])


def test_only_neighbours_are_asked() -> None:
    """40 alike places near the one asked for, one with a wild value far away, which then does not count."""
    near = [i / 100 for i in range(40)]
    estimated = estimate(line([*near, 50]), np.array([*[2.0] * 40, 1e9]), line([0.2]))
    assert estimated == pytest.approx([2.0])


LAW: dict[str, list[int] | list[str]] = {"dtype": ["bfloat16"], "kv_dtype": ["bfloat16"]}
LAW |= {"window": [0], "heads": [32], "kv_heads": [8], "head_dim": [128]}
GRIDS: dict[str, dict[str, list[int] | list[str]]] = {
    "gemm": {
        "dtype": ["bfloat16"], "m": [1, 16, 128, 512, 2048, 16384],
        "n": [4096, 6144, 28672, 128256], "k": [4096, 14336],
    },
    "context_attention": {**LAW, "batch": [1, 8], "start": [0], "tokens": [16, 256, 2048, 16384]},
    "generation_attention": {**LAW, "batch": [1, 16, 256], "tokens": [64, 1024, 16384]},
}  # fmt: skip


def law_tables(factor: float) -> dict[str, pd.DataFrame]:
    """Tables of kernels that take ``factor`` times as long as the law says."""
    tables = {}
    for name, grid in GRIDS.items():
        rows = pd.DataFrame(list(product(*[list(values) for values in grid.values()])), columns=list(grid))
        us = predicted_seconds(name, rows, H100) * 1e6 * factor
        tables[name] = rows.assign(us=us)[list(COLUMNS[name])]
    return tables


def imported(tmp_path: Path, tables: dict[str, pd.DataFrame]) -> Path:
    fields = {"origin": "made up", "date": "2026", "machine": "an H100", "engine": "none"}
    write_imported(Imported(fields, tables, {name: COLUMNS[name] for name in tables}), tmp_path / "p.yaml")
    return tmp_path / "p.yaml"


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> ProfileFile:
    """Steps of kernels that follow the law."""
    path = imported(tmp_path_factory.mktemp("composed"), law_tables(1.0))
    return steps_profile(path, "llama-3.1-8b", "h100-sxm", 1)


def test_steps_composed_of_kernels_that_follow_the_law_are_those_of_the_roofline(composed: ProfileFile) -> None:
    costs = composed.costs()
    assert costs is not None
    tables, roofline = MeasuredSteps(costs), StepModel(load_models()["llama-3.1-8b"].value, H100, 1)
    for chunks, decodes, context_tokens in (([(0, 2048)], 0, 0), ([(4096, 512)], 0, 0), ([], 32, 32768), ([], 1, 512)):
        expected = roofline.prefill_ns(chunks, decodes, context_tokens)
        assert tables.prefill_ns(chunks, decodes, context_tokens) == pytest.approx(expected, rel=0.05)


def test_steps_of_slower_kernels_are_slower_and_extrapolation_is_told(composed: ProfileFile, tmp_path: Path) -> None:
    slow = steps_profile(imported(tmp_path, law_tables(2.0)), "llama-3.1-8b", "h100-sxm", 1)
    assert slow.steps is not None
    assert composed.steps is not None
    one, other = composed.steps.prefill.tokens[6], slow.steps.prefill.tokens[6]
    assert one.tokens == other.tokens == 2048
    assert 1.8 < other.ns / one.ns < 2.0  # norms, gate and embedding are the roofline's
    costs = slow.costs()
    assert costs is not None
    steps = MeasuredSteps(costs)
    steps.prefill_ns([(0, 30_000)], 0, 0)
    assert any("went up to 30,000" in note and "extrapolated" in note for note in steps.notes(0))


def test_steps_that_tables_cannot_tell_are_refused(tmp_path: Path) -> None:
    path = imported(tmp_path, {"gemm": law_tables(1.0)["gemm"]})
    with pytest.raises(StepTablesError, match="found no table context_attention, generation_attention, expected gemm"):
        steps_profile(path, "llama-3.1-8b", "h100-sxm", 1)
    with pytest.raises(ProfileFitError, match=r"found model 'llama-3.1-9b' \(did you mean 'llama-3.1-8b'\?\)"):
        steps_profile(path, "llama-3.1-9b", "h100-sxm", 1)
    path = imported(tmp_path, law_tables(1.0))
    with pytest.raises(StepTablesError, match="found mixtral-8x7b, a mixture of experts, expected a dense model"):
        steps_profile(path, "mixtral-8x7b", "h100-sxm", 1)
    with pytest.raises(StepTablesError, match="found tensor_parallel 3, expected a divisor of 32 heads"):
        steps_profile(path, "llama-3.1-8b", "h100-sxm", 3)
