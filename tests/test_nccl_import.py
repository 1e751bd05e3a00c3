"""``kvsim profile import nccl``: links and all-reduces from tables, scenarios that take them, tables that cannot be."""

from pathlib import Path

import pandas as pd
import pytest
from scenario_mappings import one_request_for_two

from kvsim.profile.importers import ProfileImportError, import_profile
from kvsim.profile.nccl_import import held_out_errors, read_groups
from kvsim.scenario import read_profile, scenario_from_mapping

SIZES = [2048 + 8192 * i for i in range(60)]


def table(kind: str, groups: dict[tuple[int, int], tuple[float, float]]) -> pd.DataFrame:
    """Affine times for each (GPUs, of a node): milliseconds at no bytes, and GB/s."""
    return pd.DataFrame(
        [
            {f"time_stats.{kind}.median": ms + size / rate / 1e6, "size": size, "num_workers": n, "devices_per_node": d}
            for (n, d), (ms, rate) in groups.items()
            for size in SIZES
        ]
    )


SEND = table("send_recv", {(2, 1): (0.02, 10.0), (2, 2): (0.01, 200.0)})
REDUCE = table("all_reduce", {(2, 2): (0.02, 100.0), (4, 4): (0.03, 80.0), (4, 2): (0.1, 5.0)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SEND.to_csv(tmp_path / "send_recv.csv")
    REDUCE.to_csv(tmp_path / "all_reduce.csv")
    return tmp_path


def test_placements_become_links_and_gpus_of_a_node_all_reduces(folder: Path) -> None:
    import_profile("nccl", folder, folder / "nccl.yaml")
    profile = read_profile(folder / "nccl.yaml")
    assert set(profile.transports) == {"across_nodes", "within_node"}
    assert profile.transports["across_nodes"].rate == pytest.approx(10e9, rel=0.02)
    assert profile.transports["within_node"].latency == pytest.approx(10_010, rel=0.01)
    assert [one.ranks for one in profile.all_reduce] == [2, 4]
    assert "all_reduce_4_by_2: not used, tensor parallelism stays within a node" in profile.notes
    assert profile.residuals["across_nodes_from_64_KiB"].mean < 0.01
    assert set(profile.residuals) == {
        f"{name}_{size}"
        for name in ("across_nodes", "within_node", "all_reduce_2", "all_reduce_4")
        for size in ("from_64_KiB", "below_64_KiB")
    }


def test_a_scenario_takes_both_from_the_profile(folder: Path) -> None:
    import_profile("nccl", folder, folder / "nccl.yaml")
    pool = {"count": 1, "gpu": "h100-sxm", "tensor_parallel": 2, "profile": "nccl.yaml", "nic": "within_node"}
    scenario = scenario_from_mapping(one_request_for_two(pool, prompt_tokens=10), directory=folder)
    worker = scenario.variants[0].hardware.workers[0]
    assert worker.gpu is not None
    assert [one.ranks for one in worker.gpu.all_reduce] == [2, 4]
    assert worker.nic.message_times is not None
    assert worker.nic.message_times.of(200_000) == pytest.approx(11_000, rel=0.01)


def test_one_table_alone_is_enough(folder: Path) -> None:
    import_profile("nccl", folder / "all_reduce.csv", folder / "reduce.yaml")
    assert read_profile(folder / "reduce.yaml").transports == {}


def test_repetitions_of_a_size_are_folded(folder: Path) -> None:
    pd.concat([SEND, SEND]).to_csv(folder / "send_recv.csv")
    assert [len(group.points) for group in read_groups(folder / "send_recv.csv")] == [60, 60]


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (SEND.drop(columns=["size"]), "columns size are missing, expected time_stats.send_recv.median, size"),
        (SEND.rename(columns={"time_stats.send_recv.median": "ms"}), "columns are missing, expected time_stats.send"),
        (SEND.head(0), "found no rows"),
        (SEND.assign(size="x"), "columns size hold something else than numbers"),
        (SEND.assign(num_workers=0), "columns num_workers hold values that are not above 0"),
        (SEND.assign(**{"time_stats.send_recv.median": SEND["time_stats.send_recv.median"] / 1000}), "GB/s is more"),
        (SEND.assign(**{"time_stats.send_recv.median": SEND["time_stats.send_recv.median"] * 1000}), "ms for 2048 by"),
    ],
)
def test_a_table_that_cannot_be_is_refused(tmp_path: Path, spoiled: pd.DataFrame, message: str) -> None:
    spoiled.to_csv(tmp_path / "send_recv.csv", index=False)
    with pytest.raises(ProfileImportError, match=r"send_recv\.csv: ") as caught:
        import_profile("nccl", tmp_path, tmp_path / "out.yaml")
    assert message in str(caught.value)
    assert not (tmp_path / "out.yaml").exists()


def test_a_folder_without_tables_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProfileImportError, match=r"found neither send_recv\.csv nor all_reduce\.csv"):
        import_profile("nccl", tmp_path, tmp_path / "out.yaml")


def test_held_out_errors_are_those_of_sizes_that_were_not_fitted(folder: Path) -> None:
    """One size of the held third is 30 % slower: only its own error shows it."""
    points = list(read_groups(folder / "send_recv.csv")[0].points)
    points[30] = points[30]._replace(ns=1.3 * points[30].ns)
    errors = held_out_errors(points)
    assert abs(errors.large.min()) == pytest.approx(1 - 1 / 1.3, rel=0.01)
    assert sorted(abs(errors.large))[-2] < 0.01
