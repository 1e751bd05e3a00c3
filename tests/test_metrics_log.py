import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvsim.metrics.log import Log, with_column

WORDS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=12))
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
    assert with_column(table.take(), 1, later).tolist() == [[10, 11, 12], [5, -1, 7], [20, 21, 22]]
