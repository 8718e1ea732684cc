"""Rows that are spread evenly."""

import pytest

from hfembed.faces.data.spread_rows import spread_rows


@pytest.mark.parametrize(
    ("total", "count", "rows"),
    [
        (5, None, [0, 1, 2, 3, 4]),
        (5, 9, [0, 1, 2, 3, 4]),
        (5, 3, [0, 2, 4]),
        (10, 4, [0, 3, 6, 9]),
        (5, 1, [0]),
        (0, 3, []),
    ],
)
def test_rows_are_spread_from_the_first_to_the_last(total, count, rows):
    assert spread_rows(total, count).tolist() == rows
