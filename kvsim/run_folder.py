"""The run folder on disk: what lies in it, how it is opened, and how one is made ready for a run.

It must not know how a run is simulated or what its numbers mean.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kvsim.audit import AUDIT_SUFFIX
from kvsim.errors import RunFolderError
from kvsim.record import RECORD_SUFFIX

if TYPE_CHECKING:
    import pandas as pd

SUMMARY, SCENARIO, REQUESTS, WORKERS = "summary.json", "scenario.yaml", "requests.parquet", "workers.parquet"
REPORT, TIMELINE, RECORDS, FIGURES = "report.html", "trace.json", "records", "figures"
FAULTS = "faults.json"
AUDITS = "audit"
PARTS = {RECORDS: (RECORD_SUFFIX,), AUDITS: (AUDIT_SUFFIX,), FIGURES: (".svg", ".png")}
"""Folders inside a run folder, and how the names of the files end that a run writes there."""


class RunFolder(msgspec.Struct, frozen=True):
    """A finished run on disk. Tables are read when they are asked for."""

    path: Path
    summary: dict[str, Any]

    @property
    def requests(self) -> "pd.DataFrame":
        """One row a request and variant; instants are nullable integer nanoseconds."""
        import pandas as pd  # noqa: PLC0415  # heavy

        return pd.read_parquet(self.path / REQUESTS)

    @property
    def workers(self) -> "pd.DataFrame":
        """Time series of every worker and variant."""
        import pandas as pd  # noqa: PLC0415  # heavy

        return pd.read_parquet(self.path / WORKERS)

    @property
    def scenario(self) -> str:
        """The fully resolved scenario as YAML."""
        return (self.path / SCENARIO).read_text(encoding="utf-8")

    @property
    def faults(self) -> dict[str, Any]:
        """Of each variant in which something could go wrong: what was planned and what struck."""
        file = self.path / FAULTS
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    @property
    def records(self) -> dict[str, Path]:
        """Record files by variant, in the order of the scenario; empty if the run was not recorded."""
        return self._by_variant(RECORDS, RECORD_SUFFIX)

    @property
    def audits(self) -> dict[str, Path]:
        """Audit logs by variant, in the order of the scenario; empty if the run was not audited."""
        return self._by_variant(AUDITS, AUDIT_SUFFIX)

    def _by_variant(self, part: str, suffix: str) -> dict[str, Path]:
        files = {name: self.path / part / f"{name}{suffix}" for name in self.summary["variants"]}
        return {name: file for name, file in files.items() if file.is_file()}


def load_run(path: Path | str) -> RunFolder:
    """Open a run folder. Raises RunFolderError if it is none."""
    folder = Path(path)
    summary = read_summary(folder, SUMMARY, "run")
    if not isinstance(summary, dict) or not isinstance(summary.get("variants"), dict):
        raise RunFolderError(f"{folder / SUMMARY}: this is no summary of a kvsim run")
    return RunFolder(folder, summary)


def read_summary(folder: Path, name: str, kind: str) -> Any:
    """What the JSON file ``name`` holds, in a folder of this kind (run, validation). Raises RunFolderError."""
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"{folder}: no {kind} folder: it holds no {name}") from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder / name}: cannot be read: {error}") from error


def prepare_folder(folder: Path) -> Path:
    """Make the folder, or take over one of an earlier run and remove that run's files, but no others.

    Raises RunFolderError if it holds something and no run.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file; give a folder with --out")
    if folder.is_dir() and not (folder / SUMMARY).is_file() and any(folder.iterdir()):
        raise RunFolderError(f"{folder}: is not empty and holds no kvsim run; give another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (SUMMARY, SCENARIO, REQUESTS, WORKERS, REPORT, TIMELINE, FAULTS):
        (folder / name).unlink(missing_ok=True)
    for part, endings in PARTS.items():
        for file in sorted((folder / part).glob("*")):
            if file.name.endswith(endings):
                file.unlink()
    remove_empty_parts(folder)
    return folder


def remove_empty_parts(folder: Path) -> None:
    """Remove the folders inside a run folder in which there is nothing."""
    for part in PARTS:
        if (folder / part).is_dir() and not any((folder / part).iterdir()):
            (folder / part).rmdir()
