import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvsim.metrics.log import PIECE_ROWS, Log

WORDS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=2 * PIECE_ROWS + 1))
def test_a_log_is_the_table_of_its_rows(rows: list[tuple[int, int, int]]) -> None:
    log = Log(3)
    for row in rows:
        log.put(row)
    table = log.take()
    assert table.dtype == np.int64
    assert table.shape == (3, len(rows))
    assert list(zip(*table.tolist(), strict=True)) == rows


def test_each_column_lies_in_one_place_and_may_be_written_to() -> None:
    log = Log(2)
    for value in range(5):
        log.put((value, -value))
    first, second = log.take()
    assert first.flags.contiguous
    assert second.flags.contiguous
    first += second
    assert first.tolist() == [0] * 5


def test_a_log_that_was_taken_begins_anew() -> None:
    log = Log(2)
    log.put((1, 2))
    assert log.take().tolist() == [[1], [2]]
    log.put((3, 4))
    assert log.take().tolist() == [[3], [4]]
    assert log.take().shape == (2, 0)


def test_truth_counts_as_one() -> None:
    log = Log(2)
    log.put((True, False))
    assert log.take().tolist() == [[1], [0]]


def test_a_value_takes_eight_bytes() -> None:
    log = Log(4)
    tracemalloc.start()
    try:
        for value in range(25_000):
            log.put((value, value << 40, value, value))
        size_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 800_000 <= size_bytes < 900_000


def test_a_column_known_later_stands_where_it_belongs_and_is_missing_elsewhere() -> None:
    table, later = Log(2), Log(2)
    for row in ((10, 20), (11, 21), (12, 22)):
        table.put(row)
    later.put((2, 7))
    later.put((0, 5))
    assert table.take({1: later}).tolist() == [[10, 11, 12], [5, -1, 7], [20, 21, 22]]


def test_several_columns_may_be_known_later() -> None:
    table, first, last = Log(1), Log(2), Log(2)
    table.put((10,))
    table.put((11,))
    first.put((1, 3))
    last.put((0, 4))
    assert table.take({0: first, 2: last}).tolist() == [[-1, 3], [10, 11], [4, -1]]
    assert table.take({0: first, 2: last}).shape == (3, 0)
