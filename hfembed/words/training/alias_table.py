"""Walker's alias method: draw from a discrete distribution with one table lookup."""

import numpy as np


def alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prepare to draw rows in proportion to their weights.

    Every row is a box of size 1 that holds its own share and is filled up with that of another row. Small rows (share
    below 1) are filled from the large ones in order; a large row that has given too much is filled from the next one.
    Cumulative sums tell which row fills which.

    Args:
        weights: float64 (vocab_size,), not negative, one of them positive.

    Returns:
        (threshold float32 (vocab_size,), alias int64 (vocab_size,)): draw a row uniformly, keep it with probability
        `threshold`, otherwise take its alias.
    """
    size = len(weights)
    shares = weights * (size / weights.sum())
    alias, threshold = np.arange(size), np.minimum(shares, 1)
    small, large = np.flatnonzero(shares < 1), np.flatnonzero(shares >= 1)
    needed = np.concatenate([[0], np.cumsum(1 - shares[small])])  # by the small before each
    spare = np.cumsum(shares[large] - 1)  # of each of the large and those before it
    alias[small] = large[np.searchsorted(spare, needed[:-1], side="right").clip(max=len(large) - 1)]
    # the last small row that a large one fills takes it below 1
    last = np.searchsorted(needed[:-1], spare, side="left")
    threshold[large] = (1 - (needed[last] - spare)).clip(0, 1)
    alias[large[:-1]] = large[1:]
    return threshold.astype(np.float32), alias
