"""The folder of a sweep: a journal of finished points that outlives any end of the process.

``points.jsonl`` has a header line and one line per finished point, each on the disk before the next one begins. A line
that a crash cut short has no newline: it is taken off when the journal is opened again, and its point runs again. It
must not know what a point is made of.
"""

import io
import json
import os
import sys
import zlib
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kvsim.errors import RunFolderError
from kvsim.sweep.run_point import Row
from kvsim.version import VERSION

JOURNAL = "points.jsonl"
FORMAT = 1
_MAGIC = b'{"kvsim_sweep":'


class Journal:
    """The finished points of a sweep by digest. Open it in a ``with`` statement; one process at a time may."""

    def __init__(self, folder: Path, file: io.FileIO, finished: dict[str, list[Row]]) -> None:
        self.folder = folder
        self.finished = finished
        self._file = file

    @classmethod
    def open(cls, folder: Path, scenario: str, wanted: Collection[str]) -> Self:
        """Make the folder, or take up the sweep in it. ``wanted`` are the digests of the present grid.

        Raises RunFolderError if the folder holds something else, a damaged journal, the sweep of another version, or
        none but points of another scenario. Nothing is changed then.
        """
        _refuse_foreign(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / JOURNAL).open("a+b", buffering=0)
        except OSError as error:
            raise RunFolderError(f"{folder}: cannot be written: {error.strerror}") from error
        try:
            _lock(file, folder)
            file.seek(0)
            kept, finished = _read(folder / JOURNAL, file.read())
            if finished and not any(digest in finished for digest in wanted):
                raise RunFolderError(
                    f"{folder}: holds a sweep of another scenario: none of its {len(finished)} finished points is in "
                    "this grid; give another folder with --out"
                )
            file.truncate(kept)
            journal = cls(folder, file, finished)
            if not kept:
                journal._write({"kvsim_sweep": FORMAT, "kvsim_version": VERSION, "scenario": scenario})
                _sync_folder(folder)
        except BaseException:
            file.close()
            raise
        return journal

    def append(self, digest: str, name: str, rows: list[Row]) -> None:
        """Keep a finished point: when this returns, it is on the disk."""
        text = _compact(rows)
        self._write({"point": digest, "name": name, "crc32": _checksum(digest, text), "rows": rows})
        self.finished[digest] = json.loads(text)  # as it will be read: a resumed sweep gives the same bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        data = memoryview(_compact(line).encode() + b"\n")
        while data:
            data = data[self._file.write(data) :]
        os.fsync(self._file.fileno())


def replace_file(path: Path, contents: bytes) -> None:
    """Write a file in one go: a reader sees the old contents or the new ones, also after a crash."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file; give a folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / JOURNAL).is_file():
        raise RunFolderError(f"{folder}: is not empty and holds no kvsim sweep; give another folder with --out")


def _read(path: Path, data: bytes) -> tuple[int, dict[str, list[Row]]]:
    """How many bytes of the journal are whole lines, and the finished points in them."""
    kept = data.rfind(b"\n") + 1
    if not kept:
        if data[: len(_MAGIC)] != _MAGIC[: len(data)]:
            raise RunFolderError(f"{path}:1: this is no journal of a kvsim sweep; give another folder with --out")
        return 0, {}
    lines = io.BytesIO(data[:kept])
    _check_header(path, next(lines))
    finished: dict[str, list[Row]] = {}
    for number, line in enumerate(lines, 2):
        try:
            entry = json.loads(line)
            digest, rows = entry["point"], entry["rows"]
            whole = entry["crc32"] == _checksum(digest, _compact(rows))
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise RunFolderError(
                f"{path}:{number}: damaged; delete this line to run its point again, or give another folder with --out"
            )
        finished[digest] = rows
    return kept, finished


def _check_header(path: Path, line: bytes) -> None:
    try:
        header = json.loads(line)
        found = header["kvsim_sweep"], header["kvsim_version"]
    except (ValueError, KeyError, TypeError):
        raise RunFolderError(f"{path}:1: this is no journal of a kvsim sweep; give another folder with --out") from None
    if found != (FORMAT, VERSION):
        raise RunFolderError(
            f"{path}: this sweep was begun by kvsim {found[1]}, and this is kvsim {VERSION}: points of both "
            "do not mix; give another folder with --out"
        )


def _lock(file: io.FileIO, folder: Path) -> None:
    """Two sweeps in one folder would run points twice. The lock ends with the process, however that ends."""
    if sys.platform == "win32":
        return
    import fcntl  # noqa: PLC0415  # not on Windows

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunFolderError(f"{folder}: another kvsim sweep is at work in this folder") from None


def _sync_folder(folder: Path) -> None:
    """The new file's name is on the disk as well."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _checksum(digest: str, rows: str) -> int:
    return zlib.crc32(f"{digest} {rows}".encode())
