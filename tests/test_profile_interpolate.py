"""Kernel times between measured shapes: exact where measured, the law's shape in between, and flagged beyond."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from kvsim.presets import load_gpus
from kvsim.profile.interpolate import KernelTable
from kvsim.profile.laws import predicted_seconds

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
