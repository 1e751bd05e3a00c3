"""The two tables of a run folder: one row a request, and time series of workers; as parquet files or pandas frames.

Several variants share a table, told apart by the column ``variant``. Files are written without pandas; they hold what
pandas needs to know to read them back with nullable integers.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kvsim.metrics.columns import (
    FINISH_REASONS,
    MISSING,
    ROLES,
    SERVING_MODES,
    FirstToken,
    Flags,
    Floats,
    Integers,
    RunColumns,
)
from kvsim.metrics.timeline import worker_timeline

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_INSTANTS = (
    "arrival_ns",
    "prefill_start_ns",
    "prefill_end_ns",
    "decode_reserved_ns",
    "transfer_start_ns",
    "transfer_end_ns",
    "decode_start_ns",
    "first_token_ns",
    "finished_ns",
)


def requests_table(columns_by_variant: Mapping[str, RunColumns], first_token: FirstToken = "prefill") -> "pd.DataFrame":
    """One row a request. Instants that a request does not have are ``<NA>`` in ``Int64`` columns."""
    frame: pd.DataFrame = _requests(columns_by_variant, first_token).to_pandas()
    return frame


def workers_table(columns_by_variant: Mapping[str, RunColumns]) -> "pd.DataFrame":
    """One row a worker and bin. ``time_ns`` is the beginning of the bin and ``role`` that of then; the other values are
    means over it."""
    frame: pd.DataFrame = _workers(columns_by_variant).to_pandas()
    return frame


def write_requests_parquet(
    path: Path, columns_by_variant: Mapping[str, RunColumns], first_token: FirstToken = "prefill"
) -> None:
    """Write ``requests_table`` to a file: the same bytes for the same runs."""
    _write(path, _requests(columns_by_variant, first_token))


def write_workers_parquet(path: Path, columns_by_variant: Mapping[str, RunColumns]) -> None:
    """Write ``workers_table`` to a file: the same bytes for the same runs."""
    _write(path, _workers(columns_by_variant))


def _requests(columns_by_variant: Mapping[str, RunColumns], first_token: FirstToken) -> "pa.Table":
    return _concatenated(
        columns_by_variant, [_request_columns(columns, first_token) for columns in columns_by_variant.values()]
    )


def _request_columns(columns: RunColumns, first_token: FirstToken) -> "dict[str, pa.Array]":
    requests = columns.requests
    names = [worker.name for worker in columns.cluster.workers]
    instants = {
        "arrival_ns": requests.arrival_ns,
        "prefill_start_ns": requests.prefill_start_ns,
        "prefill_end_ns": requests.prefill_end_ns,
        "decode_reserved_ns": requests.decode_reserved_ns,
        "transfer_start_ns": requests.transfer_start_ns,
        "transfer_end_ns": requests.transfer_end_ns,
        "decode_start_ns": requests.decode_start_ns,
        "first_token_ns": requests.first_token_ns(first_token),
        "finished_ns": requests.finished_ns,
    }
    return {
        "request": _integers(requests.request),
        "outcome": _words(requests.outcome, FINISH_REASONS),
        "mode": _words(requests.mode, SERVING_MODES),
        "prompt_tokens": _integers(requests.prompt_tokens),
        "output_tokens": _integers(requests.output_tokens),
        "prefill_worker": _words(requests.prefill_worker, names),
        "decode_worker": _words(requests.decode_worker, names),
        **{name: _integers(instants[name], missing=True) for name in _INSTANTS},
        "preemptions": _integers(requests.preemptions),
        "transfer_bytes": _integers(requests.transfer_bytes),
        "transfer_operations": _integers(requests.transfer_operations),
    }


def _workers(columns_by_variant: Mapping[str, RunColumns]) -> "pa.Table":
    return _concatenated(columns_by_variant, [_worker_columns(columns) for columns in columns_by_variant.values()])


def _worker_columns(columns: RunColumns) -> "dict[str, pa.Array]":
    timeline = worker_timeline(columns)
    specs = columns.cluster.workers
    bins = len(timeline.edges_ns) - 1
    worker = np.repeat(np.arange(len(specs)), bins)
    begin_ns = np.tile(timeline.edges_ns[:-1], len(specs))
    return {
        "worker": _words(worker, [spec.name for spec in specs]),
        "role": _words(columns.roles.places(worker, begin_ns).astype(np.int64), ROLES),
        "time_ns": _integers(begin_ns),
        "interval_ns": _integers(np.tile(np.diff(timeline.edges_ns), len(specs))),
        "busy": _floats(timeline.busy),
        "requests_running": _floats(timeline.requests_running),
        "kv_blocks": _integers(np.array([spec.kv_blocks for spec in specs], dtype=np.int64)[worker]),
        "kv_reserved_blocks": _floats(timeline.kv_reserved_blocks),
        "kv_filled_blocks": _floats(timeline.kv_filled_blocks),
        "sent_bytes_per_s": _floats(timeline.sent_bytes_per_s),
        "received_bytes_per_s": _floats(timeline.received_bytes_per_s),
        "draining": _floats(timeline.draining),
        "switching": _floats(timeline.switching),
    }


def _integers(values: Integers, missing: bool = False) -> "pa.Array":
    """A column of integers; with ``missing``, ``MISSING`` is null."""
    return _column("int64", values, values != MISSING if missing else None)


def _floats(values: Floats) -> "pa.Array":
    return _column("float64", values.ravel(), None)


def _words(codes: Integers, words: Sequence[str]) -> "pa.Array":
    """A column of strings by index; ``MISSING`` is null. Made of buffers, as ``take`` would import pyarrow.compute."""
    import pyarrow as pa  # noqa: PLC0415  # heavy

    encoded = [*(word.encode() for word in words), b""]  # MISSING is the last one
    sizes = np.array([len(text) for text in encoded])
    letters = np.array(encoded, dtype=f"S{max(1, *sizes)}").view(np.uint8).reshape(len(encoded), -1)
    places = codes.ravel()
    ends = np.concatenate([[0], np.cumsum(sizes[places])]).astype(np.int32)
    texts = letters[places][np.arange(letters.shape[1]) < sizes[places, np.newaxis]]
    bitmap = pa.py_buffer(np.packbits(places != MISSING, bitorder="little"))
    return pa.StringArray.from_buffers(len(places), pa.py_buffer(ends), pa.py_buffer(texts), bitmap)


def _column(type_name: str, values: NDArray[Any], valid: Flags | None) -> "pa.Array":
    """Made of buffers, as ``pyarrow.array`` would import pandas to find out whether it was given a series."""
    import pyarrow as pa  # noqa: PLC0415  # heavy

    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    data = pa.py_buffer(np.ascontiguousarray(values, dtype=type_name))
    return pa.Array.from_buffers(pa.type_for_alias(type_name), len(values), [bitmap, data])


def _concatenated(names: Mapping[str, RunColumns], parts: "Sequence[dict[str, pa.Array]]") -> "pa.Table":
    import pyarrow as pa  # noqa: PLC0415  # heavy

    assert parts, "a table of no variant"
    tables = []
    for name, part in zip(names, parts, strict=True):
        rows = len(next(iter(part.values())))
        variant = _words(np.zeros(rows, dtype=np.int64), [name])
        tables.append(pa.Table.from_arrays([variant, *part.values()], names=["variant", *part]))
    table = pa.concat_tables(tables).combine_chunks()
    return table.replace_schema_metadata({"pandas": json.dumps(_pandas_metadata(table.column_names))})


def _pandas_metadata(names: Sequence[str]) -> dict[str, Any]:
    """What lets pandas read the instants as nullable integers and not as floats: the "pandas" entry of the schema.

    Format: https://pandas.pydata.org/docs/development/developer.html#storing-pandas-dataframe-objects-in-apache-parquet-format
    """
    nullable = [
        {"name": name, "field_name": name, "pandas_type": "int64", "numpy_type": "Int64", "metadata": None}
        for name in names
        if name in _INSTANTS
    ]
    return {"index_columns": [], "column_indexes": [], "columns": nullable}


def _write(path: Path, table: "pa.Table") -> None:
    import pyarrow.parquet as pq  # noqa: PLC0415  # heavy

    # hardly two numbers of a column are alike: a dictionary of them costs time and makes the file longer
    words = [field.name for field in table.schema if field.type == "string"]
    pq.write_table(table, path, compression="zstd", use_dictionary=words)
