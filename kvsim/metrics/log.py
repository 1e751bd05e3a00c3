"""An append-only table of integers that stays small while a run is noted down.

A row becomes bytes at once: integers that were kept, even for a while, would take five times as much, and lie scattered
over the memory that messages come from. It must not know what the columns mean.
"""

from collections.abc import Mapping
from struct import Struct
from typing import Any, Final, TypeAlias

import numpy as np

from kvsim.metrics.columns import MISSING, Integers

Boxed: TypeAlias = Any
"""An integer as the object that it is in a message. Compiled, an ``int`` is taken out of its object and put into a new
one each time that it goes on; a message that is read ``astuple`` keeps its own."""

PIECE_ROWS: Final = 32
"""Rows that are appended together: to let a ``bytearray`` grow takes as long for many as for one."""


class Log:
    """Rows of ``columns`` integers each."""

    __slots__ = ("_columns", "_data", "_pack", "_rows")

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._pack = Struct(f"{columns}n").pack  # "n" is the signed integer as wide as an address
        self._data = bytearray()
        self._rows: list[bytes] = []  # the last ones, not yet in the data

    def put(self, values: tuple[int, ...]) -> None:
        """Append the values of one row."""
        pack = self._pack  # compiled, a method is looked up by its name where its arguments are not written out
        self._rows.append(pack(*values))
        if len(self._rows) == PIECE_ROWS:
            self._gather()

    def _gather(self) -> None:
        self._data += b"".join(self._rows)
        self._rows = []

    def take(self, later: "Mapping[int, Log] | None" = None) -> Integers:
        """The log as an array with one row a column, which unpacks into named columns, each in one place. Leaves the
        log empty: of a long run there is no room for two.

        ``later``: what became known later, by the place of its column in the array: logs of pairs (row, value), which
        are taken as well. It is ``MISSING`` where a row has none.
        """
        self._gather()
        rows = np.frombuffer(self._data, dtype=np.intp).reshape(-1, self._columns)
        self._data = bytearray()
        logs = later or {}
        table = np.empty((self._columns + len(logs), len(rows)), dtype=np.int64)
        table[[place for place in range(len(table)) if place not in logs]] = rows.T
        for place, log in logs.items():
            table[place] = MISSING
            row, value = log.take()
            table[place, row] = value
        return table
