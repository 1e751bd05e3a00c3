"""Runs of real engines, recorded request by request: when each arrived, and when its first and last token came.

Two layouts:

- JSON lines as casys-kaist/LLMServingSim 2.0 writes them from vLLM's statistics: ``arrival_time`` (s, by the clock of
  the front end), ``queued_ts``, ``first_token_ts``, ``last_token_ts`` (s, by the clock of the engine), ``input_toks``,
  ``output_toks``. No instant is known by both clocks. They are put so that the request that was queued soonest after
  its arrival was queued at once, so every TTFT here is too short by that least delay of the front end, and by no more.
- CSV with ``arrived_at``, ``first_token_at``, ``last_token_at`` (s, one clock), ``num_prefill_tokens`` and
  ``num_decode_tokens``.

Instants are kept exactly, in whole nanoseconds. It must not know simulations.
"""

import csv
import io
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from kvsim.errors import TraceError
from kvsim.workload.fields import TIME_MAX_NS, TOKENS_MAX, parse_seconds, parse_tokens

MARK = b'"first_token_ts"'
"""What the first line of the JSON layout holds and no other trace does."""

CSV_COLUMNS = ("arrived_at", "first_token_at", "last_token_at", "num_prefill_tokens", "num_decode_tokens")

Int64s = NDArray[np.int64]


class RecordedRun(msgspec.Struct, frozen=True):
    """Columns of one file, each of shape ``(requests,)``, in order of arrival. Instants count from the first one."""

    arrival_ns: Int64s
    first_token_ns: Int64s
    last_token_ns: Int64s
    prompt_tokens: Int64s
    output_tokens: Int64s
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.arrival_ns)


class RecordedRow(msgspec.Struct, gc=False):
    """One line of the JSON layout."""

    arrival_time: Decimal
    input_toks: int
    output_toks: int
    queued_ts: Decimal
    first_token_ts: Decimal
    last_token_ts: Decimal


def is_recorded(data: bytes) -> bool:
    """Whether a file holds a run in the JSON layout."""
    return MARK in data.lstrip().partition(b"\n")[0]


def read_recorded(path: Path | str) -> RecordedRun:
    """The run in a file of either layout. Raises TraceError with the line for one that is missing or malformed."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise TraceError(str(path), 0, f"cannot be read: {error.strerror}") from None
    if data.lstrip().startswith(b"{"):
        return recorded_lines(str(path), data)
    return _recorded_csv(str(path), data)


def recorded_lines(path: str, data: bytes) -> RecordedRun:
    """The run in the text of a file in the JSON layout."""
    decoder = msgspec.json.Decoder(RecordedRow)
    columns: list[list[int]] = [[], [], [], [], [], []]
    for line, text in enumerate(data.split(b"\n"), start=1):
        if not text.strip():
            continue
        try:
            row = decoder.decode(text)
        except msgspec.MsgspecError as error:
            wanted = ", ".join(RecordedRow.__struct_fields__)
            raise TraceError(path, line, f"{error}; expected an object with {wanted}") from None
        instants = (row.arrival_time, row.queued_ts, row.first_token_ts, row.last_token_ts)
        if not all(instant.is_finite() and 0 <= instant <= TIME_MAX_NS // 10**9 for instant in instants):
            raise TraceError(path, line, "an instant is no number of seconds of 0 or more")
        for column, instant in zip(columns, instants, strict=False):
            column.append(int((instant * 10**9).to_integral_value()))
        columns[4].append(row.input_toks)
        columns[5].append(row.output_toks)
    if not columns[0]:
        raise TraceError(path, 0, "the file holds no requests")
    arrival, queued, first, last, prompts, outputs = [np.array(column, dtype=np.int64) for column in columns]
    delay_ns = int((queued - arrival).min())  # between the clocks: as if nothing lay between arrival and queue
    note = "arrivals and tokens have different clocks: the request that was queued soonest is taken as queued at once"
    return _checked(path, arrival, first - delay_ns, last - delay_ns, prompts, outputs, (note,))


def _recorded_csv(path: str, data: bytes) -> RecordedRun:
    rows = csv.DictReader(io.StringIO(data.decode("utf-8", "replace"), newline=""))
    missing = [name for name in CSV_COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise TraceError(path, 1, f"column {', '.join(missing)} is missing, expected {', '.join(CSV_COLUMNS)}")
    columns: dict[str, list[int]] = {name: [] for name in CSV_COLUMNS}
    for row in rows:
        for name, column in columns.items():
            parse = parse_tokens if name.startswith("num_") else parse_seconds
            try:
                column.append(parse(row[name] or ""))
            except ValueError as error:
                raise TraceError(path, rows.line_num, f"{name}: {error}") from None
    if not columns["arrived_at"]:
        raise TraceError(path, 0, "the file has a header but no rows")
    arrival, first, last, prompts, outputs = [np.array(columns[name], dtype=np.int64) for name in CSV_COLUMNS]
    return _checked(path, arrival, first, last, prompts, outputs, ())


def _checked(
    path: str, arrival: Int64s, first: Int64s, last: Int64s, prompts: Int64s, outputs: Int64s, notes: tuple[str, ...]
) -> RecordedRun:
    """In order of arrival, from the first one on."""
    for what, wrong in (
        ("its first token before its arrival", first < arrival),
        ("its last token before its first", last < first),
        (f"a prompt or output of less than 1 or more than {TOKENS_MAX:,} tokens", _beyond(prompts) | _beyond(outputs)),
    ):
        if wrong.any():
            raise TraceError(path, 0, f"request {int(np.flatnonzero(wrong)[0])} has {what}")
    order = np.argsort(arrival, kind="stable")
    start_ns = arrival.min()
    arrival, first, last = [column[order] - start_ns for column in (arrival, first, last)]
    return RecordedRun(arrival, first, last, prompts[order], outputs[order], notes)


def _beyond(tokens: Int64s) -> NDArray[np.bool_]:
    return (tokens < 1) | (tokens > TOKENS_MAX)
