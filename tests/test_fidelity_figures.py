"""What ``notebooks/fidelity.ipynb`` draws is what its table says, and what ``kvsim fidelity`` refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from kvsim.cli import app
from kvsim.fidelity.figures import rows_of
from kvsim.fidelity.rows import Row

STORED = Path(__file__).resolve().parents[1] / "notebooks" / "fidelity" / "figures.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))
    return content


def row(document: dict[str, Any], target: str, metric: str) -> Row:
    (found,) = (row for row in rows_of(document) if (row.target, row.metric) == (target, metric))
    return found


def sizes_of_errors(document: dict[str, Any], section: str, *labels: str) -> list[float]:
    series = document["points"][section]
    return [
        abs(predicted / measured - 1)
        for label in labels
        for predicted, measured in zip(series[label]["predicted"], series[label]["measured"], strict=True)
    ]


def test_every_section_has_points_and_as_many_of_each(document: dict[str, Any]) -> None:
    assert set(document["points"]) == {"vllm", "a100", "h100", "nccl"}
    for section in document["points"].values():
        assert section
        for series in section.values():
            assert len(series["x"]) == len(series["measured"]) == len(series["predicted"]) > 5


def test_the_points_of_the_a100_give_the_rows_of_the_table(document: dict[str, Any]) -> None:
    held_out = [label for label in document["points"]["a100"] if "(not fitted)" in label]
    errors = sizes_of_errors(document, "a100", *held_out)
    mean = row(document, "A100 end to end", "all held out, mean")
    assert len(errors) == mean.points
    assert np.mean(errors) == pytest.approx(mean.value, rel=2e-3)
    assert max(errors) == pytest.approx(row(document, "A100 end to end", "all held out, largest").value, rel=5e-3)
    bloom = sizes_of_errors(document, "a100", "bloom-176b TP 8, token (not fitted)")
    assert np.mean(bloom) == pytest.approx(
        row(document, "A100 end to end", "bloom-176b TP 8, token time, mean").value, rel=2e-3
    )


def test_the_requests_of_the_recorded_run_give_its_rows(document: dict[str, Any]) -> None:
    for word in ("TTFT", "latency"):
        series = document["points"]["vllm"][f"rtx4090 vllm run, {word}"]
        error = abs(np.mean(series["predicted"]) / np.mean(series["measured"]) - 1)
        assert error == pytest.approx(row(document, "rtx4090 vllm run", f"{word} mean").value, abs=2e-4)


def test_a_missed_limit_says_why(document: dict[str, Any]) -> None:
    missed = [one for one in rows_of(document) if not one.met]
    assert all(len(one.note) > 40 for one in missed), missed


def test_a_part_of_the_targets_is_not_stored(tmp_path: Path) -> None:
    arguments = ["fidelity", str(tmp_path), "--only", "nccl", "--out", str(tmp_path / "f.json")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert "found --only beside --out, expected one of them" in str(result.exception)
    assert not (tmp_path / "f.json").exists()
