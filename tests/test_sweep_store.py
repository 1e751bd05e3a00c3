"""The journal of a sweep: what it keeps, what it mends, and what it refuses without changing anything."""

import json
from pathlib import Path
from typing import Any

import pytest

from kvsim.errors import RunFolderError
from kvsim.sweep import store
from kvsim.sweep.store import JOURNAL, Journal, replace_file

ROWS: list[dict[str, Any]] = [{"variant": "pull", "metrics": {"a.b": 0.1, "c": 3}, "notes": ["ünd"]}]
FOREIGN = "this is no journal of a kvsim sweep; give another folder with --out"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of which the points d1 and d2 are finished."""
    with Journal.open(tmp_path / "sweep", "small", {"d1", "d2", "d3"}) as journal:
        journal.append("d1", "x=1", ROWS)
        journal.append("d2", "x=2", ROWS)
    return tmp_path / "sweep"


def lines_of(folder: Path) -> list[bytes]:
    return (folder / JOURNAL).read_bytes().splitlines(keepends=True)


def refusal(folder: Path, wanted: set[str] | None = None) -> str:
    """Why the folder is refused; it must be left as it was."""
    before = {file.name: file.read_bytes() for file in folder.iterdir()} if folder.is_dir() else None
    with pytest.raises(RunFolderError) as error:
        Journal.open(folder, "small", wanted if wanted is not None else {"d1"})
    if before is not None:
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    return str(error.value).replace(str(folder), "FOLDER")


def test_finished_points_are_there_when_the_journal_is_opened_again(folder: Path) -> None:
    with Journal.open(folder, "small", {"d1", "d2", "d3"}) as journal:
        assert journal.finished == {"d1": ROWS, "d2": ROWS}
        journal.append("d3", "x=3", ROWS)
        assert journal.finished["d3"] == ROWS
    assert len(lines_of(folder)) == 4


@pytest.mark.parametrize("cut", [1, 10, 60, -1])
def test_a_line_that_was_cut_short_is_taken_off(folder: Path, cut: int) -> None:
    lines = lines_of(folder)
    (folder / JOURNAL).write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    with Journal.open(folder, "small", {"d1", "d2"}) as journal:
        assert list(journal.finished) == ["d1"]
        journal.append("d2", "x=2", ROWS)
    assert lines_of(folder) == lines


@pytest.mark.parametrize("cut", [0, 1, 20, -1])
def test_a_header_that_was_cut_short_is_written_anew(folder: Path, cut: int) -> None:
    header = lines_of(folder)[0]
    (folder / JOURNAL).write_bytes(header[:cut])
    with Journal.open(folder, "small", {"d1"}) as journal:
        assert journal.finished == {}
    assert lines_of(folder) == [header]


def test_points_of_a_smaller_grid_are_used_in_a_larger_one_and_kept_in_a_smaller_one(folder: Path) -> None:
    with Journal.open(folder, "small", {"d2", "d9"}) as journal:
        assert sorted(journal.finished) == ["d1", "d2"]


def test_the_sweep_of_another_scenario_is_refused(folder: Path) -> None:
    assert refusal(folder, {"e1", "e2"}) == (
        "FOLDER: holds a sweep of another scenario: none of its 2 finished points is in this grid; give another "
        "folder with --out"
    )


def test_a_damaged_line_is_refused_with_its_number(folder: Path) -> None:
    whole = (folder / JOURNAL).read_bytes()
    for damage in (
        whole.replace(b":0.1,", b":0.2,", 1),
        whole.replace(b'"rows"', b'"rosw"', 1),
        whole[:90] + whole[95:],
    ):
        (folder / JOURNAL).write_bytes(damage)
        assert refusal(folder) == (
            f"FOLDER/{JOURNAL}:2: damaged; delete this line to run its point again, or give another folder with --out"
        )


@pytest.mark.parametrize("content", [b"anything\n", b"{}\n", b"[1]\n", b"\xff\xfe\n", b"other"])
def test_a_file_of_that_name_that_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    assert refusal(tmp_path) == f"FOLDER/{JOURNAL}:1: {FOREIGN}"


def test_the_sweep_of_another_version_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = json.loads(lines_of(folder)[0])["kvsim_version"]
    monkeypatch.setattr(store, "VERSION", "99.0")
    assert refusal(folder) == (
        f"FOLDER: this sweep was begun by kvsim {begun}, and this is kvsim 99.0: points of both do not mix; "
        "give another folder with --out"
    ).replace("FOLDER:", f"FOLDER/{JOURNAL}:")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    assert refusal(tmp_path) == "FOLDER: is not empty and holds no kvsim sweep; give another folder with --out"
    assert refusal(tmp_path / "precious.txt") == "FOLDER: is a file; give a folder with --out"


def test_two_sweeps_cannot_use_a_folder_at_the_same_time(folder: Path) -> None:
    with Journal.open(folder, "small", {"d1"}):
        assert refusal(folder) == "FOLDER: another kvsim sweep is at work in this folder"
    Journal.open(folder, "small", {"d1"}).__exit__(None, None, None)


def test_a_file_is_replaced_in_one_go(tmp_path: Path) -> None:
    replace_file(tmp_path / "a", b"one")
    replace_file(tmp_path / "a", b"two")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"two")]
