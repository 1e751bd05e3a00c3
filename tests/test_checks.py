"""The static checks, so that one command runs everything: format, lint, types, import contract."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CHECKS = {
    "format": ["-m", "ruff", "format", "--check", "."],
    "lint": ["-m", "ruff", "check", "."],
    "types": ["-m", "mypy", "kvsim", "backends", "tests"],
    "imports": ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.timeout(300)
def test_the_checkout_passes(check: str) -> None:
    done = subprocess.run([sys.executable, *CHECKS[check]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_the_import_contract_fails_where_the_core_is_not_pure(tmp_path: Path) -> None:
    """A copy of the package with one forbidden import must not pass."""
    for file in sorted([*(ROOT / "kvsim").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8")
    placement = tmp_path / "kvsim" / "core" / "placement.py"
    placement.write_text(placement.read_text(encoding="utf-8") + "\nimport random\n", encoding="utf-8")
    # isolated from the installed package: the copy must be the one that is checked
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {CHECKS['imports'][1]}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "kvsim.core.placement -> random" in done.stdout
