"""Kernel times between measured shapes: exact where measured, the law's shape in between, and flagged beyond."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvsim.presets import load_gpus, load_models
from kvsim.profile.fitters import ProfileFitError, steps_profile
from kvsim.profile.importers import Imported, write_imported
from kvsim.profile.interpolate import KernelTable
from kvsim.profile.kernel_tables import COLUMNS
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


def test_between_two_shapes_the_ratio_to_the_law_is_interpolated_on_the_logarithm_of_the_dimension() -> None:
    """512 tokens lie in the middle between 256 and 1024: the ratio is the geometric mean of 8 and 10."""
    asked = shapes((512, 1024, 4096))
    answer = KernelTable("gemm", table(), H100).times(asked)
    assert answer.seconds == pytest.approx(predicted_seconds("gemm", asked, H100) * 80**0.5, rel=1e-9)


def test_beyond_the_measured_range_the_law_goes_on_from_the_nearest_ratio_and_that_is_flagged() -> None:
    asked = shapes((16384, 1024, 4096), (4096, 1024, 4096))
    answer = KernelTable("gemm", table(), H100).times(asked)
    assert answer.seconds == pytest.approx(predicted_seconds("gemm", asked, H100) * 12, rel=1e-9)
    assert answer.outside.tolist() == [True, False]


def test_a_shape_that_differs_in_more_than_one_dimension_from_all_measured_ones_has_no_answer() -> None:
    assert np.isnan(KernelTable("gemm", table(), H100).times(shapes((100, 3000, 3000))).seconds).all()


def test_the_dimension_that_answers_best_for_shapes_left_out_counts_most() -> None:
    """Times depend on n in a way that no law knows, and hardly on k: neighbours in k are the ones to ask."""
    found = table().assign(us=lambda rows: rows["us"] * np.where(rows["n"] == 4096, 3.0, 1.0))
    asked = found[found["m"] == 256].iloc[[0]]
    answer = KernelTable("gemm", found.drop(index=asked.index), H100).times(asked.drop(columns="us"))
    assert answer.seconds[0] * 1e6 == pytest.approx(asked["us"].iloc[0], rel=0.05)


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


def test_steps_composed_of_kernels_that_follow_the_law_are_those_of_the_roofline(tmp_path: Path) -> None:
    composed = steps_profile(imported(tmp_path, law_tables(1.0)), "llama-3.1-8b", "h100-sxm", 1)
    costs = composed.costs()
    assert costs is not None
    tables, roofline = MeasuredSteps(costs), StepModel(load_models()["llama-3.1-8b"].value, H100, 1)
    for chunks, decodes, context_tokens in (([(0, 2048)], 0, 0), ([(4096, 512)], 0, 0), ([], 32, 32768), ([], 1, 512)):
        expected = roofline.prefill_ns(chunks, decodes, context_tokens)
        assert tables.prefill_ns(chunks, decodes, context_tokens) == pytest.approx(expected, rel=0.05)


def test_steps_of_slower_kernels_are_slower_and_extrapolation_is_told(tmp_path: Path) -> None:
    path = imported(tmp_path, law_tables(2.0))
    quick = steps_profile(imported(tmp_path, law_tables(1.0)), "llama-3.1-8b", "h100-sxm", 1)
    imported(tmp_path, law_tables(2.0))
    slow = steps_profile(path, "llama-3.1-8b", "h100-sxm", 1)
    assert slow.steps is not None
    assert quick.steps is not None
    one, other = quick.steps.prefill.tokens[6], slow.steps.prefill.tokens[6]
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
