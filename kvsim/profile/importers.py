"""Measured tables made a profile: what ``kvsim profile import`` does with any of its kinds.

What a table means is the business of its kind's module (``kvsim.profile_kinds``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim.errors import KvsimError
from kvsim.profile.file_fields import ProfileFile, TableFile
from kvsim.profile.write import write_profile
from kvsim.profile_kinds import IMPORTERS

if TYPE_CHECKING:
    import pandas as pd


class ProfileImportError(KvsimError):
    """Measured tables cannot be made a profile: every problem, a line each."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What a kind makes of its tables: ``fields`` of the file (``kvsim.profile.file_fields.ProfileFile``) but for
    ``kvsim_profile`` and ``tables``. The ``tables`` here are too long for it: each is written beside it as Parquet,
    and stands in ``columns`` with the meaning and the unit of each of its columns, in their order."""

    fields: Mapping[str, Any]
    tables: Mapping[str, "pd.DataFrame"] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def import_profile(kind: str, path: Path, out: Path) -> list[str]:
    """Read ``path`` as ``kind``, write the profile ``out`` and its tables beside it, and say in a line each what was
    written. Raises ProfileImportError, before anything is written."""
    kinds = {importer.kind: importer for importer in IMPORTERS}
    if kind not in kinds:
        close = get_close_matches(kind, kinds, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ProfileImportError(f"found kind {kind!r}{hint}, expected one of {', '.join(kinds)}")
    if not path.exists():
        raise ProfileImportError(f"{path}: there is no such file or folder; {kind} reads a {kinds[kind].reads}")
    imported: Imported = import_module(kinds[kind].module).load(path)
    return write_imported(imported, out)


def write_imported(imported: Imported, out: Path) -> list[str]:
    """Write a profile and the tables beside it."""
    described = {}
    lines = []
    out.parent.mkdir(parents=True, exist_ok=True)
    for name, table in imported.tables.items():
        file = out.with_name(f"{out.stem}.{name}.parquet")
        table.to_parquet(file, index=False)
        columns = dict(imported.columns[name])
        assert list(table.columns) == list(columns), (list(table.columns), list(columns))
        described[name] = TableFile(file=file.name, rows=len(table), columns=columns)
        lines.append(f"wrote {file} ({len(table):,} rows)")
    fields = {"kvsim_profile": 1, "name": out.stem, **imported.fields, "tables": described}
    write_profile(out, ProfileFile.model_validate(fields))
    return [*lines, f"wrote {out}"]
