"""An append-only table of integers that stays small while a run is noted down.

Values go to the end of a plain list, as ``array.extend`` costs several times as much for a short row; now and then the
list is packed into an array, as a list of integers costs 40 bytes a value and an array 8. It must not know what the
columns mean.
"""

from struct import pack
from typing import Any, TypeAlias

import numpy as np

from kvsim.metrics.columns import MISSING, Integers

PACK_VALUES = 1 << 12

Boxed: TypeAlias = Any
"""An integer as the object that it is in a message. Compiled, an ``int`` is taken out of its object and put into a new
one each time that it goes on; a message that is read ``astuple`` keeps its own."""


class Log:
    """Rows of ``columns`` integers each."""

    __slots__ = ("_columns", "_loose", "_packed")

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._loose: list[int] = []
        self._packed: list[Integers] = []

    def put(self, values: tuple[int, ...]) -> None:
        """Append the values of one row."""
        self._loose += values  # compiled, ``extend`` costs almost twice as much

    def pack(self, values_min: int = PACK_VALUES) -> None:
        """Pack what has been put since the last time if it is at least this many values."""
        count = len(self._loose)
        if count >= values_min:
            # numpy takes several times as long to read a list; "n" is the signed integer as wide as an address
            self._packed.append(np.frombuffer(pack(f"{count}n", *self._loose), dtype=np.intp))
            self._loose.clear()

    def take(self) -> Integers:
        """The log as an array with one row a column, which unpacks into named columns. Leaves the log empty: of a long
        run there is no room for two."""
        self.pack(values_min=1)
        pieces = [values.reshape(-1, self._columns).T for values in self._packed]
        table = np.empty((self._columns, sum([piece.shape[1] for piece in pieces])), dtype=np.int64)
        if pieces:
            np.concatenate(pieces, axis=1, out=table)  # each column in one place, as it is used from now on
        self._packed.clear()
        return table


def with_column(table: Integers, index: int, log: Log) -> Integers:
    """The table with one more column before ``index``: from a log of pairs (row, value), ``MISSING`` where a row has
    none."""
    column = np.full(table.shape[1], MISSING, dtype=np.int64)
    row, value = log.take()
    column[row] = value
    return np.insert(table, index, column, axis=0)
