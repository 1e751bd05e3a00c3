"""``kvsim profile fit`` of links: figures made by a law give the law back, and what cannot be is told."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from kvsim.cli import app
from kvsim.profile.fitters import ProfileFitError, fit_text_of
from kvsim.profile.verbs_fit import VerbsFitError, fit_verbs

ROUND_TRIP_NS, OPERATION_NS, BYTES_PER_NS = 5000.0, 200.0, 12.0


def gigabytes_per_s(blocks: int, block_bytes: int) -> float:
    size = blocks * block_bytes
    return size / (ROUND_TRIP_NS + (blocks - 1) * OPERATION_NS + size / BYTES_PER_NS)


def written(tmp_path: Path, cases: list[tuple[int, int]], **changes: object) -> Path:
    figures = [
        {"blocks": blocks, "block": f"{size} B", "rate": f"{gigabytes_per_s(blocks, size):.12g} GB/s"}
        for blocks, size in cases
    ]
    file = tmp_path / "links.yaml"
    file.write_text(yaml.safe_dump({"made-up": {"source": "computed", "figures": figures, **changes}}))
    return file


def test_round_trip_operation_and_rate_are_found_again(tmp_path: Path) -> None:
    cases = [(1, 4096), (1, 1 << 20), (64, 1024), (64, 65536), (256, 4096)]
    link = fit_verbs(written(tmp_path, cases))["made-up"]
    assert link.round_trip_ns == pytest.approx(ROUND_TRIP_NS, rel=1e-3)
    assert link.operation_ns == pytest.approx(OPERATION_NS, rel=1e-3)
    assert link.bytes_per_s == pytest.approx(12e9, rel=1e-3)
    assert link.residual.largest < 1e-6


def test_single_blocks_do_not_tell_what_a_further_one_costs(tmp_path: Path) -> None:
    link = fit_verbs(written(tmp_path, [(1, 4096), (1, 65536), (1, 1 << 20)]))["made-up"]
    assert link.operation_ns is None
    assert link.round_trip_ns == pytest.approx(ROUND_TRIP_NS, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"figures": []}, "made-up.figures: List should have at least 2 items"),
        ({"figures": [{"blocks": 1, "block": "4 KiB"}] * 2}, "made-up.figures.0.rate: Field required"),
        ({"figures": [{"blocks": 1, "block": 4096, "rate": "1 GB/s"}] * 2}, "made-up.figures.0.block"),
        ({"figures": [{"blocks": 1, "block": "4 KiB", "rate": "630 TB/s"}] * 2}, "wrong by a factor of 1000?"),
        ({"figures": [{"blocks": 1, "block": "4 KiB", "rate": "630 kB/s"}] * 2}, "wrong by a factor of 1000?"),
        ({"figures": [{"blocks": 1, "block": "4 KiB", "rate": "1 GB/s"}] * 2}, "found one block size, expected more"),
    ],
)
def test_figures_that_cannot_be_are_told(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    file = written(tmp_path, [(1, 4096), (1, 65536)], **changes)
    with pytest.raises(VerbsFitError) as caught:
        fit_verbs(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_the_command_prints_a_nic_that_a_scenario_can_take_over(tmp_path: Path) -> None:
    file = written(tmp_path, [(1, 4096), (1, 1 << 20), (64, 1024), (64, 65536)])
    result = CliRunner().invoke(app, ["profile", "fit", "verbs", str(file), "--out", str(tmp_path / "out" / "f.yaml")])
    assert result.exit_code == 0, result.output
    document = yaml.safe_load((tmp_path / "out" / "f.yaml").read_text())
    assert document["nics"]["made-up"] == {"rate": "12 GB/s", "latency": "2.5 us", "operation": "200 ns"}
    assert document["residuals"]["made-up"]["points"] == 4


@pytest.mark.parametrize(
    ("kind", "gpu", "where", "said"),
    [
        ("verbs", "h100-sxm", (), "found --gpu, which kind verbs does not take"),
        ("nccl", None, ("model=x",), "found --where, which kind nccl does not take"),
        ("nccl", None, (), "there is no such file or folder; nccl reads a table or folder"),
        ("serving", None, (), "found no --gpu, which kind serving needs"),
        ("verb", None, (), "found kind 'verb' (did you mean 'verbs'?)"),
    ],
)
def test_options_that_do_not_go_with_the_kind_are_told(
    kind: str, gpu: str | None, where: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ProfileFitError) as caught:
        fit_text_of(kind, tmp_path / "missing", gpu, where)
    assert said in str(caught.value)
