"""The record of a run on disk: one line of JSON for each call of the scheduler, gzip-compressed.

The first line says what kind of file this is and holds the ``ClusterSpec``; every other line is one
``kvsim.core.messages.Record``. Nothing else is needed to replay the run, whether it was simulated or real. The same
record gives the same bytes.
"""

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import Command, Event, Record
from kvsim.errors import RunFolderError

RECORD_VERSION = 2
RECORD_SUFFIX = ".jsonl.gz"
COMPRESSION_LEVEL = 5
DAMAGE = (msgspec.DecodeError, UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a file raises that is cut off, was changed, or never was a record."""


class Header(msgspec.Struct, frozen=True):
    """First line of a record file."""

    kvsim_record: int
    variant: str
    cluster: ClusterSpec


class RecordWriter:
    """Writes a record file; ``observe`` is shown every call of ``Scheduler.handle``. Use it as a context manager."""

    def __init__(self, path: Path, variant: str, cluster: ClusterSpec) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._raw: IO[bytes] = path.open("wb")
        # no name and no time in the gzip header: the same record must give the same bytes
        self._file = gzip.GzipFile("", "wb", COMPRESSION_LEVEL, self._raw, mtime=0)
        self._lines = io.BufferedWriter(self._file, 1 << 16)
        self._write(Header(RECORD_VERSION, variant, cluster))

    def observe(self, now_ns: int, events: Sequence[Event], commands: Sequence[Command]) -> None:
        """Append one call."""
        self._write(Record(now_ns, tuple(events), tuple(commands)))

    def close(self) -> None:
        """Finish the file."""
        self._lines.close()
        self._file.close()
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: Header | Record) -> None:
        self._lines.write(self._encode(line))
        self._lines.write(b"\n")


def read_header(path: Path) -> Header:
    """The first line of a record file. Raises RunFolderError if it is none."""
    with _open(path) as lines:
        return _read_header(path, lines)


def read_records(path: Path) -> Iterator[Record]:
    """Every call in order. Raises RunFolderError, with the line, at the first one that is damaged."""
    decode = msgspec.json.Decoder(Record).decode
    with _open(path) as lines:
        _read_header(path, lines)
        number = 2
        try:
            for line in lines:
                yield decode(line)
                number += 1
        except DAMAGE as error:
            raise RunFolderError(f"{path}:{number}: damaged record: {error}") from error


def _open(path: Path) -> gzip.GzipFile:
    if not path.is_file():
        raise RunFolderError(f"{path}: no such record; run the scenario with --record to write one")
    return gzip.open(path, "rb")


def _read_header(path: Path, lines: gzip.GzipFile) -> Header:
    try:
        header = msgspec.json.decode(lines.readline(), type=Header)
    except DAMAGE as error:
        raise RunFolderError(f"{path}:1: this is no kvsim record: {error}") from error
    if header.kvsim_record != RECORD_VERSION:
        raise RunFolderError(f"{path}:1: record version {header.kvsim_record}, this kvsim reads {RECORD_VERSION}")
    return header
