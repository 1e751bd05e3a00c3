"""An append-only table of integers that stays small while a run is noted down.

A row becomes bytes at once: integers that were kept, even for a while, would take five times as much, and lie scattered
over the memory that messages come from. It must not know what the columns mean.
"""

from struct import Struct
from typing import Any, TypeAlias

import numpy as np

from kvsim.metrics.columns import MISSING, Integers

Boxed: TypeAlias = Any
"""An integer as the object that it is in a message. Compiled, an ``int`` is taken out of its object and put into a new
one each time that it goes on; a message that is read ``astuple`` keeps its own."""


class Log:
    """Rows of ``columns`` integers each."""

    __slots__ = ("_columns", "_data", "_row")

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._row = Struct(f"{columns}n").pack  # "n" is the signed integer as wide as an address
        self._data = bytearray()

    def put(self, values: tuple[int, ...]) -> None:
        """Append the values of one row."""
        self._data += self._row(*values)

    def take(self) -> Integers:
        """The log as an array with one row a column, which unpacks into named columns, each in one place. Leaves the
        log empty: of a long run there is no room for two."""
        rows = np.frombuffer(self._data, dtype=np.intp).reshape(-1, self._columns)
        self._data = bytearray()
        return np.array(rows.T, dtype=np.int64, order="C")


def with_column(table: Integers, index: int, log: Log) -> Integers:
    """The table with one more column before ``index``: from a log of pairs (row, value), ``MISSING`` where a row has
    none."""
    column = np.full(table.shape[1], MISSING, dtype=np.int64)
    row, value = log.take()
    column[row] = value
    return np.insert(table, index, column, axis=0)
