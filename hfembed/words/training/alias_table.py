"""Walker's alias method: draw from a discrete distribution with one table look-up."""

import numpy as np


def alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prepare to draw rows in proportion to their weights.

    Every row is a box of size 1 that holds its own share and is filled up with somebody else's. Poor rows (share below
    1) are filled by the rich one after the other; a rich row that has given too much is filled by the next one. Who
    fills whom follows from cumulative sums alone.

    Args:
        weights: float64 (vocab_size,), not negative, one of them positive.

    Returns:
        (threshold float32 (vocab_size,), alias int64 (vocab_size,)): draw a row uniformly, keep it with probability
        `threshold`, else take its alias.
    """
    size = len(weights)
    shares = weights * (size / weights.sum())
    alias, threshold = np.arange(size), np.minimum(shares, 1)
    poor, rich = np.flatnonzero(shares < 1), np.flatnonzero(shares >= 1)
    needed = np.concatenate([[0], np.cumsum(1 - shares[poor])])  # by the poor before each
    spare = np.cumsum(shares[rich] - 1)  # of each of the rich and those before it
    alias[poor] = rich[np.searchsorted(spare, needed[:-1], side="right").clip(max=len(rich) - 1)]
    # the last poor row that each of the rich fills takes it below 1
    last = np.searchsorted(needed[:-1], spare, side="left")
    threshold[rich] = (1 - (needed[last] - spare)).clip(0, 1)
    alias[rich[:-1]] = rich[1:]
    return threshold.astype(np.float32), alias
