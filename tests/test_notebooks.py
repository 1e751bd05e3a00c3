"""Every notebook runs from top to bottom, and what is stored in it shows no failure and nothing of a machine.

With ``--rewrite`` the executed notebook is stored again, without what differs from run to run.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDED = ("notebooks", "scenarios")
CELL_SECONDS = 300

PATH_PATTERN = re.compile(r"(?<![\w<./])(?:~|/[\w.-]+)/[\w./-]+|\b[A-Za-z]:\\\w|file://")
"""An absolute path with at least two parts, POSIX or Windows. Closing tags and units such as req/s are none."""


def read(file: Path) -> Any:
    return nbformat.read(file, as_version=4)  # type: ignore[no-untyped-call]


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(output: Any) -> Iterator[str]:
    """What a reader sees of an output, pictures left out."""
    yield output.get("text", "")
    for kind, data in output.get("data", {}).items():
        if not kind.startswith("image/"):
            yield str(data)


def stripped(notebook: Any) -> Any:
    """The notebook without instants and versions, which differ between runs that show the same."""
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
    return notebook


@pytest.fixture
def working_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What notebooks may read, where they may write; the kernel's own files go next to it."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):  # a user's own kernels and settings stay out
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    copy = tmp_path / "checkout"
    for folder in NEEDED:
        shutil.copytree(ROOT / folder, copy / folder)
    return copy


def execute(notebook: Any, folder: Path) -> None:
    """Run all cells with ``folder`` as working directory. Raises CellExecutionError at the first that fails."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()


def test_the_notebooks_that_the_documentation_names_exist() -> None:
    assert {"prefill_decode_ratio", "push_vs_pull", "fidelity"} <= {file.stem for file in NOTEBOOKS}


@pytest.mark.parametrize(
    "text", ["/home/ann/x.py", "in /tmp/run", '"/root/.venv/bin"', r"C:\Users", "~/runs", "file:///x"]
)
def test_a_path_of_a_machine_is_recognised(text: str) -> None:
    assert PATH_PATTERN.search(text)


@pytest.mark.parametrize("text", ["</td></tr>", "14 req/s", "push / pull", "runs/push_vs_pull", "../scenarios/a.yaml"])
def test_other_slashes_are_no_path_of_a_machine(text: str) -> None:
    assert not PATH_PATTERN.search(text)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_stored_notebook_was_run_from_top_to_bottom_without_failure(file: Path) -> None:
    cells = code_cells(read(file))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_stored_notebook_shows_nothing_of_the_machine_that_ran_it(file: Path) -> None:
    notebook = read(file)
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert [text for output in outputs for text in texts(output) if PATH_PATTERN.search(text)] == []
    assert notebook == stripped(read(file)), "store it with pytest --rewrite"


@pytest.mark.timeout(2 * CELL_SECONDS)
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_without_failure(file: Path, working_copy: Path, rewrite: bool) -> None:
    notebook = read(file)
    execute(notebook, working_copy / "notebooks")
    if rewrite:
        nbformat.write(stripped(notebook), file)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_finds_its_files_from_the_repository_as_well(file: Path, working_copy: Path) -> None:
    """The first cell is where a notebook imports and looks for what it needs; it is plain Python."""
    first = code_cells(read(file))[0]
    subprocess.run([sys.executable, "-c", first.source], cwd=working_copy, check=True, timeout=CELL_SECONDS)
