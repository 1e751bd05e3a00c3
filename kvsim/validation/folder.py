"""The validation folder on disk: both runs as run folders, and what came of holding one against the other.

It must not know how the runs were made.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim.errors import RunFolderError
from kvsim.run_folder import RunFolder, load_run, read_summary
from kvsim.validation.errors import ErrorRow
from kvsim.validation.ranking import Pair

if TYPE_CHECKING:
    import pandas as pd

SUMMARY, ERRORS, PROFILE, FIGURE = "validation.json", "errors.parquet", "profile.yaml", "validation"
REAL, SIMULATED = "real", "simulated"


@dataclass(frozen=True, slots=True)
class ValidationFolder:
    """A finished validation. ``summary`` is what ``validation.json`` holds."""

    path: Path
    summary: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether everything is within tolerance and every replay was identical."""
        return not self.summary["failures"]

    @property
    def real(self) -> RunFolder:
        """What the real workers did."""
        return load_run(self.path / REAL)

    @property
    def simulated(self) -> RunFolder:
        """What the simulator made of the same requests."""
        return load_run(self.path / SIMULATED)

    @property
    def errors(self) -> "pd.DataFrame":
        """A row per variant, metric and statistic: ``real_s``, ``simulated_s`` and ``error`` as a share."""
        import pandas as pd  # noqa: PLC0415  # heavy

        return pd.read_parquet(self.path / ERRORS)

    @property
    def ranking(self) -> "pd.DataFrame":
        """A row per metric and pair of variants: the differences, whether reality's is significant, and agreement."""
        import pandas as pd  # noqa: PLC0415  # heavy

        return pd.DataFrame(self.summary["ranking"])


def load_validation(path: Path | str) -> ValidationFolder:
    """Open a validation folder. Raises RunFolderError if it is none."""
    folder = Path(path)
    summary = read_summary(folder, SUMMARY, "validation")
    if not isinstance(summary, dict) or not isinstance(summary.get("failures"), list):
        raise RunFolderError(f"{folder / SUMMARY}: this is no summary of a validation")
    return ValidationFolder(folder, summary)


def prepare_validation(out: Path | str) -> Path:
    """Make the folder, or take over that of an earlier validation. Raises RunFolderError if it holds something else."""
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file; give a folder with --out")
    ours = any((folder / name).exists() for name in (SUMMARY, PROFILE, REAL))
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise RunFolderError(f"{folder}: is not empty and holds no kvsim validation; give another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (SUMMARY, ERRORS, PROFILE, f"{FIGURE}.svg", f"{FIGURE}.png"):
        (folder / name).unlink(missing_ok=True)
    return folder


def write_validation(
    folder: Path, summary: dict[str, Any], rows: Sequence[ErrorRow], profile: Path | None, *, report: bool
) -> ValidationFolder:
    """Write everything beside the two run folders; the summary last."""
    import pandas as pd  # noqa: PLC0415  # heavy

    frame = pd.DataFrame([row_values(row) for row in rows])
    frame.to_parquet(folder / ERRORS, index=False)
    if profile is not None:
        shutil.copyfile(profile, folder / PROFILE)
    if report:
        from kvsim.report.style import figure_bytes  # noqa: PLC0415  # matplotlib is heavy
        from kvsim.report.validation_figure import validation_figure  # noqa: PLC0415

        figure = validation_figure(frame)
        (folder / f"{FIGURE}.svg").write_bytes(figure_bytes(figure, "svg"))
        (folder / f"{FIGURE}.png").write_bytes(figure_bytes(figure, "png"))
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return ValidationFolder(folder, summary)


def row_values(row: ErrorRow) -> dict[str, Any]:
    """One row as columns of a table."""
    values: dict[str, Any] = {"variant": row.variant, "metric": row.metric, "statistic": row.statistic}
    return values | {"real_s": row.real_s, "simulated_s": row.simulated_s, "error": row.error}


def pair_values(pair: Pair) -> dict[str, Any]:
    """One pair of the ranking as plain values, None where nothing is known."""
    return {
        "metric": pair.metric,
        "first": pair.first,
        "second": pair.second,
        "real_s": known(pair.real.mean),
        "real_low_s": known(pair.real.low),
        "real_high_s": known(pair.real.high),
        "simulated_s": known(pair.simulated_s),
        "significant": pair.significant,
        "agrees": pair.agrees,
    }


def known(value: float) -> float | None:
    """The value, if it is a number."""
    return value if isfinite(value) else None


def all_known(values: Mapping[str, float]) -> dict[str, float | None]:
    """The same for each value."""
    return {key: known(value) for key, value in values.items()}
