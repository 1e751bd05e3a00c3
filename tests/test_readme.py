"""What the README says must be true: its definitions, its commands, its Python."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kvsim.cli import app
from kvsim.fidelity.figures import rows_of
from kvsim.metrics import DEFINITIONS
from kvsim.report.fidelity_table import fidelity_markdown

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def written_files() -> set[str]:
    """What the command lines of the README write, for later ones to read."""
    lines = [shlex.split(line) for line in shell_lines()]
    return {words[words.index("--out") + 1] for words in lines if "--out" in words}


def shell_lines() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    return [line.split("  #")[0] for block in blocks for line in block.splitlines() if line.startswith("kvsim ")]


def test_every_metric_is_defined_in_the_words_of_the_code() -> None:
    rows = [f"| `{key}` | {definition.unit} | {definition.text} |" for key, definition in DEFINITIONS.items()]
    missing = [row for row in rows if row not in README]
    assert not missing, "\n".join(["the README lacks:", *missing])


@pytest.mark.parametrize("line", shell_lines())
def test_every_command_line_names_files_and_options_that_exist(line: str) -> None:
    words = shlex.split(line)[1:]
    verb = words[: 2 if words[0] in ("bench", "profile") else 1]
    result = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    for option in (word for word in words if word.startswith("--")):
        assert option in result.output, f"{option} is no option of {' '.join(verb)}"
    for scenario in (
        word for word in words if word.endswith(".yaml") and "=" not in word and word not in written_files()
    ):
        assert (ROOT / scenario).is_file(), f"{scenario} is not there"


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert (tmp_path / "runs" / "example" / "report.html").is_file()


def test_the_table_of_predictions_is_the_stored_one(rewrite: bool) -> None:
    """``kvsim fidelity hardware --out notebooks/fidelity/figures.json`` stores it; ``--rewrite`` brings it here."""
    stored = json.loads((ROOT / "notebooks" / "fidelity" / "figures.json").read_text(encoding="utf-8"))
    table = fidelity_markdown([row for row in rows_of(stored) if row.limit is not None])
    before, rest = README.split("<!-- fidelity -->\n")
    shown, after = rest.split("<!-- /fidelity -->")
    if rewrite:
        text = f"{before}<!-- fidelity -->\n{table}\n<!-- /fidelity -->{after}"
        (ROOT / "README.md").write_text(text, encoding="utf-8")
    else:
        assert shown == table + "\n", "store it with pytest --rewrite"


def test_the_picture_is_there() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
