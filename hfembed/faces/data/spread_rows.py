"""Choose a few rows of many."""

import numpy as np


def spread_rows(total: int, count: int | None = None) -> np.ndarray:
    """Rows of a set of `total`, spread evenly from the first to the last.

    Args:
        total: Rows of the set.
        count: At most this many; all by default.

    Returns:
        (min(count, total),) int, ascending.
    """
    if count is None or count >= total:
        return np.arange(total)
    return np.linspace(0, total - 1, count).round().astype(int)
