"""Trace files: public formats in, columns of integers out.

- ``azure``: CSV ``TIMESTAMP,ContextTokens,GeneratedTokens`` (Azure LLM inference traces 2023 and 2024)
- ``mooncake``: JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``
- ``csv``: ``arrived_at`` (s), ``num_prefill_tokens``, ``num_decode_tokens`` (the columns of Vidur's processed traces)
- ``recorded``: arrivals and lengths of a run that was recorded on an engine (``kvsim.workload.recorded``)

Columns may come in any order and beside others. Instants are kept exactly: they go from decimal digits to whole
nanoseconds without a float. This module must not know about limits, rates or randomness; ``kvsim.workload.generate``
applies those.
"""

import csv
import io
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from kvsim.errors import TraceError
from kvsim.workload.fields import TIME_MAX_NS, TOKENS_MAX, AzureClock, parse_seconds, parse_tokens
from kvsim.workload.recorded import is_recorded, recorded_lines
from kvsim.workload.spec import TraceFormat

PUBLIC_HOMES = (
    "public traces: Azure at https://github.com/Azure/AzurePublicDataset, "
    "Mooncake at https://github.com/kvcache-ai/Mooncake (FAST25-release/traces), "
    "length pairs at https://github.com/microsoft/vidur (data/processed_traces)"
)
COLUMNS: dict[str, tuple[str, str, str]] = {
    "azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "mooncake": ("timestamp", "input_length", "output_length"),
    "csv": ("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
}


class Trace(msgspec.Struct, frozen=True):
    """Columns of one file, each of shape ``(rows,)``.

    ``arrival_ns`` counts from the file's first instant and is non-decreasing (all 0 where a file has no arrival times);
    ``prompt_tokens`` and ``output_tokens`` are at least 1. ``notes`` say what was changed to make that true.
    """

    arrival_ns: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    notes: tuple[str, ...]


def read_trace(path: str, trace_format: Literal["auto", "azure", "mooncake", "csv", "recorded"]) -> Trace:
    """Arrivals and lengths. Raises ``TraceError`` with the line for a file that is missing or malformed."""
    data = _read(path)
    found = _detect(path, data) if trace_format == "auto" else trace_format
    if found == "mooncake":
        return _mooncake(path, data)
    if found == "recorded":
        run = recorded_lines(path, data)
        return Trace(run.arrival_ns, run.prompt_tokens, run.output_tokens, ())
    return _from_csv(path, data, COLUMNS[found], AzureClock() if found == "azure" else parse_seconds)


def read_lengths(path: str) -> Trace:
    """Lengths alone (``arrival_ns`` is all 0), from any of the formats, arrival columns present or not."""
    data = _read(path)
    if data.lstrip().startswith(b"{"):
        return _mooncake(path, data)
    header = _header(path, data)
    for known in ("azure", "csv"):
        _, prompt, output = COLUMNS[known]
        if prompt in header and output in header:
            return _from_csv(path, data, (prompt, prompt, output), _no_time)
    raise TraceError(path, 1, f"columns {_listed(header)} found, {_expected_lengths()} expected")


def _read(path: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise TraceError(path, 0, f"no such file ({PUBLIC_HOMES})") from None
    except OSError as error:
        raise TraceError(path, 0, f"cannot be read: {error.strerror}") from None
    data = data.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that spreadsheets write
    if not data.strip():
        raise TraceError(path, 0, f"the file is empty ({PUBLIC_HOMES})")
    return data


def _detect(path: str, data: bytes) -> TraceFormat:
    """The format by content: names of files and their endings are not looked at."""
    if data.lstrip().startswith(b"{"):
        return "recorded" if is_recorded(data) else "mooncake"
    header = _header(path, data)
    if "TIMESTAMP" in header:
        return "azure"
    if "arrived_at" in header:
        return "csv"
    if any(prompt in header and output in header for _, prompt, output in COLUMNS.values()):
        raise TraceError(
            path,
            1,
            f"lengths without arrival times found (columns {_listed(header)}): use the file as empirical lengths of a "
            "generated workload, or add a column arrived_at in seconds",
        )
    raise TraceError(
        path,
        1,
        f"columns {_listed(header)} found; expected {_listed(COLUMNS['azure'])} (Azure), "
        f"{_listed(COLUMNS['csv'])} (CSV) or one JSON object a line (Mooncake)",
    )


# --- CSV ---------------------------------------------------------------------------------------------------------


def _csv_rows(path: str, data: bytes) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of every line that is not blank."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TraceError(path, line, f"byte 0x{data[error.start]:02x} found, UTF-8 text expected") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise TraceError(path, reader.line_num, f"not a line of a CSV file: {error}") from None


def _header(path: str, data: bytes) -> list[str]:
    first_line, _, _ = data.lstrip().partition(b"\n")
    return _names(next(_csv_rows(path, first_line))[1])


def _names(header: list[str]) -> list[str]:
    return [name.strip() for name in header]


def _from_csv(path: str, data: bytes, columns: tuple[str, str, str], parse_time: Callable[[str], int]) -> Trace:
    """``columns`` are those of instant, prompt length and output length."""
    rows = _csv_rows(path, data)
    header = _names(next(rows)[1])
    missing = [name for name in dict.fromkeys(columns) if name not in header]
    if missing:
        raise TraceError(path, 1, f"column {_listed(missing)} is missing; columns found: {_listed(header)}")
    time_at, prompt_at, output_at = (header.index(name) for name in columns)
    times: list[int] = []
    prompts: list[int] = []
    outputs: list[int] = []
    for line, row in rows:
        if len(row) != len(header):
            raise TraceError(path, line, f"{len(row)} fields found, {len(header)} expected ({_listed(header)})")
        try:
            times.append(parse_time(row[time_at]))
            prompts.append(parse_tokens(row[prompt_at]))
            outputs.append(parse_tokens(row[output_at]))
        except ValueError as error:
            read = (len(times), len(prompts), len(outputs))
            column = columns[read.index(min(read))]  # the first that lacks this row is the one that could not be read
            raise TraceError(path, line, f"{column}: {error}") from None
    return _tidy(path, times, prompts, outputs, ())


def _no_time(_text: str) -> int:
    return 0


# --- Mooncake ----------------------------------------------------------------------------------------------------


class MooncakeRow(msgspec.Struct, gc=False):
    """One line. ``hash_ids`` (one per 512-token prefix block) stays undecoded: its presence is all that is used."""

    timestamp: Decimal
    input_length: int
    output_length: int
    hash_ids: msgspec.Raw = msgspec.Raw(b"[]")


def _mooncake(path: str, data: bytes) -> Trace:
    decoder = msgspec.json.Decoder(MooncakeRow)
    try:
        rows = decoder.decode_lines(data)
    except msgspec.MsgspecError as error:
        for line, text in _json_lines(data):
            try:
                decoder.decode(text)
            except msgspec.MsgspecError as first:
                raise TraceError(path, line, f"{first}; expected {_expected_mooncake()}") from None
        raise TraceError(path, 0, f"{error}; expected {_expected_mooncake()}") from None
    times: list[int] = []
    for index, row in enumerate(rows):
        in_range = row.timestamp.is_finite() and 0 <= row.timestamp <= TIME_MAX_NS // 10**6
        if not in_range or not 0 <= row.input_length <= TOKENS_MAX or not 0 <= row.output_length <= TOKENS_MAX:
            line = next(line for place, (line, _) in enumerate(_json_lines(data)) if place == index)
            raise TraceError(
                path,
                line,
                f"timestamp {row.timestamp}, input_length {row.input_length}, output_length {row.output_length} found; "
                f"expected {_expected_mooncake()}, none of them negative or beyond {TOKENS_MAX:,} tokens",
            )
        times.append(int((row.timestamp * 10**6).to_integral_value()))
    hashed = sum([bytes(row.hash_ids) not in (b"[]", b"null") for row in rows])
    notes = (
        (f"{hashed:,} rows carry prefix hashes, which are ignored: prefix reuse is not modelled yet",) if hashed else ()
    )
    return _tidy(path, times, [row.input_length for row in rows], [row.output_length for row in rows], notes)


def _json_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(line, text) of every line that is not blank."""
    return ((line, text) for line, text in enumerate(data.split(b"\n"), start=1) if text.strip())


# --- shared ------------------------------------------------------------------------------------------------------


def _tidy(path: str, times: list[int], prompts: list[int], outputs: list[int], notes: tuple[str, ...]) -> Trace:
    """Sort by arrival and make every row a request that can be served."""
    if not times:
        raise TraceError(path, 0, "the file has a header but no rows")
    times_ns = np.array(times, dtype=np.int64)
    columns = [times_ns - times_ns.min(), np.array(prompts, dtype=np.int64), np.array(outputs, dtype=np.int64)]
    steps_back = int(np.count_nonzero(np.diff(times_ns) < 0))
    if steps_back:
        order = np.argsort(times_ns, kind="stable")
        columns = [column[order] for column in columns]
        notes += (f"{steps_back:,} rows are earlier than the row before them: rows were sorted by arrival",)
    empty = int(np.count_nonzero(columns[1] == 0))
    if empty:
        columns = [column[columns[1] > 0] for column in columns]
        notes += (f"{empty:,} rows with 0 prompt tokens were dropped",)
    arrival_ns, prompt_tokens, output_tokens = columns
    if not len(arrival_ns):
        raise TraceError(path, 0, "no row has a prompt token")
    silent = int(np.count_nonzero(output_tokens == 0))
    if silent:
        notes += (f"{silent:,} rows with 0 output tokens were raised to 1: a prefill always yields a token",)
    return Trace(arrival_ns, prompt_tokens, np.maximum(output_tokens, 1), notes)


def _listed(names: list[str] | tuple[str, ...]) -> str:
    shown = ", ".join(names)
    return shown if len(shown) <= 120 else shown[:117] + "..."


def _expected_lengths() -> str:
    return " or ".join(f"{prompt},{output}" for _, prompt, output in (COLUMNS["csv"], COLUMNS["azure"]))


def _expected_mooncake() -> str:
    return "an object with timestamp (ms), input_length and output_length on each line"
