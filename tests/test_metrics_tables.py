"""The tables of a run folder and the bins of their time series."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metrics_records import COLOCATED, PULL, D, P, arrived, assign, at, cluster_of, release, stop

from kvsim.metrics import RunColumns, collect, requests_table, timeline, workers_table
from kvsim.metrics.columns import Changes, TransferColumns
from kvsim.metrics.logs import first_by_row, rows_of
from kvsim.metrics.tables import write_requests_parquet, write_workers_parquet
from kvsim.metrics.timeline import Stays, bin_edges, binned_area, binned_stays, transferred_bytes, worker_timeline

MS = 1_000_000


@pytest.fixture
def variants() -> dict[str, RunColumns]:
    return {
        "pull": collect(cluster_of("prefill", "decode"), PULL),
        "colocated": collect(cluster_of("colocated", mode="colocated"), COLOCATED),
    }


def test_the_requests_table_has_one_row_a_request_and_variant(variants: dict[str, RunColumns]) -> None:
    table = requests_table(variants)
    assert list(table.columns) == [
        "variant",
        "request",
        "outcome",
        "mode",
        "prompt_tokens",
        "output_tokens",
        "prefill_worker",
        "decode_worker",
        "arrival_ns",
        "prefill_start_ns",
        "prefill_end_ns",
        "decode_reserved_ns",
        "transfer_start_ns",
        "transfer_end_ns",
        "decode_start_ns",
        "first_token_ns",
        "finished_ns",
        "preemptions",
        "transfer_bytes",
        "transfer_operations",
    ]
    assert table["variant"].tolist() == ["pull", "colocated", "colocated"]
    first = table.iloc[0]
    assert (first["outcome"], first["mode"]) == ("stop", "pull")
    assert (first["prefill_worker"], first["decode_worker"]) == ("prefill-0", "decode-1")
    assert (first["first_token_ns"], first["finished_ns"], first["transfer_bytes"]) == (350, 560, 920)


def test_an_instant_that_did_not_come_is_missing_and_not_a_float(variants: dict[str, RunColumns]) -> None:
    table = requests_table(variants)
    assert table["transfer_start_ns"].dtype == "Int64"
    assert table["transfer_start_ns"].isna().tolist() == [False, True, True]
    assert table["request"].dtype == "int64"


def test_the_first_token_is_that_of_its_sender(variants: dict[str, RunColumns]) -> None:
    assert requests_table(variants, first_token="decode")["first_token_ns"].tolist() == [500, 150, 250]


def test_files_read_back_as_the_tables(variants: dict[str, RunColumns], tmp_path: Path) -> None:
    write_requests_parquet(tmp_path / "requests.parquet", variants)
    write_workers_parquet(tmp_path / "workers.parquet", variants)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "requests.parquet"), requests_table(variants))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "workers.parquet"), workers_table(variants))


def test_the_same_runs_give_the_same_bytes(variants: dict[str, RunColumns], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_requests_parquet(tmp_path / f"{name}-requests", variants)
        write_workers_parquet(tmp_path / f"{name}-workers", variants)
    assert (tmp_path / "a-requests").read_bytes() == (tmp_path / "b-requests").read_bytes()
    assert (tmp_path / "a-workers").read_bytes() == (tmp_path / "b-workers").read_bytes()


def test_writing_files_does_not_import_pandas(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from metrics_records import PULL, cluster_of\n"
        "from kvsim.metrics import collect, write_requests_parquet, write_workers_parquet\n"
        "assert 'pyarrow' not in sys.modules\n"
        "columns = {'pull': collect(cluster_of('prefill', 'decode'), PULL)}\n"
        f"write_requests_parquet(pathlib.Path({str(tmp_path / 'requests')!r}), columns)\n"
        f"write_workers_parquet(pathlib.Path({str(tmp_path / 'workers')!r}), columns)\n"
        "assert 'pandas' not in sys.modules\n"
    )
    tests = Path(__file__).parent
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={"PYTHONPATH": f"{tests}:{tests.parent}"}, cwd=tmp_path
    )


def test_the_workers_table_has_means_over_each_bin(variants: dict[str, RunColumns]) -> None:
    """The run is shorter than a bin, so each worker has one row over its 460 ns."""
    table = workers_table(variants)
    assert table["worker"].tolist() == ["prefill-0", "decode-1", "colocated-0"]
    assert table["role"].tolist() == ["prefill", "decode", "colocated"]
    assert table["time_ns"].tolist() == [100, 100, 0]
    assert table["interval_ns"].tolist() == [460, 460, 305]
    assert table["busy"].tolist() == [200 / 460, 30 / 460, 1.0]
    assert table["requests_running"].tolist() == [200 / 460, 30 / 460, (100 + 50 + 100 * 2 + 40 * 2 + 15) / 305]
    assert table["kv_blocks"].tolist() == [100, 100, 100]
    assert table["kv_reserved_blocks"].tolist()[:2] == [2 * 360 / 460, 2 * 160 / 460]
    assert table["kv_filled_blocks"].tolist()[:2] == [2 * 160 / 460, 2 * 60 / 460]
    assert table["sent_bytes_per_s"].tolist() == [pytest.approx(920 / 460e-9), 0.0, 0.0]
    assert table["received_bytes_per_s"].tolist() == [0.0, pytest.approx(920 / 460e-9), 0.0]


@pytest.mark.parametrize(
    ("makespan_ns", "width_ns"),
    [
        (460, 460),
        (400 * MS, MS),
        (400 * MS + 1, 2 * MS),
        (801 * MS, 5 * MS),
        (2_001 * MS, 10 * MS),
        (60_000 * MS, 200 * MS),
    ],
)
def test_bins_are_as_wide_as_a_step_of_one_two_five(makespan_ns: int, width_ns: int) -> None:
    edges = bin_edges(7, 7 + makespan_ns)
    assert edges[1] - edges[0] == width_ns
    assert edges[-1] == 7 + makespan_ns
    assert len(edges) <= 401


def test_a_run_without_a_makespan_has_no_bins() -> None:
    records = (at(50, [arrived(0)], [assign(P, 0), release(P, 0), stop(0)]),)
    columns = collect(cluster_of("prefill", "decode"), records)
    assert worker_timeline(columns).busy.shape == (2, 0)
    assert len(workers_table({"only": columns})) == 0


def test_levels_are_split_at_the_edges_of_bins() -> None:
    changes = Changes(np.array([1, 1, 0]), np.array([5, 25, 10]), np.array([3, -3, 2]))
    area = binned_area([changes], 2, np.array([0, 10, 20, 26]))
    assert area.tolist() == [[0, 20, 12], [15, 30, 15]]


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(1, 9)), max_size=20), st.integers(1, 30)
)
def test_the_bins_add_up_to_the_whole(stays: list[tuple[int, int, int]], width: int) -> None:
    edges = np.append(np.arange(0, 100, width), 100)
    starts, ends, amounts = np.array(stays, dtype=np.int64).reshape(-1, 3).T
    starts, ends = np.minimum(starts, ends), np.maximum(starts, ends)
    worker = np.zeros(2 * len(starts), dtype=np.int64)
    changes = Changes(worker, np.concatenate([starts, ends]), np.concatenate([amounts, -amounts]))
    levels = np.zeros(100, dtype=np.int64)
    for start, end, amount in zip(starts, ends, amounts, strict=True):
        levels[start:end] += amount
    expected = [int(levels[a:b].sum()) for a, b in pairwise(edges)]
    short = Stays(worker[: len(starts)].astype(np.int32), starts, ends, amounts.astype(np.int32))
    for piece in (timeline.PIECE, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(timeline, "PIECE", piece)
            assert binned_area([changes], 1, edges)[0].tolist() == expected
            assert binned_stays(short, 1, edges)[1, 0].tolist() == expected


def test_stays_are_counted_with_and_without_their_amounts() -> None:
    """Of worker 1: 4 ns with 3 within the first bin, 14 ns with 5 over all three; of worker 0: its last 6 ns with 2."""
    stays = Stays(np.array([1, 1, 0]), np.array([2, 8, 20]), np.array([6, 22, 26]), np.array([3, 5, 2]))
    count, amount = binned_stays(stays, 2, np.array([0, 10, 20, 26]))
    assert count.tolist() == [[0, 0, 6], [4 + 2, 10, 2]]
    assert amount.tolist() == [[0, 0, 12], [12 + 10, 50, 10]]


@pytest.mark.parametrize("ids", [[3, 4, 5, 6], [3, 4, 6, 9]])
def test_requests_are_found_whether_or_not_ids_are_left_out(ids: list[int]) -> None:
    assert rows_of(np.array(ids), np.array(ids[::-1] + ids[1:2])).tolist() == [3, 2, 1, 0, 1]
    for unknown in (2, 7, 10):
        with pytest.raises(AssertionError, match=f"requests .{unknown}. never arrived"):
            rows_of(np.array(ids), np.array([4, unknown]))


def test_of_several_values_the_first_stays() -> None:
    assert first_by_row(np.array([2, 0, 2, 2]), np.array([7, 8, 9, 5]), 4).tolist() == [8, -1, 7, -1]


def test_numbers_are_stored_plainly_and_words_by_a_dictionary(variants: dict[str, RunColumns], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_requests_parquet(tmp_path / "requests", variants)
    group = pq.ParquetFile(tmp_path / "requests").metadata.row_group(0)
    columns = [group.column(place) for place in range(group.num_columns)]
    by_dictionary = {column.path_in_schema for column in columns if "RLE_DICTIONARY" in column.encodings}
    assert by_dictionary == {"variant", "outcome", "mode", "prefill_worker", "decode_worker"}


def test_bytes_are_spread_over_the_time_of_their_transfer() -> None:
    transfers = TransferColumns(
        source=np.array([P, P, P]),
        target=np.array([D, D, D]),
        start_ns=np.array([5, 20, 30]),
        end_ns=np.array([25, 20, 30]),
        size_bytes=np.array([200, 7, 11]),
        operations=np.array([1, 1, 1]),
    )
    sent = transferred_bytes(transfers, transfers.source, 2, np.array([0, 10, 20, 30]))
    assert sent.tolist() == [[50.0, 100.0, 50.0 + 7.0 + 11.0], [0.0, 0.0, 0.0]]
